//! The small worlds of the offices.

use kcl_model::check::check;
use kcl_model::offices::Offices;
use kcl_model::worlds;

#[test]
fn every_small_world_of_the_offices_holds_in_every_order() {
    for config in worlds::small_offices() {
        let report = check(config.name, Offices::new(config));
        println!("{report}");
        assert!(report.holds(), "{report}");
    }
}
