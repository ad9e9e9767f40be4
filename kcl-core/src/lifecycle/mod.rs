//! The life of a shard consumer, decided: the table of its states, and the proof that it lives.

mod consumer;
mod progress;

pub use consumer::{ConsumerEnd, ConsumerEvent, ConsumerState, transition};
pub(crate) use progress::Progress;
pub use progress::{Activity, ProofOfLife, WaitReason, proof_of_life};
