//! Lets clients that are not ours read from the wire server of the test kit, through a split and a merge:
//! `cargo run -p kcl-tests --bin foreign-clients`. Names after `--` choose some of them (`boto3`, `fan-out`, `java`).
//! Needs Python 3, Node.js and, for those that keep leases, the emulators of the tests.

use std::process::ExitCode;

use kcl_tests::foreign::{self, Client, Outcome};
use kcl_tests::java_conformance;
use kcl_tests::testbed::Testbed;

#[tokio::main]
async fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).map(|name| name.to_lowercase()).collect();
    let chosen =
        |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.to_lowercase().contains(part));
    let clients = Client::ALL
        .into_iter()
        .filter(|client| chosen(&client.to_string()));
    let clients: Vec<Client> = clients.collect();
    let testbed = match Testbed::get().await {
        Ok(testbed) => Some(testbed),
        Err(left_out) => {
            println!("without DynamoDB: {left_out}");
            None
        }
    };
    let (mut complete, mut left_out, mut incomplete) = (0, 0, 0);
    for client in clients {
        let outcome = foreign::run(client, testbed.as_ref()).await;
        println!("{client}: {outcome}");
        match outcome {
            Outcome::Complete { .. } => complete += 1,
            Outcome::LeftOut(_) => left_out += 1,
            Outcome::Incomplete(_) => incomplete += 1,
        }
    }
    if chosen("Java KCL") {
        // What it does not see is a panic, with the reason.
        match &testbed {
            Some(testbed) => match java_conformance::run(testbed).await {
                Ok(verdicts) => {
                    complete += verdicts.len();
                    verdicts
                        .iter()
                        .for_each(|verdict| println!("Java KCL, {verdict}"));
                }
                Err(lack) => {
                    println!("Java KCL: LEFT OUT: {lack}");
                    left_out += 1;
                }
            },
            None => {
                println!("Java KCL: LEFT OUT: it keeps its leases in DynamoDB, and none can be had here");
                left_out += 1;
            }
        }
    }
    println!("{complete} complete, {left_out} left out, {incomplete} incomplete");
    if incomplete == 0 && complete > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
