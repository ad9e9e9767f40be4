//! Reads settings from a file, with every field optional, and reports everything that is wrong at once.
//!
//! `cargo run -p kcl-examples --example settings_file`

use kinesis_client::settings::Settings;

const FILE: &str = r#"{
    "leases": { "failover_time": "5s" },
    "checkpoints": { "interval": "2s" },
    "reading": { "initial_position": "latest" },
    "memory": { "budget": "64MiB" },
    "assignment": { "max_leases": 20, "strategy": { "throughput": { "band_percent": 10, "damping_percent": 60 } } },
    "shutdown": { "drain_timeout": "1m 30s" },
    "metrics": { "worker_label": "blue" }
}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings: Settings = serde_json::from_str(FILE)?;
    settings.validate()?; // `WorkerBuilder::build` does it, too
    println!("{}", serde_json::to_string_pretty(&settings)?);

    let wrong: Settings = serde_json::from_str(
        r#"{ "leases": { "failover_time": "50ms" }, "assignment": { "max_leases": 0 } }"#,
    )?;
    if let Err(invalid) = wrong.validate() {
        for violation in invalid.violations() {
            println!("- {violation}");
        }
    }
    Ok(())
}
