//! The external scaler, asked by a client in Python that was generated from the interface of KEDA.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kcl_core::lease_store::LeaseStore as _;
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_tests::command::PaperFleet;
use kcl_tests::testbed::grpc_python;
use kcl_tests::testbed_or_skip;
use kcl_tests::wait::eventually;
use serde_json::{Value, json};

use super::kcl;
use crate::lease_conformance::backends::Backend;

const INTERFACE: &str = include_str!("externalscaler.proto");
const CLIENT: &str = include_str!("keda_client.py");

/// Asks every method once.
fn ask(python: &Path, folder: &Path, address: &str, metadata: &str) -> Value {
    std::fs::write(folder.join("externalscaler.proto"), INTERFACE).unwrap();
    std::fs::write(folder.join("client.py"), CLIENT).unwrap();
    let generate = Command::new(python)
        .args([
            "-m",
            "grpc_tools.protoc",
            "-I.",
            "--python_out=.",
            "--grpc_python_out=.",
            "externalscaler.proto",
        ])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(generate.status.success(), "{generate:?}");
    let asked = Command::new(python)
        .args(["client.py", address, metadata])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    serde_json::from_slice(&asked.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn client_of_keda_gets_the_wanted_workers() {
    let testbed = testbed_or_skip!();
    let python = match grpc_python() {
        Ok(python) => python,
        Err(left_out) => {
            left_out.report(module_path!());
            return;
        }
    };
    let backend = Backend::all(&testbed, "kcl-keda").into_iter().next().unwrap();
    let app = backend.table.as_str();
    let store: DynamoLeaseStore = backend.prepared().await;
    let fleet = PaperFleet {
        shards: 6,
        workers: 2,
        stream: "trucks".to_owned(),
    };
    fleet.write(&store).await;
    assert_eq!(store.scan().await.unwrap().leases.len(), 6);

    let kcl = kcl(&testbed, "kcl-keda");
    // One worker a shard would be six; eight are the least, and no more than there are shards.
    let arguments = [
        "lag",
        app,
        "--scaler",
        "127.0.0.1:0",
        "--shards-per-worker",
        "1",
        "--min-workers",
        "8",
    ];
    let (mut scaler, _, complaint) = kcl.start(&arguments, "scaler");
    let address = eventually(Duration::from_secs(60), async || {
        let said = std::fs::read_to_string(&complaint).unwrap();
        let address = said
            .trim()
            .rsplit_once(" at ")
            .map(|(_, address)| address.to_owned());
        address.filter(|address| address.contains(':')).ok_or(said)
    })
    .await;
    let folder = testbed.scratch().join(testbed.unique("kcl-keda-client"));
    std::fs::create_dir_all(&folder).unwrap();
    let answers = ask(&python, &folder, &address, app);
    let expected = json!({
        "is_active": true,
        "first_of_stream": true,
        "specs": [["workers-wanted", 1, 1.0]],
        "values": [["workers-wanted", 6, 6.0]],
    });
    let refused = ask(&python, &folder, &address, "another-application");
    scaler.kill().unwrap();
    scaler.wait().unwrap();
    assert_eq!(answers, expected);
    assert_eq!(refused, json!({ "error": "INVALID_ARGUMENT" }));
}
