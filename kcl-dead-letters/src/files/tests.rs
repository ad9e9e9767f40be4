use std::fs;
use std::time::Duration;

use crate::{DeadLetterFiles, ReadError, read_folder};
use bytesize::ByteSize;
use kcl_core::dead_letter::{DeadLetter, DeadLetterSink as _};
use kcl_core::types::{ApplicationName, Record, SequenceNumber, ShardId, Timestamp, WorkerId};

fn letter(number: u128, data: &str) -> DeadLetter {
    let record = Record::new(SequenceNumber::from(number), data.to_owned());
    let shard = ShardId::new("shardId-000000000000").unwrap();
    let app = ApplicationName::new("app").unwrap();
    DeadLetter::new(record, "trucks", shard, app, WorkerId::new("worker-1").unwrap())
}

#[tokio::test]
async fn letters_are_read_in_order_of_positions() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (
        DeadLetterFiles::open(&folder).unwrap(),
        DeadLetterFiles::open(&folder).unwrap(),
    );
    for n in [5, 1, 9] {
        one.send(&letter(n, "payload")).await.unwrap();
        other.send(&letter(n + 1, "payload")).await.unwrap();
    }
    let lines = read_folder(&folder).unwrap();
    let numbers: Vec<_> = lines
        .iter()
        .map(|line| line.letter.record.sequence_number().to_string())
        .collect();
    assert_eq!(numbers, ["1", "2", "5", "6", "9", "10"]);
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        2,
        "each sink has a file of its own, and no probe stays"
    );
}

#[tokio::test]
async fn of_several_copies_the_latest_failure_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let sink = DeadLetterFiles::open(&folder).unwrap();
    for (failure, error) in [(10, "first"), (30, "third"), (20, "second")] {
        let mut letter = letter(1, "payload");
        letter.last_failure = Timestamp::from_millis(failure);
        letter.error = error.to_owned();
        sink.send(&letter).await.unwrap();
    }
    let lines = read_folder(&folder).unwrap();
    assert_eq!(lines.len(), 1);
    assert_eq!((lines[0].letter.error.as_str(), lines[0].line), ("third", 2));
}

#[tokio::test]
async fn files_rotate_by_size_and_age() {
    let folder = tempfile::tempdir().unwrap();
    let small = DeadLetterFiles::open(&folder).unwrap().rotate_at(ByteSize::b(1));
    for n in 1..4 {
        small.send(&letter(n, "payload")).await.unwrap();
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
    let old = DeadLetterFiles::open(&folder)
        .unwrap()
        .rotate_after(Duration::ZERO);
    for n in 4..6 {
        old.send(&letter(n, "payload")).await.unwrap();
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 5);
    assert_eq!(read_folder(&folder).unwrap().len(), 5);
}

#[tokio::test]
async fn line_cut_off_by_crash_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let sink = DeadLetterFiles::open(&folder).unwrap();
    sink.send(&letter(1, "payload")).await.unwrap();
    let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&file).unwrap();
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, [&whole[..], &whole[..cut]].concat()).unwrap();
        assert_eq!(read_folder(&folder).unwrap().len(), 1, "{cut}");
    }
    // In the middle of a file it was not a crash.
    fs::write(&file, [&whole[..20], b"\n", &whole[..]].concat()).unwrap();
    let error = read_folder(&folder).unwrap_err();
    assert!(matches!(&error, ReadError::Invalid { line: 1, .. }), "{error}");
}

#[tokio::test]
async fn folder_that_vanishes_is_an_error_and_heals() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letters");
    let sink = DeadLetterFiles::open(&path).unwrap().rotate_at(ByteSize::b(1));
    fs::remove_dir_all(&path).unwrap();
    let error = sink.send(&letter(1, "payload")).await.unwrap_err();
    assert!(
        error.to_string().contains("letters") && !error.to_string().contains("payload"),
        "{error}"
    );
    fs::create_dir(&path).unwrap();
    sink.send(&letter(1, "payload")).await.unwrap();
    assert_eq!(read_folder(&path).unwrap().len(), 1);
}

#[test]
fn file_in_place_of_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "text").unwrap();
    assert!(DeadLetterFiles::open(&file).is_err());
    assert!(matches!(
        read_folder(folder.path().join("missing")),
        Err(ReadError::Io { .. })
    ));
}
