//! Checks the large worlds.

use std::process::ExitCode;

use kcl_model::cast::Lineage;
use kcl_model::check::check;
use kcl_model::fleet::{Budget, Config, Fleet};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let n = |i: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(0);
    let config = Config {
        name: "try",
        workers: 2,
        planners: n(1),
        lineage: Lineage::Open(n(2)),
        records: n(3),
        owner: None,
        cleanup: false,
        window: n(4),
        calm: 9,
        faults: Budget {
            crashes: n(5),
            restarts: n(6),
            freezes: n(7),
            lost: n(8),
            late: n(9),
            leaves: n(10),
            handoffs: n(11),
        },
        broken: None,
    };
    println!("{}", check(config.name, Fleet::new(config)));
    ExitCode::SUCCESS
}
