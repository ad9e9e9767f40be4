//! Checks the large scopes, or those whose names hold one of the given words.
//!
//! ```sh
//! cargo run --release -p kcl-model --bin check -- [WORD...]
//! ```

use std::process::ExitCode;

use kcl_model::check::{Report, check};
use kcl_model::elections::Elections;
use kcl_model::fleet::Fleet;
use kcl_model::scopes;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let mut all_hold = true;
    let mut tell = |report: Report| {
        println!("{report}");
        all_hold &= report.holds();
    };
    for config in scopes::small().into_iter().chain(scopes::large()) {
        if is_wanted(config.name) {
            tell(check(config.name, Fleet::new(config)));
        }
    }
    for config in scopes::small_elections()
        .into_iter()
        .chain(scopes::large_elections())
    {
        if is_wanted(config.name) {
            tell(check(config.name, Elections::new(config)));
        }
    }
    if all_hold {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
