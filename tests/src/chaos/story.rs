//! What the workers logged, told to the [`Checker`] of the core.
//!
//! It is told shard by shard, parents first, and of each shard one ownership after the other in the order of their tokens. So it says
//! nothing of the true order of time between shards and workers, which the fleets' [oracle](crate::fleet::oracle) looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::clock::{Clock as _, Moment, TokioClock};
use kcl_core::lease_store::{Expect, Lease, LeaseChange, RowFacts};
use kcl_core::processor::FencingToken;
use kcl_core::types::{Incarnation, LeaseKey, Position, RecordPosition, ShardId, WorkerId};
use kcl_testkit::invariant::{Checker, Observation, Process, Tally, Violation, Written};

use super::table::Table;
use crate::fleet::log::{Entry, Event};
use crate::fleet::oracle::Evidence;

/// One worker's time with one shard, by its log.
#[derive(Debug, Clone, PartialEq)]
pub struct Ownership {
    /// The number of the log: the run of the process.
    pub log: usize,
    /// The worker's id.
    pub worker: String,
    /// The shard.
    pub shard: String,
    /// The token.
    pub token: u64,
    /// What was delivered, and when: in seconds since 1970.
    pub records: Vec<(RecordPosition, f64)>,
}

impl Ownership {
    /// Whether a processor was made once more for the same ownership.
    fn goes_on_with(&self, before: &Self) -> bool {
        (self.log, &self.shard, self.token) == (before.log, &before.shard, before.token)
    }
}

/// The ownerships that nobody saw begin in the table: the proxies must have missed a write.
pub fn unseen(ownerships: &[Ownership], table: &Table) -> Vec<String> {
    let unseen = ownerships
        .iter()
        .filter(|own| table.checkpoint_at(&own.shard, own.token).is_none());
    unseen
        .map(|own| {
            format!(
                "{} has the token {} for {}, and no write stored it",
                own.worker, own.token, own.shard
            )
        })
        .collect()
}

/// The ownerships in the logs, in the order of their tokens; `tokens` has those of each log in the order of its beginnings.
///
/// # Panics
///
/// When the tokens are not those of the logs.
pub fn ownerships(logs: &[Vec<Entry>], tokens: &[Vec<u64>]) -> Vec<Ownership> {
    let mut all = Vec::new();
    for (log, (entries, tokens)) in logs.iter().zip(tokens).enumerate() {
        let mut tokens = tokens.iter();
        let mut current: BTreeMap<&str, Ownership> = BTreeMap::new();
        for entry in entries {
            match &entry.event {
                Event::Initialized => {
                    let began = Ownership {
                        log,
                        worker: entry.worker.clone(),
                        shard: entry.shard.clone(),
                        token: *tokens.next().expect("a token for each beginning"),
                        records: Vec::new(),
                    };
                    all.extend(current.insert(&entry.shard, began));
                }
                Event::Record { sequence, .. } => {
                    if let Some(own) = current.get_mut(entry.shard.as_str()) {
                        own.records.push((sequence.position(), entry.time));
                    }
                }
                Event::LeaseLost | Event::ShardEnded | Event::ShutdownRequested => {}
            }
        }
        all.extend(current.into_values());
    }
    all.sort_by(|one, other| (&one.shard, one.token, one.log).cmp(&(&other.shard, other.token, other.log)));
    all
}

/// Checks what is to hold when all is over: that no record is lost (I1), that tokens rise (I5), that each ownership starts at or before its
/// checkpoint and takes every record in order (I8), and that no child overtakes its parents (I9).
///
/// # Errors
///
/// The first violation.
pub fn check(evidence: &Evidence, ownerships: &[Ownership], table: &Table) -> Result<Tally, Violation> {
    let mut teller = Teller::new();
    let mut shards: BTreeSet<&str> = evidence.puts.iter().map(|put| put.shard.as_str()).collect();
    shards.extend(ownerships.iter().map(|own| own.shard.as_str()));
    for shard in &shards {
        let parents = evidence.lineage.get(*shard).into_iter().flatten();
        teller.see(&Observation::ShardOpened {
            shard: key(shard),
            parents: parents.map(|parent| key(parent)).collect(),
        })?;
    }
    for put in &evidence.puts {
        teller.see(&Observation::Put {
            shard: key(&put.shard),
            position: put.sequence.position(),
        })?;
    }
    // The ids of child shards are larger than those of their parents, so this is the order of the lineage.
    let mut before: Option<&Ownership> = None;
    for own in ownerships {
        let same = before.is_some_and(|before| own.goes_on_with(before));
        let checkpoint = table.checkpoint_at(&own.shard, own.token).cloned();
        teller.ownership(own, checkpoint.filter(|_| !same), same)?;
        before = Some(own);
    }
    teller.checker.at_rest()?;
    Ok(teller.checker.tally())
}

/// The longest time in which a former owner still delivered records of a shard after the next had begun to, in seconds.
pub fn longest_overlap(ownerships: &[Ownership]) -> f64 {
    let mut longest: f64 = 0.0;
    for pair in ownerships
        .windows(2)
        .filter(|pair| pair[0].shard == pair[1].shard)
    {
        if let (Some((_, last)), Some((_, first))) = (pair[0].records.last(), pair[1].records.first()) {
            longest = longest.max(last - first);
        }
    }
    longest
}

struct Teller {
    checker: Checker,
    now: Moment,
}

impl Teller {
    fn new() -> Self {
        Self {
            checker: Checker::default(),
            now: TokioClock::new().now(),
        }
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        self.checker.observe(observation)
    }

    /// `same` is an ownership for which a processor is made once more.
    fn ownership(
        &mut self,
        own: &Ownership,
        checkpoint: Option<Position>,
        same: bool,
    ) -> Result<(), Violation> {
        let process: Process = format!("{}, log {}", own.worker, own.log).into();
        let (shard, token) = (key(&own.shard), FencingToken::new(own.token));
        let id = ShardId::new(&own.shard).expect("the stream's own name");
        let mut lease = Lease::unowned(id, checkpoint.unwrap_or(Position::TrimHorizon));
        let worker = WorkerId::new(&own.worker).expect("a worker's own id");
        (lease.owner, lease.counter) = (Some(worker.clone()), own.token);
        let renewed = Written {
            process: process.clone(),
            worker,
            // Nothing is known here of the clock by which a worker believes in its lease.
            failover: Duration::from_secs(1_000_000),
            key: shard.clone(),
            expect: Expect::Version(lease.version()),
            change: LeaseChange::Renew {
                throughput: None,
                facts: RowFacts::NONE,
            },
            incarnation: incarnation(own.log),
            after: lease,
            now: self.now,
        };
        let at = self.now;
        if !same {
            self.see(&Observation::Written(Box::new(renewed)))?;
        }
        self.see(&Observation::Started {
            process: process.clone(),
            shard: shard.clone(),
            token,
        })?;
        for (record, _) in &own.records {
            self.see(&Observation::BatchStarted {
                process: process.clone(),
                shard: shard.clone(),
                token,
                records: vec![record.clone()],
                now: at,
                valid_until: at + Duration::from_secs(1),
                at,
            })?;
            self.see(&Observation::BatchFinished {
                process: process.clone(),
                shard: shard.clone(),
                at,
            })?;
        }
        // The teller knows the row when an ownership begins and not what becomes of it, so it takes it away again.
        self.see(&Observation::Removed { key: shard })
    }
}

fn key(shard: &str) -> LeaseKey {
    LeaseKey::new(shard).expect("the stream's own name")
}

fn incarnation(log: usize) -> Incarnation {
    let log = u64::try_from(log).expect("a few").to_be_bytes();
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&log);
    Incarnation::from_random_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use kcl_core::types::SequenceNumber;
    use kcl_testkit::invariant::Invariant;
    use serde_json::json;

    use super::super::table::row;
    use super::*;
    use crate::fleet::log::{Put, Sequence};
    use crate::fleet::oracle::Lineage;

    fn entry(worker: &str, shard: &str, event: Event) -> Entry {
        Entry {
            time: 1.0,
            worker: worker.to_owned(),
            shard: shard.to_owned(),
            event,
        }
    }

    fn of(worker: &str, shard: &str, records: &[u64]) -> Vec<Entry> {
        let records = records.iter().map(|record| Event::Record {
            key: None,
            sequence: Sequence::new(&record.to_string(), 0),
        });
        let events = std::iter::once(Event::Initialized).chain(records);
        events.map(|event| entry(worker, shard, event)).collect()
    }

    fn puts(shard: &str, records: &[u64]) -> Vec<Put> {
        let put = |record: &u64| Put {
            time: 0.0,
            shard: shard.to_owned(),
            key: "truck".to_owned(),
            sequence: Sequence::new(&record.to_string(), 0),
        };
        records.iter().map(put).collect()
    }

    fn stored(shard: &str, counter: u64, checkpoint: &str) -> super::super::table::Row {
        let answer = json!({ "Attributes": {
            "leaseKey": { "S": shard }, "leaseCounter": { "N": counter.to_string() }, "checkpoint": { "S": checkpoint },
        }});
        row(1, 0, "x.UpdateItem", answer.to_string().as_bytes()).unwrap()
    }

    const PARENT: &str = "shardId-0";
    const CHILD: &str = "shardId-1";

    /// The first worker processes 1 to 3 of the parent, and 2 is checkpointed; the second goes on and begins the child.
    struct Tale {
        first: Vec<u64>,
        second: Vec<u64>,
        child: Vec<u64>,
        tokens: [u64; 2],
        checkpoint: &'static str,
    }

    impl Tale {
        fn sound() -> Self {
            Self {
                first: vec![1, 2, 3],
                second: vec![3, 4, 5],
                child: vec![7, 8],
                tokens: [2, 6],
                checkpoint: "2",
            }
        }

        fn told(&self) -> Result<Tally, Violation> {
            let mut second = of("b", PARENT, &self.second);
            second.extend(of("b", CHILD, &self.child));
            let evidence = Evidence {
                puts: [puts(PARENT, &[1, 2, 3, 4, 5]), puts(CHILD, &[7, 8])].concat(),
                logs: vec![of("a", PARENT, &self.first), second],
                lineage: Lineage::from([(CHILD.to_owned(), vec![PARENT.to_owned()])]),
            };
            let [one, other] = self.tokens;
            let table = Table::new([
                stored(PARENT, one, "TRIM_HORIZON"),
                stored(PARENT, other, self.checkpoint),
                stored(CHILD, 1, "TRIM_HORIZON"),
            ]);
            let owned = ownerships(&evidence.logs, &[vec![one], vec![other, 1]]);
            check(&evidence, &owned, &table)
        }
    }

    fn broken(tale: &Tale) -> Invariant {
        tale.told().unwrap_err().invariant
    }

    #[test]
    fn a_sound_tale_is_counted() {
        let tally = Tale::sound().told().unwrap();
        assert_eq!((tally.put, tally.finished, tally.redelivered), (7, 7, 1));
        assert_eq!(tally.ownerships, 3);
    }

    #[test]
    fn a_lost_record_a_gap_and_a_start_after_the_checkpoint_are_found() {
        let mut tale = Tale::sound();
        tale.child.pop();
        assert_eq!(broken(&tale), Invariant::NoRecordLost);
        let mut tale = Tale::sound();
        tale.second = vec![3, 5];
        assert_eq!(broken(&tale), Invariant::InOrder);
        let mut tale = Tale::sound();
        tale.second = vec![4, 5];
        assert_eq!(
            broken(&tale),
            Invariant::InOrder,
            "2 is stored, so 3 has its turn"
        );
    }

    #[test]
    fn one_token_for_two_ownerships_is_found() {
        let mut tale = Tale::sound();
        tale.tokens = [2, 2];
        assert_eq!(broken(&tale), Invariant::TokenRises);
    }

    #[test]
    fn a_child_before_the_end_of_its_parent_is_found() {
        let mut tale = Tale::sound();
        tale.second.pop();
        assert_eq!(broken(&tale), Invariant::ParentsFirst);
    }

    #[test]
    fn a_processor_that_is_made_once_more_may_go_back_and_a_token_must_have_been_stored() {
        let logs = vec![[of("a", PARENT, &[1, 2]), of("a", PARENT, &[1, 2, 3])].concat()];
        let owned = ownerships(&logs, &[vec![4, 4]]);
        let evidence = Evidence {
            puts: puts(PARENT, &[1, 2, 3]),
            logs,
            lineage: Lineage::new(),
        };
        let table = Table::new([stored(PARENT, 4, "TRIM_HORIZON")]);
        let tally = check(&evidence, &owned, &table).unwrap();
        assert_eq!((tally.ownerships, tally.redelivered), (1, 2));
        assert_eq!(unseen(&owned, &table), Vec::<String>::new());
        let missing = ["a has the token 4 for shardId-0, and no write stored it"; 2];
        assert_eq!(unseen(&owned, &Table::new([])), missing);
    }

    #[test]
    fn an_overlap_is_measured() {
        let own = |token: u64, times: &[f64]| Ownership {
            log: 0,
            worker: "a".to_owned(),
            shard: PARENT.to_owned(),
            token,
            records: times
                .iter()
                .map(|time| (RecordPosition::plain(SequenceNumber::from(1)), *time))
                .collect(),
        };
        assert_eq!(longest_overlap(&[own(1, &[1.0, 2.0]), own(2, &[3.0])]), 0.0);
        assert_eq!(longest_overlap(&[own(1, &[1.0, 4.5]), own(2, &[3.0])]), 1.5);
    }
}
