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

use kcl_tests::command::Kcl;
use kcl_tests::testbed::Testbed;

/// The command on this testbed, in a folder of the test's own.
fn kcl(testbed: &Testbed, test: &str) -> Kcl {
    let folder = testbed.scratch().join(testbed.unique(test));
    Kcl::build(&folder, testbed.environment(), false)
}
