//! Reads through a split and a merge on the Kinesis servers of others, with workers that come, die and leave:
//! `cargo run -p kcl-tests --bin servers`. Each server is installed into the target folder; one that cannot be is left out, and said.

use std::process::ExitCode;

use clap::Parser;
use kcl_tests::fleet::drive::{Programs, ReadMode};
use kcl_tests::fleet::walk::walk;
use kcl_tests::handlers::walk_by_key;
use kcl_tests::testbed::Server;

/// Reads through a reshard on the Kinesis servers of others. Exit code 1: a server was left out; 101: a record was not seen.
#[derive(Debug, Parser)]
struct Arguments {
    /// The servers; all of them by default.
    servers: Vec<Server>,
    /// The modes of reading; both by default.
    #[arg(long)]
    read: Vec<ReadMode>,
    /// Walks with handlers in the order of each key, instead of a fleet of processes.
    #[arg(long)]
    handlers: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let or_all = |given: Vec<_>, all: &[_]| if given.is_empty() { all.to_vec() } else { given };
    let servers = or_all(
        arguments.servers,
        &[
            Server::KinesisMock,
            Server::Localstack,
            Server::Ferrokinesis,
            Server::Ministack,
        ],
    );
    let modes = match arguments.read {
        modes if modes.is_empty() => vec![ReadMode::Polling, ReadMode::FanOut],
        modes => modes,
    };
    let programs = (!arguments.handlers).then(Programs::build);
    let mut left_out = false;
    for server in servers {
        match server.start().await {
            Ok(started) => {
                let (testbed, keeps_unread) = (started.testbed(), server.keeps_unread());
                for mode in &modes {
                    let walked = match &programs {
                        Some(programs) => walk(testbed, programs, *mode, keeps_unread).await.to_string(),
                        None => {
                            let calls = walk_by_key(testbed, *mode, keeps_unread).await;
                            format!("{calls} calls of handlers, each key in order")
                        }
                    };
                    println!("{server}, {mode}: {walked}");
                }
            }
            Err(reason) => {
                eprintln!("LEFT OUT: {server}: {reason}");
                left_out = true;
            }
        }
    }
    if left_out {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
