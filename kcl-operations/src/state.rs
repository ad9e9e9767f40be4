//! The state of a shard in one word, and the rule that gives it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// The state of a shard, as the table shows it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
#[non_exhaustive]
pub enum ShardState {
    /// Its owner works on it and keeps up.
    Ok,
    /// Its owner works on it and is further behind than [`Thresholds::lagging`].
    Lagging,
    /// Its owner is silent, or makes no progress and names nothing that it waits for.
    Stalled,
    /// It is held at a record that cannot be processed, or at a gap.
    Held,
    /// An operator ordered a pause, or the application paused it.
    Paused,
    /// Its parents are not finished.
    WaitingForParent,
    /// It is processed to its end.
    Ended,
    /// No worker has its lease.
    Unowned,
    /// The row does not say how its owner gets on: a Java worker wrote it, or one without reports.
    Unknown,
}

impl ShardState {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Lagging,
        Self::Stalled,
        Self::Held,
        Self::Paused,
        Self::WaitingForParent,
        Self::Ended,
        Self::Unowned,
        Self::Unknown,
    ];

    /// The word as it is printed, such as `WAITING-FOR-PARENT`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Lagging => "LAGGING",
            Self::Stalled => "STALLED",
            Self::Held => "HELD",
            Self::Paused => "PAUSED",
            Self::WaitingForParent => "WAITING-FOR-PARENT",
            Self::Ended => "ENDED",
            Self::Unowned => "UNOWNED",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Returns `true` for the states that do not end without help: `STALLED`, `HELD` and `UNOWNED`.
    pub fn is_stuck(self) -> bool {
        matches!(self, Self::Stalled | Self::Held | Self::Unowned)
    }

    /// The rule that gives the state, with these thresholds. The rules are tried in the order ended, unowned or waiting, silent owner, held,
    /// paused, waiting, no progress, lagging, ok; the first that holds counts.
    pub fn rule(self, thresholds: &Thresholds) -> String {
        let secs = |limit: Duration| crate::text::duration_text(limit);
        match self {
            Self::Ok => format!("its owner reports, and is at most {} behind", secs(thresholds.lagging)),
            Self::Lagging => format!(
                "its owner makes progress, and is more than {} behind the newest record",
                secs(thresholds.lagging)
            ),
            Self::Stalled => format!(
                "the row of its owner is gone, or that row or the report of the shard is older than {} failover times and {} (by the clock of \
                 this host), or the owner reports no progress for {} and nothing that it waits for, or a concern with which it does not go on",
                Thresholds::SILENT_FAILOVERS,
                secs(thresholds.silent),
                secs(thresholds.stalled)
            ),
            Self::Held => {
                "its owner holds it at a failure, at a dead letter that is not acknowledged, or at a gap that retention made".to_owned()
            }
            Self::Paused => "an operator ordered a pause, or its owner reports that it is paused".to_owned(),
            Self::WaitingForParent => "a parent of the shard has a lease that is not at SHARD_END".to_owned(),
            Self::Ended => "its checkpoint is SHARD_END".to_owned(),
            Self::Unowned => "the lease names no owner, and its parents are finished".to_owned(),
            Self::Unknown => {
                "the lease has an owner, and its row carries no report: a Java worker wrote it last, or a worker without reports; the lag was not \
                 measured either"
                    .to_owned()
            }
        }
    }
}

impl fmt::Display for ShardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The limits between the states.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Thresholds {
    /// How far behind a shard is LAGGING: 60 s.
    pub lagging: Duration,
    /// How long a shard without progress and without a wait reason is called STALLED: 120 s.
    pub stalled: Duration,
    /// How much longer than [three failover times](Self::SILENT_FAILOVERS) a worker's row may stand still: 30 s. It covers the difference of
    /// the clocks of that worker and of this host, which the wall times in the table rest on.
    pub silent: Duration,
}

impl Thresholds {
    /// How many failover times a worker's row may stand still, beside [`silent`](Self::silent).
    pub const SILENT_FAILOVERS: u32 = 3;

    /// How long the row of a worker with this failover time may stand still; one that shows none counts with the Java KCL's 30 s between
    /// reports.
    pub fn silence(&self, failover: Option<Duration>) -> Duration {
        let failover = failover.unwrap_or(Duration::from_secs(30));
        failover
            .saturating_mul(Self::SILENT_FAILOVERS)
            .saturating_add(self.silent)
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            lagging: Duration::from_secs(60),
            stalled: Duration::from_secs(120),
            silent: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_serialized_as_its_word() {
        for state in ShardState::ALL {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{}\"", state.word()));
            assert!(!state.rule(&Thresholds::default()).is_empty());
        }
    }

    #[test]
    fn silence_follows_the_failover_time() {
        let thresholds = Thresholds::default();
        let silence = |secs| thresholds.silence(Some(Duration::from_secs(secs)));
        assert_eq!(silence(10), Duration::from_secs(60));
        assert_eq!(thresholds.silence(None), Duration::from_secs(120));
    }
}
