use std::fmt;

use serde::Serialize;

/// The reasons for which a consumer may wait without being stuck. Waiting for the network is not among it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitReason {
    /// The parents of the shard are not finished.
    Parents,
    /// `initialize` runs.
    Initialize,
    /// Another user callback runs.
    Callback,
    /// `tick` runs.
    Tick,
    /// The shard is held after an error of user code.
    Hold,
    /// The service, or the user, asked for a slower pace.
    RateLimit,
    /// The user paused the shard.
    Paused,
    /// The worker holds as many bytes of records as it may.
    ByteBudget,
    /// The worker is about to give the lease up.
    Draining,
    /// The lease could not be renewed in time.
    Suspended,
    /// The shard has ended, and not every record that was delivered is checkpointed by the user's code.
    Checkpoints,
    /// The dead-letter sink has not acknowledged a record that is set aside.
    DeadLetter,
    /// Retention took records that were not read, and an operator has not accepted that. See
    /// [`RetentionGap::Hold`](crate::settings::RetentionGap::Hold).
    Gap,
}

impl WaitReason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Parents,
        Self::Initialize,
        Self::Callback,
        Self::Tick,
        Self::Hold,
        Self::RateLimit,
        Self::Paused,
        Self::ByteBudget,
        Self::Draining,
        Self::Suspended,
        Self::Checkpoints,
        Self::DeadLetter,
        Self::Gap,
    ];
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parents => "parents",
            Self::Initialize => "initialize",
            Self::Callback => "callback",
            Self::Tick => "tick",
            Self::Hold => "hold",
            Self::RateLimit => "rate limit",
            Self::Paused => "paused",
            Self::ByteBudget => "byte budget",
            Self::Draining => "draining",
            Self::Suspended => "suspended",
            Self::Checkpoints => "checkpoints",
            Self::DeadLetter => "dead letter",
            Self::Gap => "gap",
        })
    }
}
