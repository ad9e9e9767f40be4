//! Checks that the conformance suite, which knows only the seam, cannot make.

use std::path::Path;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use kcl_core::lease_store::{
    Expect, Lease, LeaseChange, LeaseStore as _, Outcome, OwnerNotes, PendingCheckpoint, Preparation,
    RowFacts, StoreErrorKind, apply,
};
use kcl_core::types::{HashKeyRange, Incarnation, Position, StreamIdentity, Timestamp, WorkerId};
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_tests::testbed_or_skip;
use serde_json::Value;

use crate::lease_conformance::backends::Backend;

fn incarnation(number: u8) -> Incarnation {
    Incarnation::from_random_bytes([number; 16])
}

fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn lease(number: usize) -> Lease {
    Lease::unowned(
        format!("shardId-{number:012}").parse().unwrap(),
        Position::TrimHorizon,
    )
}

async fn create(store: &DynamoLeaseStore, lease: &Lease) {
    let change = LeaseChange::Create(Box::new(lease.clone()));
    let outcome = store
        .change(&lease.key, &Expect::Absent, &change, incarnation(1))
        .await
        .unwrap();
    assert_eq!(outcome, Outcome::Applied(Box::new(lease.clone())));
}

/// The condition of the change on this row.
pub(crate) fn expectation(row: &Lease, change: &LeaseChange) -> Expect {
    match change {
        LeaseChange::BeginHandoff { .. } => Expect::Owners {
            owner: row.owner.clone(),
            checkpoint_owner: None,
        },
        LeaseChange::Describe { .. } => Expect::Present,
        LeaseChange::Order { .. } => Expect::Orders(row.orders_revision()),
        LeaseChange::Reset { .. } => Expect::VersionAndOrders(row.version(), row.orders_revision()),
        LeaseChange::Create(_)
        | LeaseChange::Renew { .. }
        | LeaseChange::Assign { .. }
        | LeaseChange::CompleteHandoff
        | LeaseChange::CancelHandoff
        | LeaseChange::Release
        | LeaseChange::Checkpoint { .. }
        | LeaseChange::Prepare { .. }
        | LeaseChange::End { .. }
        | LeaseChange::Delete => Expect::Version(row.version()),
    }
}

/// Everything that can happen to a lease in its life but its deletion.
fn life() -> Vec<LeaseChange> {
    let identity = StreamIdentity {
        name: "trucks".into(),
        arn: "arn:aws:kinesis:us-east-1:123456789012:stream/trucks".into(),
        created: Timestamp::from_millis(1_700_000_000_000),
    };
    let bare = || LeaseChange::Renew {
        notes: OwnerNotes::NONE,
        facts: RowFacts::NONE,
    };
    let hand_to = |name| LeaseChange::BeginHandoff { to: worker(name) };
    let give_to = |name| LeaseChange::Assign { to: worker(name) };
    vec![
        give_to("a"),
        LeaseChange::Renew {
            notes: OwnerNotes {
                throughput: Some(1.25),
                ..OwnerNotes::NONE
            },
            facts: RowFacts {
                identity: Some(identity),
                failover: Some(Duration::from_secs(10)),
                latest_at: Some(Timestamp::from_millis(1_700_000_000_001)),
            },
        },
        hand_to("b"),
        bare(),
        LeaseChange::CancelHandoff,
        hand_to("b"),
        LeaseChange::Prepare {
            pending: Some(PendingCheckpoint {
                position: Position::parse("4968041655677872962526599", 1).unwrap(),
                state: Some("transaction 17".into()),
            }),
        },
        LeaseChange::Prepare { pending: None },
        LeaseChange::Prepare {
            pending: Some(PendingCheckpoint {
                position: Position::parse("4968041655677872962526600", 0).unwrap(),
                state: None,
            }),
        },
        LeaseChange::Checkpoint {
            position: Position::parse("4968041655677872962526588", 3).unwrap(),
            finished_ahead: None,
            notes: OwnerNotes {
                throughput: Some(0.5),
                ..OwnerNotes::NONE
            },
        },
        LeaseChange::CompleteHandoff,
        give_to("a"),
        hand_to("b"),
        LeaseChange::Release,
        LeaseChange::Release,
        LeaseChange::Describe {
            children: None,
            hash_range: Some(HashKeyRange::WHOLE),
        },
        LeaseChange::Describe {
            children: Some(["c".parse().unwrap()].into()),
            hash_range: None,
        },
        LeaseChange::Describe {
            children: Some([].into()),
            hash_range: None,
        },
        LeaseChange::Describe {
            children: None,
            hash_range: None,
        },
        give_to("a"),
        LeaseChange::End {
            children: ["c".parse().unwrap(), "d".parse().unwrap()].into(),
        },
    ]
}

#[tokio::test]
async fn unknown_attributes_survive_the_life_of_a_lease() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "unknown-attributes") {
        let store = backend.prepared().await;
        let mut row = lease(1);
        create(&store, &row).await;
        let mark = AttributeValue::S("kept".into());
        backend.set(row.key.as_str(), "ofTheFuture", mark.clone()).await;
        for change in life() {
            let expect = expectation(&row, &change);
            let outcome = store
                .change(&row.key, &expect, &change, incarnation(1))
                .await
                .unwrap();
            row = apply(&row, &change, incarnation(1));
            assert_eq!(
                outcome,
                Outcome::Applied(Box::new(row.clone())),
                "{change:?} on {}",
                backend.server
            );
            assert_eq!(
                store.read(&row.key).await.unwrap().as_ref(),
                Some(&row),
                "{change:?}"
            );
        }
        let stored = async |attribute| backend.get(row.key.as_str(), attribute).await;
        assert_eq!(stored("ofTheFuture").await, Some(mark), "{}", backend.server);
        let entity = AttributeValue::S("LEASE".into());
        assert_eq!(stored("entityType").await, Some(entity), "{}", backend.server);
    }
}

#[tokio::test]
async fn workers_that_start_together_share_one_new_table() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "start-together") {
        let (one, two, three) = (backend.store(), backend.store(), backend.store());
        let preparation = backend.preparation();
        let prepared = tokio::join!(
            one.prepare(&preparation),
            two.prepare(&preparation),
            three.prepare(&preparation),
        );
        assert!(
            matches!(prepared, (Ok(()), Ok(()), Ok(()))),
            "{}: {prepared:?}",
            backend.server
        );
        create(&one, &lease(1)).await;
        assert_eq!(two.scan().await.unwrap().leases, [lease(1)]);
        assert_eq!(
            three.owned_by(&worker("a")).await.unwrap(),
            Some(vec![]),
            "{}",
            backend.server
        );
    }
}

#[tokio::test]
async fn one_of_many_writers_under_same_version_wins() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "one-winner") {
        let store = backend.prepared().await;
        let mut row = lease(1);
        create(&store, &row).await;
        for round in 0..20 {
            let expect = Expect::Version(row.version());
            let names = [worker("a"), worker("b"), worker("c")];
            let changes = names.map(|to| LeaseChange::Assign { to });
            let attempt = |number: u8| {
                let change = &changes[usize::from(number)];
                store.change(&row.key, &expect, change, incarnation(number))
            };
            let (a, b, c) = tokio::join!(attempt(0), attempt(1), attempt(2));
            let outcomes = [a.unwrap(), b.unwrap(), c.unwrap()];
            let winners = outcomes.into_iter().filter_map(|outcome| match outcome {
                Outcome::Applied(row) => Some(*row),
                Outcome::Refused { .. } => None,
            });
            let winners = winners.collect::<Vec<_>>();
            assert_eq!(winners.len(), 1, "round {round} on {}", backend.server);
            row = winners[0].clone();
        }
        assert_eq!(store.read(&row.key).await.unwrap(), Some(row));
    }
}

#[tokio::test]
async fn table_of_several_pages_is_read_whole() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "pages") {
        let store = backend.prepared().await;
        let ballast = AttributeValue::S("x".repeat(300_000));
        for number in 0..8 {
            create(&store, &lease(number)).await;
            backend
                .set(lease(number).key.as_str(), "ballast", ballast.clone())
                .await;
        }
        for parts in [1, 4] {
            let mut scan = backend.store().scan_segments(parts).scan().await.unwrap();
            scan.leases.sort_by(|a, b| a.key.cmp(&b.key));
            let all = (0..8).map(lease).collect::<Vec<_>>();
            assert_eq!(scan.leases, all, "{parts} parts on {}", backend.server);
            // 2.4 MB, wherever the server cuts them into pages, and whether it does: ministack does not.
            assert!(
                (2..=4).contains(&scan.pages),
                "{} pages in {parts} parts on {}",
                scan.pages,
                backend.server
            );
        }
    }
}

#[tokio::test]
async fn table_without_index_is_used_until_index_exists() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "no-index") {
        backend.create_table(&backend.table, "leaseKey").await;
        let store = backend.prepared().await;
        assert_eq!(
            store.owned_by(&worker("a")).await.unwrap(),
            None,
            "{}",
            backend.server
        );
        backend.index_is_there().await;
        let mut row = lease(1);
        create(&store, &row).await;
        let change = LeaseChange::Assign { to: worker("a") };
        let expect = Expect::Version(row.version());
        store
            .change(&row.key, &expect, &change, incarnation(1))
            .await
            .unwrap();
        row = apply(&row, &change, incarnation(1));
        backend.until_index_shows(&worker("a"), &[row.key]).await;
    }
}

#[tokio::test]
async fn a_table_with_another_key_is_refused() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "other-key") {
        backend.create_table(&backend.table, "id").await;
        let refusal = backend.store().prepare(&backend.preparation()).await.unwrap_err();
        assert_eq!(refusal.kind(), StoreErrorKind::Foreign, "{}", backend.server);
        assert!(
            refusal.to_string().contains("its key is HASH id of type S"),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn nothing_is_created_beside_java_coordinator_table() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "java-coordinator") {
        let coordinator = format!("{}-CoordinatorState", backend.table);
        backend.create_table(&coordinator, "key").await;
        let row = [("key", "Migration3.0"), ("cv", "CLIENT_VERSION_3X")];
        let row = row.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
        backend.put_into(&coordinator, row).await;
        let refusal = backend.store().prepare(&backend.preparation()).await.unwrap_err();
        assert_eq!(refusal.kind(), StoreErrorKind::Foreign, "{}", backend.server);
        assert!(refusal.to_string().contains("take_over_java"), "{refusal}");
        let scan = backend.store().scan().await.unwrap_err();
        assert_eq!(scan.kind(), StoreErrorKind::Missing, "{}", backend.server);
    }
}

#[tokio::test]
async fn java_rows_are_taken_over_only_on_demand() {
    let testbed = testbed_or_skip!();
    let dump = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../kcl-lease-dynamo/tests/golden/java-kcl-3.1.3/4a-merge-child-created.json");
    let dump: Value = serde_json::from_slice(&std::fs::read(dump).unwrap()).unwrap();
    for backend in Backend::all(&testbed, "java-rows") {
        backend.create_table(&backend.table, "leaseKey").await;
        for row in dump["tables"]["app-jpoll3"]["items"].as_array().unwrap() {
            backend.put(row.as_object().unwrap().iter().map(attribute)).await;
        }
        let store = backend.store();
        let refusal = store.prepare(&backend.preparation()).await.unwrap_err();
        assert_eq!(refusal.kind(), StoreErrorKind::Foreign, "{}", backend.server);

        let taking_over = Preparation {
            take_over_java: true,
            ..backend.preparation()
        };
        store.prepare(&taking_over).await.unwrap();
        // DynamoDB Local fails writes while it fills an index.
        backend.index_is_there().await;
        let scan = store.scan().await.unwrap();
        assert_eq!(
            (scan.leases.len(), scan.undecodable.len()),
            (7, 0),
            "{}",
            backend.server
        );
        for lease in scan.leases.iter().filter(|lease| !lease.is_ended()) {
            let change = LeaseChange::Assign {
                to: worker("worker-1"),
            };
            let expect = Expect::Version(lease.version());
            let outcome = store
                .change(&lease.key, &expect, &change, incarnation(1))
                .await
                .unwrap();
            assert_eq!(
                outcome,
                Outcome::Applied(Box::new(apply(lease, &change, incarnation(1))))
            );
        }
        // From now on the rows that are still worked on are ours, and the setting is not needed any more.
        store.prepare(&backend.preparation()).await.unwrap();
    }
}

/// DynamoDB's JSON form of an attribute.
pub(crate) fn attribute((name, value): (&String, &Value)) -> (String, AttributeValue) {
    (name.clone(), of_json(value))
}

fn of_json(value: &Value) -> AttributeValue {
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    match kind.as_str() {
        "S" => AttributeValue::S(text(value)),
        "N" => AttributeValue::N(text(value)),
        "SS" => AttributeValue::Ss(value.as_array().unwrap().iter().map(text).collect()),
        "L" => AttributeValue::L(value.as_array().unwrap().iter().map(of_json).collect()),
        "M" => AttributeValue::M(value.as_object().unwrap().iter().map(attribute).collect()),
        other => panic!("a value of type {other}"),
    }
}
