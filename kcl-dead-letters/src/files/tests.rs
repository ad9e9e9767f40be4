use std::fs;
use std::path::Path;
use std::time::Duration;

use super::folders_with_new_names;
use crate::{DeadLetterFiles, LetterLine, ReadError, encode, read_folder};
use bytesize::ByteSize;
use kcl_core::dead_letter::{DeadLetter, DeadLetterSink as _};
use kcl_core::processor::FailedCall;
use kcl_core::types::{ApplicationName, Record, SequenceNumber, ShardId, Timestamp, WorkerId};

fn letter(number: u128, data: &str) -> DeadLetter {
    let record = Record::new(SequenceNumber::from(number), data.to_owned());
    let shard = ShardId::new("shardId-000000000000").unwrap();
    let app = ApplicationName::new("app").unwrap();
    DeadLetter::new(record, "trucks", shard, app, WorkerId::new("worker-1").unwrap())
}

fn numbers(folder: impl AsRef<Path>) -> Vec<String> {
    let number = |line: LetterLine| line.letter.record.sequence_number().to_string();
    read_folder(folder).unwrap().into_iter().map(number).collect()
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
    assert_eq!(numbers(&folder), ["1", "2", "5", "6", "9", "10"]);
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
    let sink = DeadLetterFiles::open(&path).unwrap();
    sink.send(&letter(7, "payload")).await.unwrap();
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

#[tokio::test]
async fn deleted_or_moved_file_takes_no_letter() {
    let (folder, archive) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sink = DeadLetterFiles::open(&folder).unwrap();
    let only_file = || fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    sink.send(&letter(1, "payload")).await.unwrap();
    fs::remove_file(only_file()).unwrap();
    sink.send(&letter(2, "payload")).await.unwrap();
    assert_eq!(numbers(&folder), ["2"], "not in the file that was deleted");
    fs::rename(only_file(), archive.path().join("moved.ndjson")).unwrap();
    sink.send(&letter(3, "payload")).await.unwrap();
    sink.send(&letter(4, "payload")).await.unwrap();
    assert_eq!(
        numbers(&folder),
        ["3", "4"],
        "not only in the file that was moved"
    );
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

/// The name of a test that runs itself again, in a process that may write short files only.
#[cfg(unix)]
const IN_LIMITED_PROCESS: &str = "DEAD_LETTERS_LIMITED_FOLDER";

#[cfg(unix)]
#[test]
fn failed_writes_leave_neither_lines_nor_files() {
    let Some(folder) = std::env::var_os(IN_LIMITED_PROCESS) else {
        let folder = tempfile::tempdir().unwrap();
        // Larger files fail as those of a full disk do: the beginning of the line is written.
        let limited = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "files::tests::failed_writes_leave_neither_lines_nor_files",
            ])
            .env(IN_LIMITED_PROCESS, folder.path())
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&limited.stdout);
        assert!(limited.status.success() && shown.contains("1 passed"), "{shown}");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let sink = DeadLetterFiles::open(&folder).unwrap();
        let large = "x".repeat(20_000);
        sink.send(&letter(1, "payload")).await.unwrap();
        for _ in 0..3 {
            sink.send(&letter(2, &large)).await.unwrap_err();
        }
        let files: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(fs::read(&files[0]).unwrap(), encode(&letter(1, "payload")));
        sink.send(&letter(3, "payload")).await.unwrap();
        assert_eq!(numbers(&folder), ["1", "3"]);
    });
}

#[tokio::test]
async fn letters_of_other_applications_and_accounts_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let sink = DeadLetterFiles::open(&folder).unwrap();
    let plain = letter(1, "payload");
    let (mut of_other_app, mut of_other_account) = (plain.clone(), plain.clone());
    of_other_app.application = ApplicationName::new("other-app").unwrap();
    of_other_account.stream_arn = Some("arn:aws:kinesis:eu-west-1:123456789012:stream/trucks".to_owned());
    for letter in [&plain, &of_other_app, &of_other_account] {
        sink.send(letter).await.unwrap();
        sink.send(letter).await.unwrap();
    }
    assert_eq!(read_folder(&folder).unwrap().len(), 3);
}

#[tokio::test]
async fn packed_and_first_user_record_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let sink = DeadLetterFiles::open(&folder).unwrap();
    let (user, mut packed) = (letter(1, "user record"), letter(1, "packed"));
    packed.call = FailedCall::Unpack;
    packed.last_failure = Timestamp::from_millis(1);
    sink.send(&user).await.unwrap();
    sink.send(&packed).await.unwrap();
    let read: Vec<_> = read_folder(&folder)
        .unwrap()
        .into_iter()
        .map(|line| line.letter)
        .collect();
    assert_eq!(read, [user, packed]);
}

#[test]
fn new_folders_are_synced_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let below = |path: &str| folder.path().join(path);
    let deep = below("a/b/c");
    assert_eq!(
        folders_with_new_names(&deep),
        [below("a/b"), below("a"), below("")]
    );
    DeadLetterFiles::open(&deep).unwrap();
    assert!(folders_with_new_names(&deep).is_empty());
    assert_eq!(
        folders_with_new_names(Path::new("missing-here/b")),
        [Path::new("missing-here"), Path::new(".")]
    );
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
