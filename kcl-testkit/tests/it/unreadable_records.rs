//! Aggregated records that cannot be read, among records that fail: each has its own letter, and what can be read is delivered.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::processor::{
    FailedCall, LastResort, Policy, ProcessorError, RecordBatch, RecordProcessor, ShardContext,
};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::types::Record;
use kcl_testkit::ProcessorBench;
use md5::{Digest as _, Md5};

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0xf3, 0x89, 0x9a, 0xc2], message, &Md5::digest(message)].concat()
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// A user record with the partition key at this place of the table.
fn user(key: u8, data: &str) -> Vec<u8> {
    field(3, &[&[0x08, key], &field(3, data.as_bytes())[..]].concat())
}

/// An aggregated record that ends in the middle of a field.
fn cut_off() -> Vec<u8> {
    framed(&[0x1a, 99, 0x08])
}

/// Fails on records that begin with "poison", and notes the others.
#[derive(Clone, Default)]
struct Careful {
    panics: bool,
    processed: Arc<Mutex<Vec<String>>>,
}

impl Careful {
    fn processed(&self) -> Vec<String> {
        self.processed.lock().unwrap().clone()
    }
}

#[async_trait]
impl RecordProcessor for Careful {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        for record in &batch {
            let text = |record: &Record| String::from_utf8_lossy(record.data()).into_owned();
            if record.data().starts_with(b"poison") {
                match self.panics {
                    true => panic!("no truck"),
                    false => return Err(ProcessorError::poison("no truck").at(record)),
                }
            }
            self.processed.lock().unwrap().push(text(record));
        }
        Ok(())
    }
}

fn bench(careful: &Careful, settings: Settings) -> ProcessorBench {
    let careful = careful.clone();
    ProcessorBench::of(move |_: &ShardContext| careful.clone())
        .error_policy(Policy::new(LastResort::DeadLetter))
        .settings(settings)
        .start()
}

fn letters(bench: &ProcessorBench) -> Vec<(FailedCall, u32)> {
    let letters = bench.dead_letters().letters();
    letters
        .iter()
        .map(|letter| (letter.call, letter.attempts))
        .collect()
}

#[test]
fn unreadable_record_behind_poison_has_its_letter() {
    let careful = Careful::default();
    let mut bench = bench(&careful, Settings::default());
    for data in [&b"1"[..], b"poison", b"3", &cut_off(), b"5"] {
        bench.put("truck", data.to_vec());
    }
    bench.until_finished();
    assert_eq!(careful.processed(), ["1", "3", "5"]);
    assert_eq!(
        letters(&bench),
        [(FailedCall::ProcessRecords, 1), (FailedCall::Unpack, 1)]
    );
    let status = bench.status().leases.into_values().next().unwrap();
    assert_eq!(
        (status.dead_letters, status.failing, status.unreadable),
        (2, None, None)
    );
}

#[test]
fn corrupt_user_record_leaves_its_neighbours() {
    for poison in [None, Some("poison")] {
        let careful = Careful::default();
        let mut bench = bench(&careful, Settings::default());
        let first = poison.unwrap_or("0");
        let message = [
            field(1, b"t"),
            user(0, first),
            user(0, "1"),
            user(9, "2"),
            user(0, "3"),
            user(0, "4"),
        ];
        bench.put("truck", framed(&message.concat()));
        bench.put("truck", "5");
        bench.until_finished();
        let readable = ["0", "1", "3", "4", "5"];
        assert_eq!(careful.processed(), &readable[usize::from(poison.is_some())..]);
        let unpack = bench.dead_letters().letters().pop().unwrap();
        assert_eq!(
            (unpack.call, unpack.record.sub_sequence_number()),
            (FailedCall::Unpack, 2)
        );
        assert_eq!(letters(&bench).len(), 1 + usize::from(poison.is_some()));
    }
}

/// With manual checkpoints, of which none is made, the stored position stays before both.
#[test]
fn unreadable_record_is_set_aside_once_despite_panics() {
    let careful = Careful {
        panics: true,
        ..Careful::default()
    };
    let mut settings = Settings::default();
    settings.checkpoints.mode = CheckpointMode::Manual;
    let mut bench = bench(&careful, settings);
    for data in [&b"1"[..], &cut_off(), b"poison"] {
        bench.put("truck", data.to_vec());
    }
    bench.run(Duration::from_secs(600));
    assert_eq!(
        letters(&bench),
        [(FailedCall::Unpack, 1), (FailedCall::ProcessRecords, 5)]
    );
}
