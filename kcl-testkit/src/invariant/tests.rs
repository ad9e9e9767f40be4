use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::lease_store::{Expect, Lease, LeaseChange, OwnerNotes, RowFacts, apply};
use kcl_core::processor::FencingToken;
use kcl_core::types::{Incarnation, LeaseKey, Position, RecordPosition, SequenceNumber, ShardId, WorkerId};
use proptest::prelude::*;

use super::*;

pub(crate) const FAILOVER: Duration = Duration::from_secs(10);

pub(crate) fn key(n: u8) -> LeaseKey {
    LeaseKey::new(format!("shardId-{n}")).unwrap()
}

pub(crate) fn at(n: u64) -> RecordPosition {
    RecordPosition::plain(SequenceNumber::from(u128::from(n)))
}

pub(crate) fn seconds(n: u64) -> Moment {
    Moment::from_origin(Duration::from_secs(n))
}

pub(crate) fn incarnation(process: &str) -> Incarnation {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(process.bytes()) {
        *to = from;
    }
    Incarnation::from_random_bytes(bytes)
}

/// A small fleet: makes observations of what well-behaved workers do, so that a test can add what one must not do.
/// A process `a` runs the worker `a`, and `a2` is another process with the same worker id.
#[derive(Default, Clone)]
pub(crate) struct Scenario {
    pub(crate) checker: Checker,
    rows: BTreeMap<LeaseKey, Lease>,
}

impl Scenario {
    /// Shards with ten records each, and their leases.
    pub(crate) fn new(shards: u8) -> Self {
        let mut scenario = Self::default();
        for n in 0..shards {
            scenario.open(n, &[]);
        }
        scenario
    }

    pub(crate) fn open(&mut self, n: u8, parents: &[u8]) {
        self.see(Observation::ShardOpened {
            shard: key(n),
            parents: parents.iter().map(|parent| key(*parent)).collect(),
        })
        .unwrap();
        for record in 1..=10 {
            self.see(Observation::Put {
                shard: key(n),
                position: at(record),
                arrival: None,
            })
            .unwrap();
        }
        let lease = Lease::unowned(ShardId::new(key(n).as_str()).unwrap(), Position::TrimHorizon);
        self.write("leader", 0, n, LeaseChange::Create(Box::new(lease)))
            .unwrap();
    }

    pub(crate) fn see(&mut self, observation: Observation) -> Result<(), Violation> {
        self.checker.observe(&observation)
    }

    pub(crate) fn written(&self, process: &str, now: u64, n: u8, change: LeaseChange) -> Written {
        let row = self.rows.get(&key(n));
        let (expect, after) = match (&change, row) {
            (LeaseChange::Create(lease), _) => (Expect::Absent, (**lease).clone()),
            (change, Some(row)) => (
                Expect::Version(row.version()),
                apply(row, change, incarnation(process)),
            ),
            (_, None) => unreachable!("every scenario creates its leases"),
        };
        Written {
            process: process.into(),
            worker: WorkerId::new(process.trim_end_matches('2')).unwrap(),
            failover: FAILOVER,
            key: key(n),
            expect,
            change,
            incarnation: incarnation(process),
            after,
            now: seconds(now),
        }
    }

    pub(crate) fn write(
        &mut self,
        process: &str,
        now: u64,
        n: u8,
        change: LeaseChange,
    ) -> Result<(), Violation> {
        let written = self.written(process, now, n, change);
        self.rows.insert(key(n), written.after.clone());
        self.see(Observation::Written(Box::new(written)))
    }

    pub(crate) fn renew(&mut self, process: &str, now: u64, n: u8) -> Result<(), Violation> {
        let renew = LeaseChange::Renew {
            notes: OwnerNotes::NONE,
            facts: RowFacts::NONE,
        };
        self.write(process, now, n, renew)
    }

    pub(crate) fn checkpoint(
        &mut self,
        process: &str,
        now: u64,
        n: u8,
        record: u64,
    ) -> Result<(), Violation> {
        let position = Position::Record(at(record));
        self.write(
            process,
            now,
            n,
            LeaseChange::Checkpoint {
                position,
                finished_ahead: None,
                notes: OwnerNotes::NONE,
            },
        )
    }

    pub(crate) fn end(&mut self, process: &str, now: u64, n: u8) -> Result<(), Violation> {
        let children = BTreeSet::new();
        self.write(process, now, n, LeaseChange::End { children })
    }

    /// Gives the lease to the process, which takes it up.
    pub(crate) fn own(&mut self, process: &str, now: u64, n: u8) {
        let to = WorkerId::new(process.trim_end_matches('2')).unwrap();
        self.write("leader", now, n, LeaseChange::Assign { to }).unwrap();
        self.renew(process, now, n).unwrap();
        let token = self.token(n);
        self.started(process, n, token).unwrap();
    }

    pub(crate) fn started(&mut self, process: &str, n: u8, token: u64) -> Result<(), Violation> {
        self.see(Observation::Started {
            process: process.into(),
            shard: key(n),
            token: FencingToken::new(token),
        })
    }

    pub(crate) fn token(&self, n: u8) -> u64 {
        self.rows[&key(n)].counter
    }

    pub(crate) fn batch(
        &mut self,
        process: &str,
        now: u64,
        n: u8,
        token: u64,
        records: impl IntoIterator<Item = u64>,
    ) -> Result<(), Violation> {
        self.batch_until(process, now, now + 1, n, token, records)
    }

    pub(crate) fn batch_until(
        &mut self,
        process: &str,
        now: u64,
        valid_until: u64,
        n: u8,
        token: u64,
        records: impl IntoIterator<Item = u64>,
    ) -> Result<(), Violation> {
        self.see(Observation::BatchStarted {
            process: process.into(),
            shard: key(n),
            token: FencingToken::new(token),
            records: records.into_iter().map(at).collect(),
            now: seconds(now),
            valid_until: seconds(valid_until),
            at: seconds(now),
        })
    }

    pub(crate) fn finish(&mut self, process: &str, now: u64, n: u8) {
        self.see(Observation::BatchFinished {
            process: process.into(),
            shard: key(n),
            at: seconds(now),
        })
        .unwrap();
    }

    pub(crate) fn fail(&mut self, process: &str, n: u8, from: Option<u64>) {
        self.see(Observation::BatchFailed {
            process: process.into(),
            shard: key(n),
            from: from.map(at),
            finishes: true,
        })
        .unwrap();
    }

    /// The process owns the shard, and has finished its first five records.
    pub(crate) fn with_five_done(process: &str) -> (Self, u64) {
        let mut scenario = Self::new(1);
        scenario.own(process, 0, 0);
        let token = scenario.token(0);
        scenario.batch(process, 1, 0, token, 1..=5).unwrap();
        scenario.finish(process, 1, 0);
        (scenario, token)
    }
}

pub(crate) fn breaks(result: Result<(), Violation>, invariant: Invariant) {
    assert_eq!(result.unwrap_err().invariant, invariant);
}

#[test]
fn a_quiet_life_breaks_nothing_and_is_counted() {
    let (mut scenario, token) = Scenario::with_five_done("a");
    scenario.checkpoint("a", 2, 0, 5).unwrap();
    scenario.batch("a", 3, 0, token, 6..=10).unwrap();
    scenario.finish("a", 3, 0);
    scenario.end("a", 4, 0).unwrap();
    assert_eq!(scenario.checker.at_rest(), Ok(()));
    let tally = scenario.checker.tally();
    assert_eq!(
        (tally.put, tally.finished, tally.delivered, tally.redelivered),
        (10, 10, 10, 0)
    );
    assert_eq!(tally.ownerships, 1);
}

#[test]
fn a_record_that_nobody_processed_is_lost() {
    let (scenario, _) = Scenario::with_five_done("a");
    breaks(scenario.checker.at_rest(), Invariant::NoRecordLost);
}

#[test]
fn a_gap_must_be_told() {
    let (mut scenario, token) = Scenario::with_five_done("a");
    let oldest = Some(at(7));
    let trimmed = Observation::Trimmed {
        shard: key(0),
        oldest,
    };
    scenario.see(trimmed).unwrap();
    let mut silent = scenario.clone();
    breaks(silent.batch("a", 1, 0, token, 7..=8), Invariant::NoRecordLost);
    let told = Observation::GapTold {
        process: "a".into(),
        shard: key(0),
    };
    scenario.see(told).unwrap();
    scenario.batch("a", 1, 0, token, 7..=8).unwrap();
}

#[test]
fn record_taken_by_retention_is_counted_not_lost() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    let oldest = Some(at(9));
    scenario
        .see(Observation::Trimmed {
            shard: key(0),
            oldest,
        })
        .unwrap();
    assert_eq!(scenario.checker.tally().trimmed_unfinished, 3);
    breaks(scenario.checker.at_rest(), Invariant::NoRecordLost);
    scenario
        .see(Observation::Trimmed {
            shard: key(0),
            oldest: None,
        })
        .unwrap();
    assert_eq!(scenario.checker.at_rest(), Ok(()));
}

#[test]
fn checkpoint_past_batch_that_still_runs_is_found() {
    let (mut scenario, token) = Scenario::with_five_done("a");
    scenario.batch("a", 2, 0, token, 6..=10).unwrap();
    breaks(scenario.checkpoint("a", 2, 0, 10), Invariant::CheckpointNotAhead);
}

#[test]
fn end_before_last_record_is_finished_is_found() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    breaks(scenario.end("a", 2, 0), Invariant::CheckpointNotAhead);
}

#[test]
fn a_checkpoint_that_falls_is_found() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    scenario.checkpoint("a", 2, 0, 5).unwrap();
    breaks(scenario.checkpoint("a", 3, 0, 3), Invariant::CheckpointRises);
}

#[test]
fn lease_created_anew_may_not_forget_its_checkpoint() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    scenario.checkpoint("a", 2, 0, 5).unwrap();
    scenario
        .see(Observation::ShardForgotten { shard: key(0) })
        .unwrap();
    scenario.write("leader", 3, 0, LeaseChange::Delete).unwrap();
    let lease = Lease::unowned(ShardId::new("shardId-0").unwrap(), Position::TrimHorizon);
    let again = scenario.write("leader", 4, 0, LeaseChange::Create(Box::new(lease)));
    breaks(again, Invariant::CheckpointRises);
}

#[test]
fn a_write_on_an_older_version_is_found() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    let stale = scenario.written("a", 2, 0, LeaseChange::Release);
    scenario.renew("a", 2, 0).unwrap();
    let accepted = scenario.see(Observation::Written(Box::new(stale)));
    breaks(accepted, Invariant::SingleWriter);
}

#[test]
fn store_with_other_effect_than_asked_is_found() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    let renew = LeaseChange::Renew {
        notes: OwnerNotes::NONE,
        facts: RowFacts::NONE,
    };
    let mut written = scenario.written("a", 2, 0, renew);
    written.after.counter += 1;
    let accepted = scenario.see(Observation::Written(Box::new(written)));
    breaks(accepted, Invariant::SingleWriter);
}

#[test]
fn renewal_by_non_owner_is_found() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    scenario.own("b", 20, 0);
    breaks(scenario.renew("a", 21, 0), Invariant::SingleWriter);
}

#[test]
fn write_by_older_process_of_id_is_found() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    scenario.renew("a2", 2, 0).unwrap();
    breaks(scenario.renew("a", 3, 0), Invariant::SingleWriter);
}

#[test]
fn process_may_release_lease_of_its_predecessor() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    scenario.write("a2", 2, 0, LeaseChange::Release).unwrap();
    scenario.own("b", 3, 0);
    breaks(scenario.renew("a", 4, 0), Invariant::SingleWriter);
}

#[test]
fn ownership_that_begins_without_renewal_is_found() {
    let mut scenario = Scenario::new(1);
    let to = WorkerId::new("a").unwrap();
    scenario
        .write("leader", 0, 0, LeaseChange::Assign { to })
        .unwrap();
    let position = Position::TrimHorizon;
    let began = scenario.write(
        "a",
        1,
        0,
        LeaseChange::Checkpoint {
            position,
            finished_ahead: None,
            notes: OwnerNotes::NONE,
        },
    );
    breaks(began, Invariant::SingleWriter);
}

#[test]
fn a_token_of_somebody_else_is_found() {
    let (mut scenario, token) = Scenario::with_five_done("a");
    breaks(scenario.started("b", 0, token), Invariant::TokenRises);
    let (mut scenario, _) = Scenario::with_five_done("a");
    let changed = scenario.batch("a", 2, 0, 7, 6..=7);
    breaks(changed, Invariant::TokenRises);
}

#[test]
fn a_token_that_does_not_rise_is_found() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    // A table that lost its counter, by a deletion and a creation.
    scenario
        .see(Observation::ShardForgotten { shard: key(0) })
        .unwrap();
    scenario.write("leader", 2, 0, LeaseChange::Delete).unwrap();
    let lease = Lease::unowned(ShardId::new("shardId-0").unwrap(), Position::TrimHorizon);
    scenario
        .write("leader", 3, 0, LeaseChange::Create(Box::new(lease)))
        .unwrap();
    let to = WorkerId::new("a").unwrap();
    scenario
        .write("leader", 4, 0, LeaseChange::Assign { to })
        .unwrap();
    breaks(scenario.renew("a", 4, 0), Invariant::TokenRises);
}

#[test]
fn a_batch_after_the_deadline_is_found() {
    let (mut scenario, token) = Scenario::with_five_done("a");
    let late = scenario.batch_until("a", 9, 9, 0, token, 6..=7);
    breaks(late, Invariant::NoStartAfterDeadline);
}

#[test]
fn a_belief_that_no_renewal_supports_is_found() {
    let (mut scenario, token) = Scenario::with_five_done("a");
    scenario.batch_until("a", 8, 9, 0, token, 6..=7).unwrap();
    scenario.finish("a", 8, 0);
    let unfounded = scenario.batch_until("a", 8, 10, 0, token, 8..=9);
    breaks(unfounded, Invariant::NoStartAfterDeadline);
}

#[test]
fn two_starters_are_found_unless_one_was_paused() {
    let (mut scenario, old) = Scenario::with_five_done("a");
    scenario.own("b", 2, 0);
    let new = scenario.token(0);
    scenario.batch("b", 3, 0, new, 1..=5).unwrap();
    let mut paused = Scenario {
        checker: scenario.checker.clone(),
        rows: scenario.rows.clone(),
    };
    breaks(scenario.batch("a", 4, 0, old, 6..=7), Invariant::NoOverlap);

    paused.see(Observation::Paused { process: "a".into() }).unwrap();
    paused.batch("a", 4, 0, old, 6..=7).unwrap();
    paused.finish("a", 8, 0);
    assert_eq!(paused.checker.tally().longest_overlap, Duration::from_secs(5));
}

#[test]
fn overlap_of_two_processes_is_measured() {
    let (mut scenario, old) = Scenario::with_five_done("a");
    scenario.renew("a2", 2, 0).unwrap();
    let new = scenario.token(0);
    scenario.started("a2", 0, new).unwrap();
    scenario.batch("a2", 2, 0, new, 1..=5).unwrap();
    scenario.batch("a", 4, 0, old, 6..=7).unwrap();
    assert_eq!(scenario.checker.tally().longest_overlap, Duration::from_secs(2));
}

#[test]
fn record_left_out_is_found_wherever_it_is() {
    let (mut scenario, token) = Scenario::with_five_done("a");
    breaks(scenario.batch("a", 2, 0, token, 7..=8), Invariant::InOrder);
    let (mut scenario, token) = Scenario::with_five_done("a");
    breaks(scenario.batch("a", 2, 0, token, [6, 8]), Invariant::InOrder);
    let (mut scenario, token) = Scenario::with_five_done("a");
    breaks(scenario.batch("a", 2, 0, token, [7, 6]), Invariant::InOrder);
}

#[test]
fn a_failed_batch_that_is_skipped_is_found() {
    let (mut scenario, token) = Scenario::with_five_done("a");
    scenario.batch("a", 2, 0, token, 6..=8).unwrap();
    scenario.fail("a", 0, None);
    breaks(scenario.batch("a", 3, 0, token, 9..=10), Invariant::InOrder);
}

#[test]
fn failed_batch_goes_on_at_record_or_checkpoint() {
    let (mut scenario, token) = Scenario::with_five_done("a");
    scenario.batch("a", 2, 0, token, 6..=8).unwrap();
    scenario.fail("a", 0, Some(7));
    scenario.batch("a", 3, 0, token, 7..=8).unwrap();
    scenario.fail("a", 0, None);
    scenario.batch("a", 4, 0, token, 1..=10).unwrap();
    scenario.finish("a", 4, 0);
    assert_eq!(scenario.checker.at_rest(), Ok(()));
}

#[test]
fn records_repeated_without_reason_are_found() {
    let (mut scenario, token) = Scenario::with_five_done("a");
    breaks(scenario.batch("a", 2, 0, token, 5..=8), Invariant::InOrder);
}

#[test]
fn a_takeover_after_the_checkpoint_is_found() {
    let (mut scenario, _) = Scenario::with_five_done("a");
    scenario.checkpoint("a", 2, 0, 5).unwrap();
    scenario.own("b", 20, 0);
    let token = scenario.token(0);
    breaks(scenario.batch("b", 21, 0, token, 7..=8), Invariant::InOrder);
}

#[test]
fn a_child_before_its_parents_is_found() {
    let mut scenario = Scenario::new(2);
    scenario.open(2, &[0, 1]);
    for parent in 0..2 {
        scenario.own("a", 0, parent);
        let token = scenario.token(parent);
        scenario.batch("a", 1, parent, token, 1..=10).unwrap();
        scenario.finish("a", 1, parent);
    }
    scenario.end("a", 2, 0).unwrap();
    scenario.own("b", 3, 2);
    let token = scenario.token(2);
    let too_early = scenario.batch("b", 3, 2, token, 1..=10);
    breaks(too_early, Invariant::ParentsFirst);
    scenario.end("a", 4, 1).unwrap();
    scenario.batch("b", 5, 2, token, 1..=10).unwrap();
}

proptest! {
    /// However the records are cut into batches, and whoever takes over after which of them, a fleet that takes every record
    /// in order breaks nothing; and a fleet that leaves one out is found.
    #[test]
    fn honest_owners_pass_and_one_with_gaps_fails(
        cuts in prop::collection::btree_set(1_u64..10, 0..6),
        changes in prop::collection::vec(any::<bool>(), 8),
        skipped in prop::option::of(1_u64..10),
    ) {
        let mut scenario = Scenario::new(1);
        let mut owner = ("a", "b");
        scenario.own(owner.0, 0, 0);
        let (mut token, mut from, mut now) = (scenario.token(0), 1, 1);
        let mut outcome = Ok(());
        for (to, change) in cuts.into_iter().chain([10]).zip(changes) {
            now += 1;
            let records = (from..=to).filter(|record| Some(*record) != skipped).collect::<Vec<_>>();
            scenario.renew(owner.0, now, 0).unwrap();
            outcome = outcome.and_then(|()| scenario.batch(owner.0, now, 0, token, records));
            scenario.finish(owner.0, now, 0);
            if outcome.is_err() {
                break;
            }
            if change {
                // Nothing was checkpointed, so the next owner begins at the beginning.
                owner = (owner.1, owner.0);
                scenario.own(owner.0, now, 0);
                (token, from) = (scenario.token(0), 1);
            } else {
                from = to + 1;
            }
        }
        // The last record is never left out, so whatever is missing before it is seen when the next batch starts.
        prop_assert_eq!(outcome.is_err(), skipped.is_some(), "{:?}", outcome);
    }
}
