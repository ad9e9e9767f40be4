use std::time::Duration;

use kcl_core::lease_store::Lease;
use kcl_core::types::{Position, RecordPosition, SequenceNumber, StreamIdentity, Timestamp};

use super::*;

const KEY: &str = "shardId-1";

fn me() -> Incarnation {
    Incarnation::from_random_bytes([1; 16])
}

fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn seen(owner: Option<&str>, checkpoint_owner: Option<&str>) -> Expect {
    Expect::Version(Version {
        counter: 7,
        owner: owner.map(worker),
        checkpoint_owner: checkpoint_owner.map(worker),
    })
}

/// The write with its placeholders filled in: what DynamoDB is asked to do, in one readable text.
fn text(write: &Write) -> String {
    let fill = |text: &str| {
        let mut filled = text.to_owned();
        // The longest first, so that no placeholder is taken for the beginning of another.
        let mut values = write.values.iter().collect::<Vec<_>>();
        values.sort_by_key(|(placeholder, _)| std::cmp::Reverse(placeholder.len()));
        for (placeholder, value) in values {
            let shown = if let AttributeValue::S(text) = value {
                format!("'{text}'")
            } else if let AttributeValue::N(digits) = value {
                digits.clone()
            } else if let AttributeValue::Ss(texts) = value {
                format!("{texts:?}")
            } else if let AttributeValue::B(bytes) = value {
                format!("b'{}'", String::from_utf8_lossy(bytes.as_ref()))
            } else {
                assert_eq!(*value, AttributeValue::M(Default::default()));
                "{}".to_owned()
            };
            filled = filled.replace(placeholder, &shown);
        }
        filled.replace('#', "")
    };
    let condition = fill(&write.condition);
    let text = match &write.action {
        Operation::Put(item) => format!("PUT {}", item.keys().cloned().collect::<Vec<_>>().join(" ")),
        Operation::Update(expression) => fill(expression),
        Operation::Delete => "DELETE".to_owned(),
    };
    format!("{text} IF {condition}").replace(&me().to_string(), "me")
}

fn change(expect: &Expect, change: &LeaseChange) -> String {
    let write = lease_write(KEY, expect, change, me()).unwrap();
    assert_eq!(write.key, KEY);
    text(&write)
}

const STAMP: &str = "SET leaseCounter = 8, rsIncarnation = 'me', rsCounter = 8";
const IF_OWNED: &str = "IF leaseCounter = 7 AND leaseOwner = 'a' AND attribute_not_exists(checkpointOwner)";
const IF_FREE: &str =
    "IF leaseCounter = 7 AND attribute_not_exists(leaseOwner) AND attribute_not_exists(checkpointOwner)";
const IF_HANDOFF: &str = "IF leaseCounter = 7 AND leaseOwner = 'b' AND checkpointOwner = 'a'";

fn owned() -> Expect {
    seen(Some("a"), None)
}

fn handoff() -> Expect {
    seen(Some("b"), Some("a"))
}

#[test]
fn create_puts_whole_row_where_there_is_none() {
    let lease = Lease::unowned(KEY.parse().unwrap(), Position::TrimHorizon);
    assert_eq!(
        change(&Expect::Absent, &LeaseChange::Create(Box::new(lease))),
        "PUT checkpoint checkpointSubSequenceNumber entityType leaseCounter leaseKey ownerSwitchesSinceCheckpoint \
         IF attribute_not_exists(leaseKey)"
    );
}

#[test]
fn create_under_another_key_is_a_mistake() {
    let lease = Box::new(Lease::unowned("other".parse().unwrap(), Position::TrimHorizon));
    assert!(lease_write(KEY, &Expect::Absent, &LeaseChange::Create(lease), me()).is_err());
}

#[test]
fn renew_touches_the_counter_and_what_it_brings() {
    let bare = LeaseChange::Renew {
        notes: OwnerNotes::NONE,
        facts: RowFacts::NONE,
    };
    assert_eq!(
        change(&owned(), &bare),
        format!("{STAMP} REMOVE rsHandoffIncarnation {IF_OWNED}")
    );
    assert_eq!(change(&handoff(), &bare), format!("{STAMP} {IF_HANDOFF}"));
    let full = LeaseChange::Renew {
        notes: OwnerNotes {
            throughput: Some(1.5),
            ..OwnerNotes::NONE
        },
        facts: RowFacts {
            identity: Some(StreamIdentity {
                name: "trucks".into(),
                arn: "arn".into(),
                created: Timestamp::from_millis(5),
            }),
            failover: Some(Duration::from_secs(10)),
            latest_at: Some(Timestamp::from_millis(6)),
        },
    };
    assert_eq!(
        change(&handoff(), &full),
        format!(
            "{STAMP}, throughputKBps = 1.5, rsFailoverMillis = 10000, rsLatestAt = 6, rsStreamArn = 'arn', rsStreamName = 'trucks', rsStreamCreated = 5 {IF_HANDOFF}"
        )
    );
}

#[test]
fn assign_counts_switches_by_rule_of_java() {
    let to = |name| LeaseChange::Assign { to: worker(name) };
    let removes = "REMOVE rsFailoverMillis, rsHandoffIncarnation";
    assert_eq!(
        change(&seen(None, None), &to("b")),
        format!("{STAMP}, leaseOwner = 'b' {removes} {IF_FREE}")
    );
    assert_eq!(
        change(&owned(), &to("b")),
        format!("{STAMP}, leaseOwner = 'b' {removes} ADD ownerSwitchesSinceCheckpoint 1 {IF_OWNED}")
    );
    assert_eq!(
        change(&owned(), &to("a")),
        format!("{STAMP}, leaseOwner = 'a' {removes} {IF_OWNED}")
    );
    assert_eq!(
        change(&handoff(), &to("b")),
        format!(
            "{STAMP}, leaseOwner = 'b' REMOVE rsFailoverMillis, checkpointOwner, rsHandoffIncarnation {IF_HANDOFF}"
        )
    );
}

#[test]
fn begin_handoff_moves_no_counter_and_minds_none() {
    let expect = Expect::Owners {
        owner: Some(worker("a")),
        checkpoint_owner: None,
    };
    assert_eq!(
        change(&expect, &LeaseChange::BeginHandoff { to: worker("b") }),
        "SET leaseOwner = 'b', checkpointOwner = 'a', rsHandoffIncarnation = 'me' \
         IF leaseOwner = 'a' AND attribute_not_exists(checkpointOwner)"
    );
}

#[test]
fn a_handoff_ends_with_one_owner() {
    let removes = "REMOVE checkpointOwner, rsHandoffIncarnation";
    assert_eq!(
        change(&handoff(), &LeaseChange::CompleteHandoff),
        format!("{STAMP} REMOVE rsFailoverMillis, checkpointOwner, rsHandoffIncarnation {IF_HANDOFF}")
    );
    assert_eq!(
        change(&handoff(), &LeaseChange::CancelHandoff),
        format!("{STAMP}, leaseOwner = 'a' {removes} {IF_HANDOFF}")
    );
}

#[test]
fn release_leaves_the_next_owner_of_a_handoff() {
    assert_eq!(
        change(&owned(), &LeaseChange::Release),
        format!("{STAMP} REMOVE leaseOwner, rsFailoverMillis, rsHandoffIncarnation {IF_OWNED}")
    );
    assert_eq!(
        change(&handoff(), &LeaseChange::Release),
        format!("{STAMP} REMOVE rsFailoverMillis, checkpointOwner, rsHandoffIncarnation {IF_HANDOFF}")
    );
}

#[test]
fn checkpoint_stores_position_and_drops_prepared_one() {
    let checkpoint = |throughput| LeaseChange::Checkpoint {
        position: Position::parse("42", 3).unwrap(),
        finished_ahead: None,
        notes: OwnerNotes {
            throughput,
            ..OwnerNotes::NONE
        },
    };
    let sets = "checkpoint = '42', checkpointSubSequenceNumber = 3, ownerSwitchesSinceCheckpoint = 0";
    let removes = "REMOVE rsFinishedAhead, pendingCheckpoint, pendingCheckpointSubSequenceNumber, pendingCheckpointState";
    assert_eq!(
        change(&handoff(), &checkpoint(None)),
        format!("{STAMP}, {sets} {removes} {IF_HANDOFF}")
    );
    assert_eq!(
        change(&handoff(), &checkpoint(Some(0.25))),
        format!("{STAMP}, {sets}, throughputKBps = 0.25 {removes} {IF_HANDOFF}")
    );
}

#[test]
fn checkpoint_stores_what_is_finished_ahead() {
    let done = RecordPosition::plain(SequenceNumber::from(44));
    let position = Position::parse("42", 3).unwrap();
    let checkpoint = LeaseChange::Checkpoint {
        finished_ahead: FinishedAhead::of(&position, true, [(&done, true)]),
        position,
        notes: OwnerNotes::NONE,
    };
    let written = change(&handoff(), &checkpoint);
    assert!(written.contains(", rsFinishedAhead = b"), "{written}");
    assert!(!written.contains("REMOVE rsFinishedAhead"), "{written}");
}

#[test]
fn prepared_checkpoint_stands_beside_stored_one() {
    let prepare = |state: Option<&'static str>| LeaseChange::Prepare {
        pending: Some(PendingCheckpoint {
            position: Position::parse("42", 3).unwrap(),
            state: state.map(Into::into),
        }),
    };
    let sets = "pendingCheckpoint = '42', pendingCheckpointSubSequenceNumber = 3";
    let state = "REMOVE pendingCheckpointState";
    assert_eq!(
        change(&handoff(), &prepare(None)),
        format!("{STAMP}, {sets} {state} {IF_HANDOFF}")
    );
    assert_eq!(
        change(&handoff(), &prepare(Some("tx"))),
        format!("{STAMP}, {sets}, pendingCheckpointState = b'tx' {IF_HANDOFF}")
    );
    let removes = "REMOVE pendingCheckpoint, pendingCheckpointSubSequenceNumber, pendingCheckpointState";
    assert_eq!(
        change(&handoff(), &LeaseChange::Prepare { pending: None }),
        format!("{STAMP} {removes} {IF_HANDOFF}")
    );
}

#[test]
fn end_stores_the_children_and_leaves_no_owner() {
    let sets = "checkpoint = 'SHARD_END', checkpointSubSequenceNumber = 0, ownerSwitchesSinceCheckpoint = 0";
    let pending =
        "rsFinishedAhead, pendingCheckpoint, pendingCheckpointSubSequenceNumber, pendingCheckpointState";
    let children = ["c".parse().unwrap(), "d".parse().unwrap()].into();
    assert_eq!(
        change(&owned(), &LeaseChange::End { children }),
        format!(
            "{STAMP}, {sets}, childShardIds = [\"c\", \"d\"] REMOVE {pending}, leaseOwner, rsFailoverMillis, rsHandoffIncarnation {IF_OWNED}"
        )
    );
    let children = BTreeSet::new();
    assert_eq!(
        change(&handoff(), &LeaseChange::End { children }),
        format!(
            "{STAMP}, {sets} REMOVE {pending}, childShardIds, leaseOwner, rsFailoverMillis, checkpointOwner, rsHandoffIncarnation {IF_HANDOFF}"
        )
    );
}

#[test]
fn describe_fills_in_facts_of_leases_only() {
    let exists = "IF attribute_exists(leaseCounter) AND attribute_exists(checkpoint)";
    let describe =
        |children, hash_range| change(&Expect::Present, &LeaseChange::Describe { children, hash_range });
    let range = HashKeyRange::new(1, 9).unwrap();
    assert_eq!(
        describe(Some(["c".parse().unwrap()].into()), Some(range)),
        format!("SET childShardIds = [\"c\"], startingHashKey = '1', endingHashKey = '9' {exists}")
    );
    assert_eq!(
        describe(Some(BTreeSet::new()), None),
        format!("REMOVE childShardIds {exists}")
    );
    assert_eq!(describe(None, None), format!(" {exists}"));
}

#[test]
fn delete_minds_the_version() {
    assert_eq!(
        change(&owned(), &LeaseChange::Delete),
        format!("DELETE {IF_OWNED}")
    );
}

#[test]
fn change_under_unsuitable_expectation_is_a_mistake() {
    let refusals = [
        lease_write(KEY, &Expect::Present, &LeaseChange::Release, me()),
        lease_write(KEY, &owned(), &LeaseChange::CompleteHandoff, me()),
        lease_write(KEY, &Expect::Absent, &LeaseChange::Delete, me()),
    ];
    for refusal in refusals {
        assert!(refusal.unwrap_err().to_string().contains("cannot be made"));
    }
}

#[test]
fn every_placeholder_is_used_and_explained() {
    let changes = [
        LeaseChange::Renew {
            notes: OwnerNotes {
                throughput: Some(1.0),
                ..OwnerNotes::NONE
            },
            facts: RowFacts::NONE,
        },
        LeaseChange::Assign { to: worker("c") },
        LeaseChange::CancelHandoff,
        LeaseChange::Release,
        LeaseChange::End {
            children: BTreeSet::new(),
        },
        LeaseChange::Delete,
    ];
    for change in changes {
        let write = lease_write(KEY, &handoff(), &change, me()).unwrap();
        let update = match &write.action {
            Operation::Update(update) => update.as_str(),
            Operation::Put(_) | Operation::Delete => "",
        };
        let words = format!("{update} {}", write.condition);
        let words = words.split(|c: char| !(c.is_alphanumeric() || "#:_".contains(c)));
        let used = words
            .filter(|word| word.starts_with(['#', ':']))
            .collect::<BTreeSet<_>>();
        let explained = write.names.keys().chain(write.values.keys());
        assert_eq!(used, explained.map(String::as_str).collect(), "{change:?}");
    }
}

fn row(incarnation: Option<Incarnation>) -> WorkerRow {
    WorkerRow {
        id: worker("w"),
        incarnation,
        touches: 4,
        failover: None,
        max_leases: None,
        max_throughput: None,
        updated: Timestamp::from_millis(5_500),
        started: None,
        version: None,
        orders: None,
    }
}

#[test]
fn worker_rows_change_under_incarnation_that_wrote_them() {
    let writes = "SET entityType = 'WORKER_METRIC_STATS', lut = 5, opr = {}, rsIncarnation = 'me', rsTouches = 4, \
                  rsUpdatedMillis = 5500, slu = 5, sts = {}, sup = 1 REMOVE rsFailoverMillis, rsMaxLeases, rsMaxThroughputKBps";
    let is_mine = "IF entityType = 'WORKER_METRIC_STATS' AND rsIncarnation = 'me'";
    let ours = || row(Some(me()));
    assert_eq!(
        text(&worker_write(
            &WorkerChange::Announce(ours()),
            WorkerRowPlacement::Shared
        )),
        format!("{writes} IF (attribute_not_exists(leaseKey) OR entityType = 'WORKER_METRIC_STATS')")
    );
    assert_eq!(
        text(&worker_write(
            &WorkerChange::Touch(ours()),
            WorkerRowPlacement::Shared
        )),
        format!("{writes} {is_mine}")
    );
    assert_eq!(
        text(&worker_write(
            &WorkerChange::Reannounce(ours()),
            WorkerRowPlacement::Shared
        )),
        format!("{writes} IF attribute_not_exists(leaseKey)")
    );
    let leave = WorkerChange::Leave {
        id: worker("w"),
        incarnation: me(),
    };
    assert_eq!(
        text(&worker_write(&leave, WorkerRowPlacement::Shared)),
        format!("DELETE {is_mine}")
    );
    assert_eq!(
        text(&worker_write(
            &WorkerChange::DeleteExpired(ours()),
            WorkerRowPlacement::Shared
        )),
        format!("DELETE {is_mine} AND rsTouches = 4")
    );
    assert_eq!(
        text(&worker_write(
            &WorkerChange::DeleteExpired(row(None)),
            WorkerRowPlacement::Shared
        )),
        "DELETE IF entityType = 'WORKER_METRIC_STATS' AND attribute_not_exists(rsIncarnation) AND lut = 5"
    );
}

#[test]
fn the_lock_changes_under_version_and_owner() {
    let lock = kcl_core::lease_store::LeaderLock {
        owner: worker("w"),
        duration: std::time::Duration::from_secs(10),
        version: "new".into(),
        released: false,
        standby: None,
    };
    let held = LockExpect::Version {
        version: "old".into(),
        owner: worker("x"),
    };
    let put = "PUT entityType leaseDuration leaseKey ownerName recordVersionNumber rsLock";
    let is_held = "IF recordVersionNumber = 'old' AND ownerName = 'x'";
    let hold = LockChange::Hold(lock);
    assert_eq!(
        text(&lock_write(&LockExpect::Absent, &hold).unwrap()),
        format!("{put} IF attribute_not_exists(leaseKey)")
    );
    assert_eq!(
        text(&lock_write(&held, &hold).unwrap()),
        format!("{put} {is_held}")
    );
    assert_eq!(
        text(&lock_write(&held, &LockChange::Release).unwrap()),
        format!("DELETE {is_held}")
    );
    assert!(lock_write(&LockExpect::Absent, &LockChange::Release).is_err());
}

#[test]
fn worker_rows_in_own_table_need_no_type() {
    let all = [
        WorkerChange::Announce(row(Some(me()))),
        WorkerChange::Touch(row(Some(me()))),
        WorkerChange::DeleteExpired(row(None)),
    ];
    for change in all {
        let write = worker_write(&change, WorkerRowPlacement::Separate);
        assert!(!write.condition.contains("entityType"), "{write:?}");
        let among = worker_write(&change, WorkerRowPlacement::Shared);
        assert!(among.condition.contains("entityType"), "{among:?}");
    }
}
