//! Rows that Amazon's Java KCL really wrote decode, and encode again to the same attributes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use kcl_core::lease_store::{Lease, WorkerRow};
use kcl_core::types::{ShardId, Timestamp};
use serde_json::Value;

use super::lease::lease_attributes;
use super::*;

const LEASE_TABLE: &str = "app-jpoll3";
const LOCK_TABLE: &str = "app-jpoll3-CoordinatorState";
const WORKER_TABLE: &str = "app-jpoll3-WorkerMetricStats";

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn dumps() -> BTreeMap<String, Value> {
    let files = fs::read_dir(golden("java-kcl-3.1.3")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
        })
        .collect()
}

/// DynamoDB's JSON form of a value.
fn attribute(json: &Value) -> AttributeValue {
    let (kind, value) = json.as_object().unwrap().iter().next().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    match kind.as_str() {
        "S" => AttributeValue::S(text(value)),
        "N" => AttributeValue::N(text(value)),
        "B" => AttributeValue::B(Blob::new(text(value))),
        "SS" => AttributeValue::Ss(value.as_array().unwrap().iter().map(text).collect()),
        "L" => AttributeValue::L(value.as_array().unwrap().iter().map(attribute).collect()),
        "M" => AttributeValue::M(item(value).into_iter().collect()),
        other => panic!("a value of type {other}"),
    }
}

/// DynamoDB's JSON form of a row.
pub(super) fn item(json: &Value) -> Item {
    let attributes = json.as_object().unwrap().iter();
    attributes
        .map(|(name, value)| (name.clone(), attribute(value)))
        .collect()
}

fn items(dump: &Value, table: &str) -> Vec<Item> {
    let table = &dump["tables"][table]["items"];
    table.as_array().into_iter().flatten().map(item).collect()
}

/// Every state in which the recorded history has seen a lease, in order.
fn lease_states() -> Vec<Item> {
    let history = fs::read_to_string(golden("java-kcl-3.1.3/history.jsonl")).unwrap();
    let changes = history
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut rows = BTreeMap::<String, Item>::new();
    let mut states = Vec::new();
    for change in changes.filter(|change| change["table"] == LEASE_TABLE) {
        let row = rows
            .entry(change["key"].as_str().unwrap().to_owned())
            .or_default();
        for (name, value) in change["changed"].as_object().unwrap() {
            if value.is_null() {
                row.remove(name);
            } else {
                put(row, name, attribute(value));
            }
        }
        if change["op"] == "delete" {
            assert!(row.is_empty());
        } else {
            states.push(row.clone());
        }
    }
    states
}

/// Every lease row of the dumps, and of the recorded history.
pub(crate) fn lease_rows() -> Vec<Item> {
    let dumped = dumps().into_values();
    let mut rows: Vec<Item> = dumped.flat_map(|dump| items(&dump, LEASE_TABLE)).collect();
    rows.extend(lease_states());
    rows
}

/// Rows of the three-table layout with their key under the name that the one-table layout uses.
fn rekeyed(mut rows: Vec<Item>, key: &str) -> Vec<Item> {
    for row in &mut rows {
        let value = row.remove(key).unwrap();
        put(row, attributes::KEY, value);
    }
    rows
}

/// Sets have no order.
fn sorted(mut item: Item) -> Item {
    for value in item.values_mut() {
        if let AttributeValue::Ss(texts) = value {
            texts.sort();
        }
    }
    item
}

fn decoded_and_encoded_again(row: &Item) -> Lease {
    assert_eq!(kind(row), RowKind::Lease, "{row:?}");
    let lease = decode_lease(row).unwrap();
    assert_eq!(lease_attributes(&lease), sorted(row.clone()));
    assert!(lease.is_written_by_foreigner(), "{row:?}");
    lease
}

fn picture(leases: &[Lease]) -> String {
    let ended = |shard: &ShardId| {
        leases
            .iter()
            .any(|lease| lease.shard == *shard && lease.is_ended())
    };
    let present = |shard: &ShardId| leases.iter().any(|lease| lease.shard == *shard);
    let mut lines = Vec::new();
    for lease in leases {
        let owner = lease.owner.as_ref().map_or("nobody", |owner| owner.as_str());
        let mut line = format!("  {} {owner} counter {}", lease.key, lease.counter);
        if let Some(from) = &lease.checkpoint_owner {
            write!(line, ", handed over by {from}").unwrap();
        }
        if lease.owner_switches > 0 {
            write!(line, ", {} switches", lease.owner_switches).unwrap();
        }
        if lease.is_ended() {
            let children = lease.children.iter().map(ShardId::as_str).collect::<Vec<_>>();
            write!(line, ", ended, children {}", children.join(" ")).unwrap();
        } else if lease.checkpoint.is_initial() {
            write!(line, ", at {}", lease.checkpoint).unwrap();
        }
        let waits_for = lease
            .parents
            .iter()
            .filter(|parent| present(parent) && !ended(parent));
        for parent in waits_for {
            write!(line, ", blocked on {parent}").unwrap();
        }
        lines.push(line);
    }
    lines.sort();
    lines.join("\n")
}

#[test]
fn every_dumped_lease_survives_codec_with_its_handoffs() {
    let mut leases_by_dump = String::new();
    for (name, dump) in dumps() {
        let rows = items(&dump, LEASE_TABLE);
        let leases = rows.iter().map(decoded_and_encoded_again).collect::<Vec<_>>();
        assert!(!leases.is_empty(), "{name} holds no leases");
        writeln!(leases_by_dump, "{name}\n{}", picture(&leases)).unwrap();
    }
    let expected = fs::read_to_string(golden("handoffs.txt")).unwrap();
    assert_eq!(leases_by_dump, expected, "the leases are now:\n{leases_by_dump}");
}

#[test]
fn every_recorded_state_of_leases_survives_the_codec() {
    let (states, mut handoffs) = (lease_states(), Vec::new());
    for row in &states {
        let lease = decoded_and_encoded_again(row);
        if let Some(from) = &lease.checkpoint_owner {
            handoffs.push((
                lease.key.to_string(),
                from.to_string(),
                lease.owner.unwrap().to_string(),
            ));
        }
    }
    handoffs.dedup();
    let expected = ("shardId-000000000000", "w1", "w2");
    assert_eq!(
        handoffs,
        [(expected.0.into(), expected.1.into(), expected.2.into())]
    );
    assert_eq!(states.len(), 1077);
}

#[test]
fn the_lock_row_of_java_decodes() {
    let mut owners = Vec::new();
    for (name, dump) in dumps() {
        let rows = rekeyed(items(&dump, LOCK_TABLE), "key");
        assert!(
            rows.iter()
                .any(|row| key_of(row) == attributes::CLIENT_VERSION_KEY && kind(row) == RowKind::Other)
        );
        for row in rows.iter().filter(|row| kind(row) == RowKind::Lock) {
            let lock = decode_lock(row).unwrap();
            assert_eq!(lock.duration.as_secs(), 120, "{name}");
            assert!(!lock.released && lock.standby.is_none(), "{name}");
            let mut again = encode_lock(&lock);
            again.remove(attributes::ENTITY_TYPE);
            again.remove(attributes::LOCK_IS_OURS);
            assert_eq!(again, *row, "{name}");
            owners.push(lock.owner.to_string());
        }
    }
    owners.dedup();
    assert_eq!(owners, ["w1", "w3"]);
}

#[test]
fn our_client_version_of_new_application_is_javas() {
    for (name, dump) in dumps() {
        let rows = rekeyed(items(&dump, LOCK_TABLE), "key");
        let mut row = rows
            .into_iter()
            .find(|row| key_of(row) == attributes::CLIENT_VERSION_KEY)
            .unwrap();
        assert_eq!(client_version(&row), attributes::CLIENT_VERSION_3X, "{name}");
        let at = number::<i64>(&row, attributes::MODIFIED_MILLIS).unwrap();
        let (application, worker) = (LEASE_TABLE.parse().unwrap(), "w1".parse().unwrap());
        let mut ours = client_version_item(&application, &worker, Timestamp::from_millis(at));
        assert_eq!(ours.remove(attributes::APPLICATION), Some(s(LEASE_TABLE)));
        assert_eq!(
            ours.remove(attributes::ENTITY_TYPE),
            Some(s(attributes::CLIENT_VERSION_ENTITY))
        );
        // Java looks at its clock twice.
        let history = |row: &mut Item| {
            let AttributeValue::L(mut entries) = row.remove(attributes::HISTORY).unwrap() else {
                panic!("{name}: the history is no list");
            };
            assert_eq!(entries.len(), 1, "{name}");
            let AttributeValue::M(entry) = entries.remove(0) else {
                panic!("{name}: the history holds no map");
            };
            let mut entry = entry.into_iter().collect::<Item>();
            let millis = number::<i64>(&entry, attributes::MODIFIED_MILLIS).unwrap();
            assert!((at - 10..=at).contains(&millis), "{name}: {millis} and {at}");
            entry.remove(attributes::MODIFIED_MILLIS);
            entry
        };
        assert_eq!(history(&mut ours), history(&mut row), "{name}");
        assert_eq!(ours, row, "{name}");
    }
}

#[test]
fn our_worker_rows_have_attributes_of_java() {
    let ours = worker_attributes(&WorkerRow {
        id: "w1".parse().unwrap(),
        incarnation: None,
        touches: 1,
        failover: None,
        max_leases: None,
        max_throughput: None,
        updated: Timestamp::from_millis(1_795_229_643_999),
        started: None,
        version: None,
        orders: None,
    });
    // The three-table layout knows neither the kind of a row nor what its writer supports.
    let added = [
        attributes::ENTITY_TYPE,
        attributes::SUPPORT,
        attributes::SUPPORT_UPDATED_SECS,
        attributes::KEY,
    ];
    let ours = ours
        .keys()
        .filter(|name| !name.starts_with("rs") && !added.contains(&name.as_str()))
        .collect::<Vec<_>>();
    for (name, dump) in dumps() {
        for row in rekeyed(items(&dump, WORKER_TABLE), "wid") {
            let theirs = row
                .keys()
                .filter(|name| *name != attributes::KEY)
                .collect::<Vec<_>>();
            assert_eq!(ours, theirs, "{name}");
            assert!(
                row[attributes::UPDATED_SECS].is_n() && row[attributes::METRICS].is_m(),
                "{name}"
            );
        }
    }
}

#[test]
fn our_lease_rows_add_only_private_attributes() {
    let mut known = BTreeMap::<String, AttributeValue>::new();
    for (_, dump) in dumps() {
        for row in items(&dump, LEASE_TABLE) {
            known.extend(row);
        }
    }
    let lease = Lease {
        owner: Some("w1".parse().unwrap()),
        checkpoint_owner: Some("w2".parse().unwrap()),
        parents: ["shardId-1".parse().unwrap()].into(),
        children: ["shardId-3".parse().unwrap()].into(),
        hash_range: Some(kcl_core::types::HashKeyRange::WHOLE),
        throughput: Some(1.5),
        ..Lease::unowned(
            "shardId-2".parse().unwrap(),
            kcl_core::types::Position::TrimHorizon,
        )
    };
    let handoff = AttributeValue::S("only in the recorded history".to_owned());
    known.insert(attributes::CHECKPOINT_OWNER.to_owned(), handoff);
    let ours = lease_attributes(&lease);
    assert_eq!(ours.keys().collect::<Vec<_>>(), known.keys().collect::<Vec<_>>());
    for (name, value) in &ours {
        assert_eq!(
            std::mem::discriminant(value),
            std::mem::discriminant(&known[name]),
            "{name}"
        );
    }
}

#[test]
fn worker_rows_of_java_decode_without_an_incarnation() {
    let mut ids = Vec::new();
    for (_, dump) in dumps() {
        for mut row in rekeyed(items(&dump, WORKER_TABLE), "wid") {
            // The three-table layout needs no entity type; the one-table layout writes it.
            put(&mut row, attributes::ENTITY_TYPE, s(attributes::WORKER_ENTITY));
            assert_eq!(kind(&row), RowKind::Worker);
            let worker = decode_worker(&row).unwrap();
            assert_eq!(
                (worker.incarnation, worker.touches, worker.failover),
                (None, 0, None)
            );
            assert!(worker.updated.as_secs() > 1_795_229_000);
            ids.push(worker.id.to_string());
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids, ["w1", "w2", "w3"]);
}
