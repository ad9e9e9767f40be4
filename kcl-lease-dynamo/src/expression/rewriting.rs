//! Rows that the Java KCL wrote keep what we do not know when we change them, and become what `apply` says.

use std::time::Duration;

use kcl_core::invariant::{Invariant, check_attributes};
use kcl_core::lease_store::{LeaseOrder, OrderAuthor, apply};
use kcl_core::types::{Position, RecordPosition, SequenceNumber, StreamIdentity, Timestamp};

use super::*;
use crate::codec::decode_lease;
use crate::codec::golden::lease_rows;

/// The attributes that a change of a lease may write. All others in a row belong to others, or stays as it was created.
const OURS: [&str; 27] = [
    attributes::ORDERS,
    attributes::ORDERS_REVISION,
    attributes::ORDERS_ANSWERED,
    attributes::ORDERS_REFUSED,
    attributes::REPORT,
    attributes::RESET_AT,
    attributes::FINISHED_AHEAD,
    attributes::OWNER_FAILOVER_MILLIS,
    attributes::LATEST_AT,
    attributes::OWNER,
    attributes::CHECKPOINT_OWNER,
    attributes::COUNTER,
    attributes::OWNER_SWITCHES,
    attributes::CHECKPOINT,
    attributes::SUB_SEQUENCE,
    attributes::PENDING,
    attributes::PENDING_SUB_SEQUENCE,
    attributes::PENDING_STATE,
    attributes::CHILDREN,
    attributes::HASH_START,
    attributes::HASH_END,
    attributes::THROUGHPUT,
    attributes::STAMP_INCARNATION,
    attributes::STAMP_COUNTER,
    attributes::HANDOFF_INCARNATION,
    attributes::STREAM_ARN,
    attributes::STREAM_NAME,
];

fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || name == attributes::STREAM_CREATED
}

fn me() -> Incarnation {
    Incarnation::from_random_bytes([1; 16])
}

/// The row after an update, as DynamoDB makes it: what the expression names, and nothing else.
fn updated(row: &Item, write: &Write) -> Item {
    let Operation::Update(expression) = &write.action else {
        panic!("{:?} is no update", write.action);
    };
    let mut after = row.clone();
    let mut keyword = "";
    for word in expression.split_inclusive([',', ' ']) {
        let word = word.trim_matches([',', ' ']);
        if let Some(name) = write.names.get(word) {
            let value = || write.values[&word.replace('#', ":")].clone();
            match keyword {
                "SET" => drop(after.insert(name.clone(), value())),
                "REMOVE" => drop(after.remove(name)),
                "ADD" => {
                    let number = |item: &Item| item.get(name)?.as_n().ok()?.parse::<u64>().ok();
                    let sum = number(&after).unwrap_or(0) + value().as_n().unwrap().parse::<u64>().unwrap();
                    after.insert(name.clone(), n(sum));
                }
                other => panic!("{name} under {other:?}"),
            }
        } else if matches!(word, "SET" | "REMOVE" | "ADD") {
            keyword = word;
        }
    }
    after
}

/// Each change that could be made of the lease.
fn changes(version: &Version) -> Vec<(Expect, LeaseChange)> {
    let identity = StreamIdentity {
        name: "trucks".into(),
        arn: "arn".into(),
        created: Timestamp::from_millis(5),
    };
    let children: BTreeSet<ShardId> = ["shardId-8".parse().unwrap()].into();
    let renew = LeaseChange::Renew {
        notes: OwnerNotes {
            throughput: Some(1.5),
            ..OwnerNotes::NONE
        },
        facts: RowFacts {
            identity: Some(identity),
            failover: Some(Duration::from_secs(10)),
            latest_at: Some(Timestamp::from_millis(6)),
        },
    };
    let done = RecordPosition::plain(SequenceNumber::from(5));
    let checkpoint = LeaseChange::Checkpoint {
        position: Position::parse("49680416556756428880067349872691", 3).unwrap(),
        finished_ahead: FinishedAhead::of(&Position::TrimHorizon, true, [(&done, true)]),
        notes: OwnerNotes::NONE,
    };
    let prepare = LeaseChange::Prepare {
        pending: Some(PendingCheckpoint {
            position: Position::parse("49680416556756428880067349872695", 1).unwrap(),
            state: Some("tx-17".into()),
        }),
    };
    let discard = LeaseChange::Prepare { pending: None };
    let describe = LeaseChange::Describe {
        children: Some(children.clone()),
        hash_range: Some(HashKeyRange::WHOLE),
    };
    let to: WorkerId = "somebody-else".parse().unwrap();
    let owners = Expect::Owners {
        owner: version.owner.clone(),
        checkpoint_owner: version.checkpoint_owner.clone(),
    };
    let at_version = [
        renew,
        checkpoint,
        prepare,
        discard,
        LeaseChange::Assign { to: to.clone() },
        LeaseChange::CompleteHandoff,
        LeaseChange::CancelHandoff,
        LeaseChange::Release,
        LeaseChange::End { children },
    ];
    let at_version = at_version.map(|change| (Expect::Version(version.clone()), change));
    let orders = LeaseOrders::default().with(
        LeaseOrder::Pause,
        &OrderAuthor::new("ana").unwrap(),
        Timestamp::from_millis(1),
    );
    let reset = LeaseChange::Reset {
        to: ResetPosition::AtTimestamp(Timestamp::from_millis(2)),
        orders: Box::new(orders.clone()),
    };
    let order = LeaseChange::Order {
        orders: Box::new(orders),
    };
    let others = [
        (Expect::Orders(0), order),
        (Expect::VersionAndOrders(version.clone(), 0), reset),
        (Expect::Present, describe),
        (owners, LeaseChange::BeginHandoff { to }),
    ];
    let all = at_version.into_iter().chain(others);
    all.filter(|(expect, change)| change.fits(expect)).collect()
}

#[test]
fn every_change_of_java_row_keeps_foreign_attributes() {
    let mut verbs = BTreeSet::new();
    for mut row in lease_rows() {
        row.insert("ofTheFuture".to_owned(), s("kept"));
        row.insert("rsOfTheFuture".to_owned(), n(7));
        let lease = decode_lease(&row).unwrap();
        for (expect, change) in changes(&lease.version()) {
            let write = lease_write(lease.key.as_str(), &expect, &change, me()).unwrap();
            let after = updated(&row, &write);
            let (verb, key) = (change.verb(), &lease.key);
            assert_eq!(check_attributes(&row, &after, is_ours), Ok(()), "{verb} of {key}");
            assert_eq!(
                decode_lease(&after).unwrap(),
                apply(&lease, &change, me()),
                "{verb} of {key}"
            );
            verbs.insert(verb);
        }
    }
    assert_eq!(verbs.len(), 13, "{verbs:?}");
}

#[test]
fn putting_whole_rows_is_found_to_lose_attributes() {
    let mut row = lease_rows().remove(0);
    row.insert("ofTheFuture".to_owned(), s("kept"));
    let rewritten = creation_item(&decode_lease(&row).unwrap());
    let violation = check_attributes(&row, &rewritten, is_ours).unwrap_err();
    assert_eq!(violation.invariant, Invariant::Compatible);
}
