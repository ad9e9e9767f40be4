//! The life of a shard consumer, decided: the table of its states, the proof that it lives, and how far behind it is.

mod backlog;
mod consumer;
mod progress;

pub use backlog::Behind;
pub(crate) use backlog::{Answer, Backlog};
pub use consumer::{ConsumerEnd, ConsumerEvent, ConsumerState, transition};
pub(crate) use progress::Progress;
pub use progress::{Activity, ProofOfLife, WaitReason, proof_of_life};
