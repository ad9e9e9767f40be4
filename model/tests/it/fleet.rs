//! The small scopes of the fleet: everything holds, and what is worth reaching is reached.

use kcl_model::check::check;
use kcl_model::fleet::Fleet;
use kcl_model::scopes;

#[test]
fn every_small_scope_holds_in_every_order() {
    for config in scopes::small() {
        let report = check(config.name, Fleet::new(config));
        println!("{report}");
        assert!(report.holds(), "{report}");
    }
}
