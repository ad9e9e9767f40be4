//! The life of a shard consumer, as a table: in each state it does one thing, and how that ends decides the next state.

use std::fmt;

use serde::Serialize;

/// The state of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerState {
    /// Waits until every parent of the shard is finished.
    AwaitingParents,
    /// Calls `initialize`.
    Initializing,
    /// Fetches and processes records.
    Running,
    /// Waits before the failed batch is tried again.
    Holding,
    /// Waits before a new processor takes the place of one that panicked.
    Rebuilding,
    /// Every record is processed: calls `shard_ended`.
    Ending,
    /// Waits until everything that was delivered is finished. With automatic checkpoints it is.
    AwaitingCheckpoints,
    /// Creates the leases of the children and stores the end.
    StoringEnd,
    /// Calls `shutdown_requested` and stores the last checkpoint.
    Draining,
    /// Hands the lease over, or releases it.
    Leaving,
    /// Calls `lease_lost`.
    Losing,
    /// Nothing any more.
    #[serde(untagged)]
    Done(ConsumerEnd),
}

/// How a consumer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerEnd {
    /// The shard is processed to its end, and that is stored.
    ShardEnded,
    /// The lease was handed over to the next owner.
    HandedOver,
    /// The lease was released and has no owner.
    Released,
    /// Another worker has the lease.
    Lost,
    /// The lease could not be given up in time, and expires.
    Expires,
}

/// How the activity of a state ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConsumerEvent {
    /// Every parent is finished.
    ParentsFinished,
    /// The callback returned `Ok`.
    CallReturned,
    /// The callback returned an error.
    CallFailed,
    /// The callback panicked.
    Panicked,
    /// The pause after a failure is over.
    RetryDue,
    /// The last record of a closed shard is processed.
    Exhausted,
    /// Everything that was delivered is finished, or the processor said that it need not be.
    AllFinished,
    /// The end of the shard is stored.
    EndStored,
    /// The consumer made no progress and must begin again at the source.
    ReopenRequested,
    /// The lease is to be given up.
    DrainRequested,
    /// The lease was handed over.
    HandedOver,
    /// The lease was released.
    Released,
    /// Another worker has the lease.
    LeaseLost,
    /// The time is up: what runs was dropped.
    Aborted,
}

impl ConsumerState {
    /// Every state, for tests and for drawing the table.
    pub const ALL: [Self; 16] = [
        Self::AwaitingParents,
        Self::Initializing,
        Self::Running,
        Self::Holding,
        Self::Rebuilding,
        Self::Ending,
        Self::AwaitingCheckpoints,
        Self::StoringEnd,
        Self::Draining,
        Self::Leaving,
        Self::Losing,
        Self::Done(ConsumerEnd::ShardEnded),
        Self::Done(ConsumerEnd::HandedOver),
        Self::Done(ConsumerEnd::Released),
        Self::Done(ConsumerEnd::Lost),
        Self::Done(ConsumerEnd::Expires),
    ];
}

impl ConsumerEvent {
    /// Every event.
    pub const ALL: [Self; 14] = [
        Self::ParentsFinished,
        Self::CallReturned,
        Self::CallFailed,
        Self::Panicked,
        Self::RetryDue,
        Self::Exhausted,
        Self::AllFinished,
        Self::EndStored,
        Self::ReopenRequested,
        Self::DrainRequested,
        Self::HandedOver,
        Self::Released,
        Self::LeaseLost,
        Self::Aborted,
    ];
}

/// The state after the event, or `None` when the event cannot happen in the state.
///
/// A processor that was never initialized sees no further callback; the end of a shard waits until everything delivered is finished, and
/// is stored before anything else may happen to the consumer; a lost lease outranks everything that is not finished.
pub fn transition(state: ConsumerState, event: ConsumerEvent) -> Option<ConsumerState> {
    use ConsumerEnd as End;
    use ConsumerEvent as On;
    use ConsumerState::{
        AwaitingCheckpoints, AwaitingParents, Done, Draining, Ending, Holding, Initializing, Leaving, Losing,
        Rebuilding, Running, StoringEnd,
    };
    Some(match (state, event) {
        (AwaitingParents, On::ParentsFinished) => Initializing,

        (Initializing, On::CallReturned) => Running,
        (Initializing, On::CallFailed) => Initializing,
        (Initializing, On::Panicked) => Rebuilding,

        (Running, On::CallFailed) => Holding,
        (Running, On::Panicked) => Rebuilding,
        (Running, On::Exhausted) => Ending,

        (Holding, On::RetryDue) => Running,
        (Rebuilding, On::RetryDue) => Initializing,

        (Ending, On::CallReturned) => AwaitingCheckpoints,
        (Ending, On::CallFailed) => Ending,
        (Ending, On::Panicked) => Rebuilding,

        (AwaitingCheckpoints, On::AllFinished) => StoringEnd,
        // A tick failed: the records are still the processor's.
        (AwaitingCheckpoints, On::CallFailed) => AwaitingCheckpoints,
        (AwaitingCheckpoints, On::Panicked) => Rebuilding,

        (StoringEnd, On::EndStored) => Done(End::ShardEnded),
        // While the end cannot be stored, the next owner may try as well as this one; it sees the end again.
        (StoringEnd, On::DrainRequested) => Leaving,

        (Draining, On::CallReturned | On::CallFailed | On::Panicked) => Leaving,

        // The time was up while the end was being stored, and it was stored even so.
        (Leaving, On::EndStored) => Done(End::ShardEnded),
        (Leaving, On::HandedOver) => Done(End::HandedOver),
        (Leaving, On::Released) => Done(End::Released),
        (Leaving, On::LeaseLost) => Done(End::Lost),
        (Leaving, On::Aborted) => Done(End::Expires),

        (Losing, On::CallReturned | On::Panicked | On::Aborted) => Done(End::Lost),

        // Only a running consumer has something to open again; a request that comes late is no harm.
        (
            AwaitingParents | Initializing | Running | Holding | Rebuilding | Ending | AwaitingCheckpoints,
            On::ReopenRequested,
        ) => state,

        // No processor, or none that was initialized: nothing to call.
        (AwaitingParents | Initializing | Rebuilding, On::DrainRequested) => Leaving,
        (AwaitingParents | Initializing | Rebuilding, On::LeaseLost) => Done(End::Lost),

        (Running | Holding | Ending | AwaitingCheckpoints, On::DrainRequested) => Draining,
        (Running | Holding | Ending | AwaitingCheckpoints | StoringEnd | Draining, On::LeaseLost) => Losing,

        (
            AwaitingParents | Initializing | Running | Holding | Rebuilding | Ending | AwaitingCheckpoints
            | StoringEnd | Draining,
            On::Aborted,
        ) => Leaving,

        (
            AwaitingParents | Initializing | Running | Holding | Rebuilding | Ending | AwaitingCheckpoints
            | StoringEnd | Draining | Leaving | Losing | Done(_),
            _,
        ) => return None,
    })
}

impl fmt::Display for ConsumerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AwaitingParents => "awaiting parents",
            Self::Initializing => "initializing",
            Self::Running => "running",
            Self::Holding => "holding",
            Self::Rebuilding => "rebuilding",
            Self::Ending => "ending",
            Self::AwaitingCheckpoints => "awaiting checkpoints",
            Self::StoringEnd => "storing the end",
            Self::Draining => "draining",
            Self::Leaving => "leaving",
            Self::Losing => "losing",
            Self::Done(end) => return end.fmt(f),
        })
    }
}

impl fmt::Display for ConsumerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShardEnded => "shard ended",
            Self::HandedOver => "handed over",
            Self::Released => "released",
            Self::Lost => "lost",
            Self::Expires => "expires",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The whole table, one line per state. A change of the life of a consumer is a change of this text.
    const TABLE: &str = "\
awaiting parents: ParentsFinished -> initializing, ReopenRequested -> awaiting parents, DrainRequested -> leaving, LeaseLost -> lost, Aborted -> leaving
initializing: CallReturned -> running, CallFailed -> initializing, Panicked -> rebuilding, ReopenRequested -> initializing, DrainRequested -> leaving, LeaseLost -> lost, Aborted -> leaving
running: CallFailed -> holding, Panicked -> rebuilding, Exhausted -> ending, ReopenRequested -> running, DrainRequested -> draining, LeaseLost -> losing, Aborted -> leaving
holding: RetryDue -> running, ReopenRequested -> holding, DrainRequested -> draining, LeaseLost -> losing, Aborted -> leaving
rebuilding: RetryDue -> initializing, ReopenRequested -> rebuilding, DrainRequested -> leaving, LeaseLost -> lost, Aborted -> leaving
ending: CallReturned -> awaiting checkpoints, CallFailed -> ending, Panicked -> rebuilding, ReopenRequested -> ending, DrainRequested -> draining, LeaseLost -> losing, Aborted -> leaving
awaiting checkpoints: CallFailed -> awaiting checkpoints, Panicked -> rebuilding, AllFinished -> storing the end, ReopenRequested -> awaiting checkpoints, DrainRequested -> draining, LeaseLost -> losing, Aborted -> leaving
storing the end: EndStored -> shard ended, DrainRequested -> leaving, LeaseLost -> losing, Aborted -> leaving
draining: CallReturned -> leaving, CallFailed -> leaving, Panicked -> leaving, LeaseLost -> losing, Aborted -> leaving
leaving: EndStored -> shard ended, HandedOver -> handed over, Released -> released, LeaseLost -> lost, Aborted -> expires
losing: CallReturned -> lost, Panicked -> lost, Aborted -> lost
shard ended:
handed over:
released:
lost:
expires:
";

    #[test]
    fn every_edge_is_as_the_table_says() {
        let mut table = String::new();
        for state in ConsumerState::ALL {
            let edges = ConsumerEvent::ALL
                .into_iter()
                .filter_map(|event| transition(state, event).map(|next| format!(" {event:?} -> {next}")))
                .collect::<Vec<_>>()
                .join(",");
            table += &format!("{state}:{edges}\n");
        }
        assert_eq!(table, TABLE);
    }

    #[test]
    fn every_unfinished_state_ends_when_time_is_up() {
        for state in ConsumerState::ALL {
            let mut now = state;
            for _ in 0..3 {
                now = transition(now, ConsumerEvent::Aborted).unwrap_or(now);
            }
            assert!(matches!(now, ConsumerState::Done(_)), "{state} stays {now}");
        }
    }

    #[test]
    fn every_unfinished_state_ends_when_lease_is_lost() {
        for state in ConsumerState::ALL
            .into_iter()
            .filter(|state| !matches!(state, ConsumerState::Done(_)))
        {
            let next = transition(state, ConsumerEvent::LeaseLost);
            let losing = [
                Some(ConsumerState::Losing),
                Some(ConsumerState::Done(ConsumerEnd::Lost)),
            ];
            assert!(
                losing.contains(&next) || state == ConsumerState::Losing,
                "{state}"
            );
        }
    }

    #[test]
    fn every_state_can_be_reached() {
        let mut reached = BTreeSet::from([ConsumerState::AwaitingParents]);
        for _ in 0..ConsumerState::ALL.len() {
            let next = reached
                .iter()
                .flat_map(|state| ConsumerEvent::ALL.map(|event| transition(*state, event)));
            let next: Vec<_> = next.flatten().collect();
            reached.extend(next);
        }
        assert_eq!(reached.len(), ConsumerState::ALL.len());
    }
}
