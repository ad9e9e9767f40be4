//! Dead letters that are handed to a processor again: each is offered, none is lost, and the report accounts for each.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_aggregation::Aggregator;
use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::dead_letter::{DeadLetter, DeadLetterError, DeadLetterKey, DeadLetterSink};
use kcl_core::processor::{
    Decision, ErrorPolicy, FailedCall, Failure, FencingToken, LastResort, Policy, ProcessorError,
    RecordBatch, RecordProcessor, Retries, ShardContext, StartFrom,
};
use kcl_core::settings::CheckpointMode;
use kcl_core::types::{ApplicationName, Record, SequenceNumber, ShardId, Timestamp, WorkerId};
use kcl_core::{Redrive, RedriveReport};
use kcl_testkit::MemoryDeadLetters;
use md5::{Digest as _, Md5};

/// A letter of one shard of the stream `trucks`.
fn letter(shard: u32, number: u128, data: impl Into<bytes::Bytes>) -> DeadLetter {
    let record = Record::new(SequenceNumber::from(number), data);
    let shard = ShardId::new(format!("shardId-{shard:012}")).unwrap();
    let app = ApplicationName::new("app").unwrap();
    let mut letter = DeadLetter::new(record, "trucks", shard, app, WorkerId::new("worker-1").unwrap());
    letter.error = "failed before".to_owned();
    letter
}

/// Letters of the first shard: one for each payload, numbered from 1.
fn letters(payloads: &[&str]) -> Vec<DeadLetter> {
    let numbered = (1..).zip(payloads);
    numbered
        .map(|(number, payload)| letter(0, number, (*payload).to_owned()))
        .collect()
}

/// Runs the redrive, which ends within an hour of virtual time.
async fn run(redrive: Redrive, letters: impl IntoIterator<Item = DeadLetter>) -> RedriveReport {
    let (clock, hour) = (TokioClock::new(), Duration::from_secs(3600));
    let letters: Vec<_> = letters.into_iter().collect();
    let ended = clock.timeout(hour, redrive.run(letters)).await;
    ended.expect("a redrive ends")
}

fn positions<'a>(keys: impl IntoIterator<Item = &'a DeadLetterKey>) -> Vec<String> {
    keys.into_iter().map(|key| key.position.to_string()).collect()
}

fn left(report: &RedriveReport) -> Vec<(String, &str)> {
    report
        .left
        .iter()
        .map(|(key, why)| (key.position.to_string(), why.as_deref().unwrap_or_default()))
        .collect()
}

/// A processor that does what payloads say, and notes its calls.
#[derive(Clone, Default)]
struct Obedient {
    notes: Arc<Mutex<Notes>>,
    /// Checkpoints each record that is not `later` once it is processed; `later` records are checkpointed with the next one.
    checkpoints: bool,
    fails_at_end: bool,
    initialize_failures: usize,
}

#[derive(Default)]
struct Notes {
    /// The payloads of each call, those of failed calls too.
    calls: Vec<Vec<String>>,
    initialized: usize,
    arns: Vec<Option<String>>,
    ended: usize,
    panicked: bool,
}

impl Obedient {
    fn calls(&self) -> Vec<String> {
        let notes = self.notes.lock().unwrap();
        notes.calls.iter().map(|call| call.join(" ")).collect()
    }

    fn redrive(&self) -> Redrive {
        let processor = self.clone();
        Redrive::new(move |_: &ShardContext| processor.clone())
    }
}

#[async_trait]
impl RecordProcessor for Obedient {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        let mut notes = self.notes.lock().unwrap();
        notes.initialized += 1;
        notes.arns.push(shard.stream_arn().map(str::to_owned));
        match notes.initialized <= self.initialize_failures {
            true => Err(ProcessorError::from("not ready")),
            false => Ok(StartFrom::Checkpoint),
        }
    }

    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let text = |record: &Record| String::from_utf8_lossy(record.data()).into_owned();
        let payloads: Vec<String> = batch.iter().map(text).collect();
        self.notes.lock().unwrap().calls.push(payloads.clone());
        for (index, payload) in payloads.iter().enumerate() {
            match payload.as_str() {
                "fails" => return Err(ProcessorError::poison("no truck")),
                "named" => return Err(ProcessorError::poison("no truck").at(&batch[index])),
                "panics" => panic!("no truck"),
                "panics once" if !std::mem::replace(&mut self.notes.lock().unwrap().panicked, true) => {
                    panic!("no truck")
                }
                "later" => {}
                _ if self.checkpoints => batch.checkpoint_through(index).await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn shutdown_requested(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        self.notes.lock().unwrap().ended += 1;
        match self.fails_at_end {
            true => Err(ProcessorError::from("cannot flush")),
            false => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn letters_come_in_order_shard_by_shard() {
    let processor = Obedient::default();
    let shuffled = [
        letter(1, 10, "b1"),
        letter(0, 12, "a3"),
        letter(1, 30, "b2"),
        letter(0, 4, "a2"),
        letter(0, 3, "a1"),
        letter(0, 4, "a2"),
    ];
    let report = run(processor.redrive().max_batch_records(2), shuffled).await;
    assert_eq!(processor.calls(), ["a1 a2", "a3", "b1 b2"]);
    assert_eq!(positions(&report.processed), ["3", "4", "12", "10", "30"]);
    let notes = processor.notes.lock().unwrap();
    assert_eq!((notes.initialized, notes.ended), (2, 2));
    assert_eq!(
        report.left.len() + report.skipped.len() + report.dead_letters.len(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn failing_letter_is_found_and_sent_again() {
    for failing in ["fails", "named", "panics"] {
        let (processor, sink) = (Obedient::default(), MemoryDeadLetters::default());
        let redrive = processor
            .redrive()
            .error_policy(Policy::new(LastResort::DeadLetter))
            .dead_letters(sink.clone());
        let report = run(redrive, letters(&["a", "b", failing, "d", "e"])).await;
        assert_eq!(positions(&report.processed), ["1", "2", "4", "5"], "{failing}");
        assert_eq!(positions(&report.dead_letters), ["3"]);
        let again = &sink.letters()[0];
        let attempts = if failing == "panics" { 6 } else { 2 };
        assert_eq!((again.attempts, again.error.as_str()), (attempts, "no truck"));
        assert_eq!(again.panicked, failing == "panics");
        assert_eq!(again.first_failure, Timestamp::from_millis(0), "of the worker");
        assert!(again.last_failure > again.first_failure);
    }
}

#[tokio::test(start_paused = true)]
async fn skipped_letters_are_reported_and_passed() {
    let processor = Obedient::default();
    let redrive = processor.redrive().error_policy(Policy::new(LastResort::Skip));
    let report = run(redrive, letters(&["fails", "b", "fails", "fails"])).await;
    assert_eq!(positions(&report.skipped), ["1", "3", "4"]);
    assert_eq!(positions(&report.processed), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn poison_is_left_by_default() {
    let processor = Obedient::default();
    let mut all = letters(&["a", "named", "c"]);
    all.push(letter(1, 7, "other shard"));
    let report = run(processor.redrive(), all).await;
    assert_eq!(positions(&report.processed), ["1", "7"]);
    assert_eq!(
        left(&report),
        [("2".to_owned(), "Hold: no truck"), ("3".to_owned(), "")]
    );
    assert_eq!(
        processor.notes.lock().unwrap().ended,
        2,
        "a stopped shard is flushed too"
    );
}

fn packed(payloads: &[&str]) -> bytes::Bytes {
    let mut aggregator = Aggregator::new();
    for payload in payloads {
        aggregator.add("truck", None, payload.as_bytes()).unwrap();
    }
    aggregator.finish().unwrap().data
}

/// The sub-sequence number of a record of which nothing could be unpacked.
const LAST: u64 = i64::MAX.unsigned_abs();

fn of_unpack(mut letter: DeadLetter) -> DeadLetter {
    letter.call = FailedCall::Unpack;
    letter.record = letter.record.with_sub_sequence(LAST);
    letter
}

#[tokio::test(start_paused = true)]
async fn packed_letter_is_unpacked_before_the_offer() {
    let (processor, sink) = (Obedient::default(), MemoryDeadLetters::default());
    let all = [
        letter(0, 1, "before"),
        of_unpack(letter(0, 2, packed(&["a", "named", "c"]))),
        // The first user record was set aside by itself.
        letter(0, 2, "a"),
        letter(0, 3, "after"),
    ];
    let redrive = processor
        .redrive()
        .error_policy(Policy::new(LastResort::DeadLetter))
        .dead_letters(sink.clone());
    let report = run(redrive, all).await;
    assert_eq!(processor.calls(), ["before a named c after", "c after"]);
    assert_eq!(positions(&report.processed), ["1", "2", "2/2", "3"]);
    assert_eq!(positions(&report.dead_letters), ["2/1"]);
    let again = &sink.letters()[0];
    assert_eq!(
        (again.record.data().as_ref(), again.call),
        (&b"named"[..], FailedCall::ProcessRecords)
    );
    assert_eq!((again.attempts, again.is_packed()), (1, false));
}

#[tokio::test(start_paused = true)]
async fn letter_of_one_user_record_offers_that() {
    let processor = Obedient::default();
    for index in [0, 1, 2] {
        let mut letter = of_unpack(letter(0, 2, packed(&["a", "b", "c"])));
        letter.record = letter.record.with_sub_sequence(index);
        run(processor.redrive(), [letter]).await;
    }
    assert_eq!(processor.calls(), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn letter_that_stays_unreadable_is_left() {
    let processor = Obedient::default();
    let message = [0xff; 20];
    let corrupt = [&[0xf3, 0x89, 0x9a, 0xc2], &message[..], &Md5::digest(message)].concat();
    let all = [
        letter(0, 1, "before"),
        of_unpack(letter(0, 2, corrupt)),
        letter(0, 2, "first"),
        letter(0, 3, "after"),
    ];
    let report = run(processor.redrive(), all).await;
    assert_eq!(
        processor.calls(),
        ["before first after"],
        "no bytes of the envelope"
    );
    assert_eq!(positions(&report.processed), ["1", "2", "3"]);
    let [(key, Some(why))] = &report.left[..] else {
        panic!("{report:?}");
    };
    assert!(key.is_packed && !why.is_empty(), "{why}");
}

#[tokio::test(start_paused = true)]
async fn letters_of_other_applications_are_handed_over() {
    let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks";
    let processor = Obedient::default();
    let (mut of_other_app, mut of_other_account) = (letter(0, 7, "b"), letter(0, 7, "c"));
    of_other_app.application = ApplicationName::new("other-app").unwrap();
    of_other_account.stream_arn = Some(arn.to_owned());
    let report = run(
        processor.redrive(),
        [letter(0, 7, "a"), of_other_app, of_other_account],
    )
    .await;
    assert_eq!(
        processor.calls(),
        ["a", "c", "b"],
        "each by a processor of its own"
    );
    assert_eq!(report.processed.len(), 3);
    let notes = processor.notes.lock().unwrap();
    assert_eq!(
        notes.arns,
        [None, Some(arn.to_owned()), None],
        "the processor sees the ARN"
    );
}

#[tokio::test(start_paused = true)]
async fn newest_copy_is_handed_over_in_any_order() {
    for order in [[10, 30, 20], [30, 20, 10], [10, 20, 30]] {
        let processor = Obedient::default();
        let copies = order.map(|failure| {
            let mut copy = letter(0, 1, failure.to_string());
            copy.last_failure = Timestamp::from_millis(failure);
            copy
        });
        let report = run(processor.redrive(), copies).await;
        assert_eq!(processor.calls(), ["30"], "{order:?}");
        assert_eq!(report.processed.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn failed_flush_leaves_letters_of_the_shard() {
    let processor = Obedient {
        fails_at_end: true,
        ..Obedient::default()
    };
    let redrive = processor.redrive().error_policy(Policy::new(LastResort::Skip));
    let report = run(redrive, letters(&["a", "named", "c"])).await;
    assert_eq!(positions(&report.processed), [""; 0]);
    assert_eq!(positions(&report.skipped), ["2"]);
    let why = "shutdown_requested failed: cannot flush";
    assert_eq!(left(&report), [("1".to_owned(), why), ("3".to_owned(), "")]);
}

#[tokio::test(start_paused = true)]
async fn manual_checkpoints_say_what_is_processed() {
    let processor = Obedient {
        checkpoints: true,
        ..Obedient::default()
    };
    let redrive = processor
        .redrive()
        .checkpoint_mode(CheckpointMode::Manual)
        .max_batch_records(2);
    let report = run(redrive, letters(&["a", "b", "c", "later", "later"])).await;
    assert_eq!(processor.calls(), ["a b", "c later", "later"]);
    assert_eq!(positions(&report.processed), ["1", "2", "3"]);
    let why = "processed and not checkpointed";
    assert_eq!(left(&report), [("4".to_owned(), why), ("5".to_owned(), "")]);
}

#[tokio::test(start_paused = true)]
async fn panic_offers_again_what_is_not_checkpointed() {
    let (processor, sink) = (
        Obedient {
            checkpoints: true,
            ..Obedient::default()
        },
        MemoryDeadLetters::default(),
    );
    let redrive = processor
        .redrive()
        .error_policy(Policy::new(LastResort::DeadLetter))
        .dead_letters(sink.clone())
        .checkpoint_mode(CheckpointMode::Manual)
        .max_batch_records(1);
    let report = run(redrive, letters(&["a", "later", "named", "panics once", "e"])).await;
    let calls = ["a", "later", "named", "panics once", "later", "panics once", "e"];
    assert_eq!(
        processor.calls(),
        calls,
        "and the letter that is set aside does not come again"
    );
    assert_eq!(positions(&report.processed), ["1", "2", "4", "5"]);
    assert_eq!(positions(&report.dead_letters), ["3"]);
    assert_eq!(report.left, []);
    assert_eq!(sink.letters().len(), 1);
}

/// A sink with a bug.
#[derive(Debug)]
struct Panics;

impl DeadLetterSink for Panics {
    fn send<'a, 'b, 'c>(
        &'a self,
        _: &'b DeadLetter,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), DeadLetterError>> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        panic!("a bug of the sink")
    }
}

#[tokio::test(start_paused = true)]
async fn broken_sink_leaves_letters_with_the_reason() {
    let (fails, hangs) = (MemoryDeadLetters::default(), MemoryDeadLetters::default());
    fails.fail();
    hangs.hang();
    let sinks: [(Arc<dyn DeadLetterSink>, &str); 3] = [
        (Arc::new(fails), "the test says that the sink fails"),
        (Arc::new(hangs), "no answer within 30s"),
        (Arc::new(Panics), "a bug of the sink"),
    ];
    for (sink, why) in sinks {
        let processor = Obedient::default();
        let mut all = letters(&["a", "named", "c"]);
        all.push(letter(1, 7, "other shard"));
        let redrive = processor
            .redrive()
            .error_policy(Policy::new(LastResort::DeadLetter))
            .dead_letters(sink);
        let report = run(redrive, all).await;
        assert_eq!(positions(&report.processed), ["1", "7"], "{why}");
        let left = left(&report);
        assert_eq!((left.len(), left[0].0.as_str()), (2, "2"));
        assert!(
            left[0].1.contains(why) && left[0].1.contains("no truck"),
            "{left:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn dead_letter_without_sink_is_left() {
    let processor = Obedient::default();
    let redrive = processor
        .redrive()
        .error_policy(Policy::new(LastResort::DeadLetter));
    let report = run(redrive, letters(&["named", "b"])).await;
    assert_eq!(report.left.len(), 2);
    assert!(left(&report)[0].1.contains(".dead_letters("), "{report:?}");
}

/// The failures that a policy saw: the call, the attempt, its seconds since the first, its records, and the age of the oldest.
type Seen = Arc<Mutex<Vec<(FailedCall, u32, u64, usize, Option<Duration>)>>>;

#[derive(Debug, Clone)]
struct Watched {
    policy: Policy,
    seen: Seen,
}

impl ErrorPolicy for Watched {
    fn decide(&self, failure: &Failure<'_>) -> Decision {
        let seconds = failure.since_first.as_secs();
        let (call, attempt) = (failure.call, failure.attempt);
        let seen = (call, attempt, seconds, failure.records, failure.oldest_age);
        self.seen.lock().unwrap().push(seen);
        self.policy.decide(failure)
    }
}

#[tokio::test(start_paused = true)]
async fn policy_sees_what_a_worker_shows_it() {
    let second = Duration::from_secs(1);
    let policy = Watched {
        policy: Policy::new(LastResort::Skip)
            .unspecified(Retries::forever().pausing(second, second), LastResort::Skip),
        seen: Seen::default(),
    };
    let processor = Obedient {
        initialize_failures: 3,
        ..Obedient::default()
    };
    let clock = Arc::new(TokioClock::new());
    let arrived = Timestamp::from_millis(clock.wall().as_millis() - 60_000);
    let mut all = letters(&["a", "named", "panics once", "named"]);
    for letter in &mut all {
        letter.record = letter.record.clone().with_arrival(arrived);
    }
    let redrive = processor.redrive().clock(clock).error_policy(policy.clone());
    let report = run(redrive, all).await;
    assert_eq!(positions(&report.processed), ["1", "3"]);
    let seen = policy.seen.lock().unwrap();
    let counted: Vec<_> = seen
        .iter()
        .map(|(call, attempt, seconds, records, _)| (call.as_str(), *attempt, *seconds, *records))
        .collect();
    let expected = [
        ("initialize", 1, 0, 0),
        ("initialize", 2, 1, 0),
        ("initialize", 3, 2, 0),
        ("process_records", 1, 0, 4),
        ("process_records", 1, 0, 2),
        ("process_records", 1, 0, 2),
    ];
    assert_eq!(counted, expected);
    let ages: Vec<bool> = seen
        .iter()
        .map(|(.., age)| age.is_some_and(|age| age.as_secs() >= 60))
        .collect();
    assert_eq!(ages, [false, false, false, true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn limit_by_age_ends_retries_of_initialize() {
    let processor = Obedient {
        initialize_failures: usize::MAX,
        ..Obedient::default()
    };
    let minute = Retries::forever().for_at_most(Duration::from_secs(60));
    let redrive = processor
        .redrive()
        .error_policy(Policy::default().unspecified(minute, LastResort::Hold));
    let report = run(redrive, letters(&["a"])).await;
    assert_eq!(
        left(&report),
        [("1".to_owned(), "initialize failed (Hold): not ready")]
    );
}

#[tokio::test(start_paused = true)]
async fn processor_has_token_of_newest_ownership() {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tokens);
    let mut all = letters(&["a", "b", "c"]);
    for (letter, token) in all.iter_mut().zip([3, 9, 4]) {
        letter.fencing_token = FencingToken::new(token);
    }
    let processor = Obedient::default();
    let redrive = Redrive::new(move |shard: &ShardContext| {
        seen.lock().unwrap().push(shard.fencing_token().as_u64());
        processor.clone()
    });
    run(redrive, all).await;
    assert_eq!(*tokens.lock().unwrap(), [9]);
}
