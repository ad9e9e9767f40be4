//! The small worlds of the fleet: everything holds, and what is worth reaching is reached.

use kcl_model::check::check;
use kcl_model::fleet::Fleet;
use kcl_model::worlds;

#[test]
fn every_small_world_holds_in_every_order() {
    for config in worlds::small() {
        let report = check(config.name, Fleet::new(config));
        println!("{report}");
        assert!(report.holds(), "{report}");
    }
}
