//! Aggregated records go to and fro between `kcl-aggregation` and Amazon's `aws-kinesis-agg` for Python.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use kcl_aggregation::{Aggregator, Packed, UserRecord, hash_key_of, unpack};
use kcl_core::clock::Rng;
use kcl_tests::testbed;
use serde_json::{Value, json};

const LIMIT: usize = 50_000;

/// Partition key, explicit hash key, data.
type Put = (String, Option<u128>, Vec<u8>);

/// Which user records have an explicit hash key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum HashKeys {
    None,
    Some,
    All,
}

/// The interpreter that runs the peer, or `None` where there is none, which has been said then.
fn python(test: &str) -> Option<PathBuf> {
    testbed::kinesis_agg()
        .inspect_err(|left_out| left_out.report(test))
        .ok()
}

fn ask(python: &Path, request: &Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/aggregation_interop/peer.py");
    let mut peer = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = peer.stdin.take().unwrap();
    // It reads all before it writes.
    input.write_all(request.to_string().as_bytes()).unwrap();
    drop(input);
    let output = peer.wait_with_output().unwrap();
    assert!(output.status.success(), "the peer failed; see its words above");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// User records of many sizes under keys of many lengths, some of them used often.
fn puts(hash_keys: HashKeys) -> Vec<Put> {
    let mut rng = Rng::from_seed(7);
    (0..2_000)
        .map(|number| {
            let key = match number % 5 {
                0 => format!("truck-{number}"),
                1 => "ключ-鍵-🔑".to_owned(),
                2 => "k".repeat(1 + number % 256),
                _ => format!("truck-{}", number % 7),
            };
            let explicit = match hash_keys {
                HashKeys::None => false,
                HashKeys::Some => number % 3 == 0,
                HashKeys::All => true,
            };
            let hash_key = explicit.then(|| match number % 4 {
                0 => u128::MAX,
                1 => 0,
                _ => hash_key_of(&key),
            });
            let length = [0, 1, 100, 127, 128, 3_000][rng.below(6) as usize];
            (key, hash_key, vec![number as u8; length])
        })
        .collect()
}

fn packed(puts: &[Put], limit: usize) -> Vec<Packed> {
    let mut aggregator = Aggregator::with_limit(limit);
    let mut packed = Vec::new();
    for (key, hash_key, data) in puts {
        packed.extend(aggregator.add(key, *hash_key, data).unwrap());
    }
    packed.extend(aggregator.finish());
    packed
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &Value) -> Bytes {
    let hex = hex.as_str().unwrap();
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn decimal(number: Option<u128>) -> Value {
    json!(number.map(|number| number.to_string()))
}

/// Returns the records that the peer packs, with the outer keys.
fn packed_by_peer(python: &Path, puts: &[Put], limit: usize) -> Vec<Value> {
    let records: Vec<Value> = puts
        .iter()
        .map(|(key, hash_key, data)| json!([key, decimal(*hash_key), hex(data)]))
        .collect();
    let answer = ask(
        python,
        &json!({ "do": "pack", "limit": limit, "records": records }),
    );
    answer.as_array().unwrap().clone()
}

#[test]
fn what_the_python_library_packs_is_unpacked() {
    let Some(python) = python("what_the_python_library_packs_is_unpacked") else {
        return;
    };
    for hash_keys in [HashKeys::None, HashKeys::Some, HashKeys::All] {
        let puts = puts(hash_keys);
        let packed = packed_by_peer(&python, &puts, LIMIT);
        assert!(packed.len() > 10, "{hash_keys:?}: {} records", packed.len());
        let mut unpacked: Vec<Put> = Vec::new();
        for record in &packed {
            let aggregate = unpack(&bytes(&record[2])).unwrap().expect("an aggregated record");
            let records: Vec<UserRecord> = aggregate.records().collect::<Result<_, _>>().unwrap();
            for (index, record) in (0..).zip(records) {
                assert_eq!(record.sub_sequence_number, index);
                let key = record.partition_key.to_string();
                unpacked.push((key, record.explicit_hash_key, record.data.to_vec()));
            }
        }
        assert!(unpacked == puts, "{hash_keys:?}: other user records came out");
    }
}

#[test]
fn the_python_library_unpacks_what_was_packed() {
    let Some(python) = python("the_python_library_unpacks_what_was_packed") else {
        return;
    };
    // Not with hash keys in some records: the library takes the first of the table for those without.
    for hash_keys in [HashKeys::None, HashKeys::All] {
        let puts = puts(hash_keys);
        let packed = packed(&puts, LIMIT);
        let records: Vec<String> = packed.iter().map(|record| hex(&record.data)).collect();
        let answer = ask(&python, &json!({ "do": "unpack", "records": records }));
        let mut rest = puts.iter();
        let mut expected = Vec::new();
        for (number, record) in packed.iter().enumerate() {
            for (index, (key, hash_key, data)) in rest.by_ref().take(record.records).enumerate() {
                expected.push(json!([number, index, key, decimal(*hash_key), hex(data)]));
            }
        }
        assert!(
            answer == json!(expected),
            "{hash_keys:?}: other user records came out"
        );
    }
}

#[test]
fn both_pack_same_user_records_into_same_bytes() {
    let Some(python) = python("both_pack_same_user_records_into_same_bytes") else {
        return;
    };
    for hash_keys in [HashKeys::None, HashKeys::Some, HashKeys::All] {
        let puts = &puts(hash_keys)[..300];
        let ours: Vec<Value> = packed(puts, 1 << 20)
            .iter()
            .map(|record| {
                json!([
                    record.partition_key,
                    decimal(record.explicit_hash_key),
                    hex(&record.data)
                ])
            })
            .collect();
        assert_eq!(ours.len(), 1);
        assert!(ours == packed_by_peer(&python, puts, 1 << 20), "{hash_keys:?}");
    }
}

#[test]
fn both_take_record_with_wrong_md5_as_plain() {
    let Some(python) = python("both_take_record_with_wrong_md5_as_plain") else {
        return;
    };
    let mut data = packed(&puts(HashKeys::None)[..3], LIMIT).remove(0).data.to_vec();
    *data.last_mut().unwrap() ^= 1;
    assert!(unpack(&Bytes::from(data.clone())).unwrap().is_none());
    let answer = ask(&python, &json!({ "do": "unpack", "records": [hex(&data)] }));
    assert_eq!(answer, json!([[0, null, "outer", null, hex(&data)]]));
}
