//! `kcl`, the command, as a process: on a running fleet, on tables of Java, on thousands of rows, and before KEDA.

mod dashboard;
mod doctor;
mod fleet;
mod java;
mod keda;
mod orders;
mod places;
mod scripted;
mod streams;

use std::time::Duration;

use kcl_core::lease_store::{LeaseStore as _, Preparation};
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_tests::command::Kcl;
use kcl_tests::testbed::Testbed;

/// How long a machine that compiles beside the test may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// The command on this testbed, in a folder of the test's own.
fn kcl(testbed: &Testbed, test: &str) -> Kcl {
    let folder = testbed.scratch().join(testbed.unique(test));
    Kcl::build(&folder, testbed.environment(), false)
}

/// The store of an application whose table is there, and empty.
async fn prepared(testbed: &Testbed, app: &str) -> DynamoLeaseStore {
    let store = DynamoLeaseStore::new(&testbed.dynamo_config(), app).request_timeout(PATIENCE);
    let preparation = Preparation {
        application: app.parse().unwrap(),
        worker: "worker-00.trucks.example".parse().unwrap(),
        within: PATIENCE,
        take_over_java: false,
    };
    store.prepare(&preparation).await.unwrap();
    store
}
