//! The parts that the cross-crate suites share: a [testbed] of Kinesis and DynamoDB servers, [fleets](fleet) of processes, [chaos] for them, and [waiting](wait) for conditions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is test code: a panic is how it reports"
)]

pub mod chaos;
pub mod command;
pub mod deploy;
pub mod exactly_once;
pub mod exposition;
pub mod figures;
pub mod fleet;
pub mod foreign;
pub mod handlers;
pub mod java_conformance;
pub mod prose;
pub mod testbed;
pub mod wait;

/// The documents whose code is compiled, and run where it does not say otherwise: no published crate has all that they use.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../README.md")]
    struct Readme;

    #[doc = include_str!("../../docs/testing.md")]
    struct TestingGuide;

    #[doc = include_str!("../../docs/handlers.md")]
    struct HandlersGuide;

    #[doc = include_str!("../../docs/operations.md")]
    struct OperationsGuide;

    #[doc = include_str!("../../docs/coming-from-java.md")]
    struct MigrationGuide;

    #[doc = include_str!("../../docs/exactly-once.md")]
    struct ExactlyOnceGuide;

    #[doc = include_str!("../../docs/files.md")]
    struct FilesGuide;

    #[doc = include_str!("../../docs/failures.md")]
    struct FailuresGuide;

    #[doc = include_str!("../../docs/checkpoints.md")]
    struct CheckpointsGuide;

    #[doc = include_str!("../../docs/windows.md")]
    struct WindowsGuide;

    #[doc = include_str!("../../docs/tuning.md")]
    struct TuningGuide;
}
