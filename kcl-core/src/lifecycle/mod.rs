//! The life of a shard consumer, decided: the table of its states, the proof that it lives, how far behind it is, and
//! whether the runtime that it lives on runs at all.

mod backlog;
mod consumer;
mod progress;
mod pulse;

pub use backlog::Behind;
pub(crate) use backlog::{Answer, Backlog};
pub use consumer::{ConsumerEnd, ConsumerEvent, ConsumerState, transition};
pub(crate) use progress::Progress;
pub use progress::{Activity, ProofOfLife, WaitReason, proof_of_life};
pub(crate) use pulse::{OnThread, Pulse, Standstill};
