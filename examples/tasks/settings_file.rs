//! Reads settings from a file, with every field optional, and reports everything that is wrong at once.
//!
//! `cargo run -p kcl-examples --example settings_file`

use kinesis_client::settings::Settings;

const FILE: &str = r#"{
    "failover_time": "5s",
    "checkpoint_interval": "2s",
    "max_leases": 20,
    "drain_timeout": "1m 30s",
    "initial_position": "latest",
    "assignment": { "strategy": { "throughput": { "band_percent": 10, "damping_percent": 60 } } },
    "metrics": { "worker_label": "blue" }
}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings: Settings = serde_json::from_str(FILE)?;
    settings.validate()?; // `WorkerBuilder::build` does it, too
    println!("{}", serde_json::to_string_pretty(&settings)?);

    let wrong: Settings = serde_json::from_str(r#"{ "failover_time": "50ms", "max_leases": 0 }"#)?;
    if let Err(invalid) = wrong.validate() {
        for violation in invalid.violations() {
            println!("- {violation}");
        }
    }
    Ok(())
}
