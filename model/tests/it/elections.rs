//! The small scopes of the elections.

use kcl_model::check::check;
use kcl_model::elections::Elections;
use kcl_model::scopes;

#[test]
fn every_small_scope_of_elections_holds() {
    for config in scopes::small_elections() {
        let report = check(config.name, Elections::new(config));
        println!("{report}");
        assert!(report.holds(), "{report}");
    }
}
