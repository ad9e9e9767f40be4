//! The ledger of what was sent and processed, and the verdict on it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kcl_testkit::invariant::{DeliveryLog, Invariant, Process, Tally, Violation};
use kinesis_client::processor::ShardContext;
use kinesis_client::types::{LeaseKey, Record, RecordPosition, SequenceNumber, ShardId};

/// Everything sent and processed, in order.
#[derive(Debug, Default)]
pub struct Ledger {
    log: Mutex<DeliveryLog>,
}

impl Ledger {
    /// Notes that a record was put.
    pub fn sent(&self, shard: &ShardId, number: SequenceNumber) {
        let position = RecordPosition::plain(number);
        self.log().put(&LeaseKey::single_stream(shard), &position);
    }

    /// Notes that a worker began to read the shard.
    pub fn began(&self, shard: &ShardContext) {
        let token = Some(shard.fencing_token());
        self.log().begin(&process(shard), shard.lease(), token, None);
    }

    /// Notes that a record was processed.
    pub fn processed(&self, shard: &ShardContext, record: &Record) {
        self.log()
            .deliver(&process(shard), shard.lease(), record.position(), Duration::ZERO);
    }

    /// Returns how many records were put, and how many different ones were processed.
    pub fn counts(&self) -> (usize, usize) {
        let log = self.log();
        (log.records(), log.delivered())
    }

    /// Judges everything so far. `children` names each child shard with its parents.
    pub fn judge(&self, children: &[(ShardId, BTreeSet<ShardId>)]) -> Verdict {
        let mut log = self.log();
        for (child, parents) in children {
            let parents = parents.iter().map(LeaseKey::single_stream);
            log.open(&LeaseKey::single_stream(child), parents);
        }
        Verdict {
            put: log.records(),
            processed: log.delivered(),
            lost: log.lost().count(),
            invented: log.invented().count(),
            children: children.len(),
            outcome: log.verdict(),
        }
    }

    fn log(&self) -> MutexGuard<'_, DeliveryLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn process(shard: &ShardContext) -> Process {
    shard.worker().as_str().into()
}

/// The fate of the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How many were put.
    pub put: usize,
    /// How many different ones were processed.
    pub processed: usize,
    /// How many were put and never processed.
    pub lost: usize,
    /// How many were processed and never put.
    pub invented: usize,
    /// How many child shards there are.
    pub children: usize,
    /// The counts, or what was broken first.
    pub outcome: Result<Tally, Violation>,
}

impl Verdict {
    /// Returns `true` if everything is as it should be, and there was something to look at.
    pub fn is_good(&self) -> bool {
        self.put > 0 && self.invented == 0 && self.outcome.is_ok()
    }

    fn breaks(&self, invariant: Invariant) -> bool {
        let violation = self.outcome.as_ref().err();
        violation.is_some_and(|violation| violation.invariant == invariant)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |good: bool| if good { "ok  " } else { "FAIL" };
        let complete = self.lost == 0 && self.invented == 0;
        writeln!(
            f,
            "  {} {} positions put, {} processed, {} lost",
            mark(complete),
            self.put,
            self.processed,
            self.lost
        )?;
        let in_order = !self.breaks(Invariant::InOrder);
        writeln!(
            f,
            "  {} order kept in every shard, and so for every truck",
            mark(in_order)
        )?;
        writeln!(
            f,
            "  {} {} child shards began after their parents were finished",
            mark(!self.breaks(Invariant::ParentsFirst)),
            self.children
        )?;
        match &self.outcome {
            Ok(tally) => write!(
                f,
                "       {} positions were processed again after the kill",
                tally.redelivered
            ),
            Err(violation) => write!(f, "  FAIL {violation}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_without_positions_proves_nothing() {
        assert!(!Ledger::default().judge(&[]).is_good());
    }

    #[test]
    fn lost_position_fails_the_verdict() {
        let ledger = Ledger::default();
        ledger.sent(&ShardId::new("shardId-0").unwrap(), SequenceNumber::from(1));
        let verdict = ledger.judge(&[]);
        assert_eq!((verdict.lost, verdict.is_good()), (1, false));
        assert!(
            verdict
                .to_string()
                .contains("FAIL 1 positions put, 0 processed, 1 lost")
        );
    }
}
