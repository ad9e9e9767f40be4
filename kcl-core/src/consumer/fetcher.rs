//! Reads a shard ahead of its processor, within bounds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::budget::{Account, Appetite, Held, Records};
use crate::consumer::ownership::Ownership;
use crate::consumer::start::Start;
use crate::consumer::unpack::{Misplaced, Unpacked, Unreadable, unpack};
use crate::error::Causes;
use crate::lifecycle::{Answer, Backlog, WaitReason};
use crate::metrics::FetchOutcome;
use crate::model::{Record, RecordPosition};
use crate::processor::backoff;
use crate::rng::Rng;
use crate::source::{Fetch, FetchLimit, RecordStream, ShardEnd, SourceError, SourceErrorKind, StartPosition};
use crate::streams::OpenStream;
use crate::task::TaskPolicy;
use crate::time::{Clock, ClockExt as _, Moment};

/// What the fetcher has read: records, and what comes after them if that is no record.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) records: Records,
    pub(crate) behind: Option<Duration>,
    pub(crate) end: Option<ShardEnd>,
    /// What comes next and cannot be read.
    pub(crate) unreadable: Option<Unreadable>,
}

/// Starts reading. The fetcher ends after the end of the shard, at a record that cannot be read, or when the receiver is dropped.
pub(crate) fn start_fetching(own: &Arc<Ownership>, start: Start) -> mpsc::Receiver<Fetched> {
    let ahead = usize::try_from(own.services.settings.prefetch_batches).unwrap_or(1);
    let (sender, receiver) = mpsc::channel(ahead.max(1));
    own.progress.fetcher_begins();
    let fetcher = Fetcher {
        rng: own.services.rng.child("fetch").child(own.key.as_str()),
        own: Arc::clone(own),
        position: start.position,
        done: start.done,
        stream: None,
        failures: 0,
        account: own.services.budget.open(&own.key),
        appetite: Appetite::new(),
        saw_outside: false,
        number: own.with_backlog(Backlog::begin_fetching),
    };
    own.services
        .scope
        .spawn(format!("fetcher {}", own.key), TaskPolicy::Job, async move {
            tokio::select! {
                biased;
                () = sender.closed() => {}
                () = fetcher.run(&sender) => {}
            }
        });
    receiver
}

/// What is handed on of one answer.
struct Portion {
    records: Vec<Record>,
    end: Option<ShardEnd>,
    unreadable: Option<Unreadable>,
    misplaced: Vec<Misplaced>,
    /// How many records of the stream that was, and their bytes.
    taken: usize,
    size: usize,
    /// Whether there was no room for all.
    is_part: bool,
}

struct Fetcher {
    own: Arc<Ownership>,
    rng: Rng,
    /// Where to open the shard when there is no stream.
    position: StartPosition,
    stream: Option<Box<dyn RecordStream>>,
    /// Records up to and including this one were handed on, or are done.
    done: Option<RecordPosition>,
    failures: u32,
    account: Account,
    appetite: Appetite,
    saw_outside: bool,
    /// By which the backlog knows it from those before.
    number: u64,
}

impl Fetcher {
    async fn run(mut self, sender: &mpsc::Sender<Fetched>) {
        loop {
            // There must be a place for a batch before it is fetched: nothing waits outside the bound.
            let clock = Arc::clone(&self.own.services.clock);
            let Ok(place) = patiently(&*clock, &mut self.stream, sender.reserve()).await else {
                return;
            };
            let own = &self.own;
            let room = async {
                loop {
                    until_known(own).await;
                    own.until_free(true, |reason| own.fetcher_waits(reason)).await;
                    own.fetcher_goes_on();
                    self.appetite.hear(self.account.per_record_elsewhere());
                    let room = room_for(own, &self.account, self.appetite).await;
                    // It may have been paused while it waited for room.
                    if own.is_free() {
                        return room;
                    }
                }
            };
            let room = patiently(&*clock, &mut self.stream, room).await;
            let begun = self.own.services.clock.now();
            match self.fetch(room.bytes()).await {
                Ok(fetch) => {
                    let next = begun + fetch.wait;
                    if let Some(fetched) = self.take_in(fetch, room) {
                        let ends = fetched.end.is_some() || fetched.unreadable.is_some();
                        place.send(fetched);
                        if ends {
                            return;
                        }
                    }
                    keep_pace(&self.own, next).await;
                }
                Err(error) => {
                    drop(room);
                    self.recover(&error, begun).await;
                }
            }
        }
    }

    /// Reads once, for as many records as the room is likely to hold.
    async fn fetch(&mut self, room: u64) -> Result<Fetch, SourceError> {
        let services = &self.own.services;
        let most = services.brakes.most(&self.own.scopes).unwrap_or(u32::MAX);
        let most = most.min(services.settings.max_batch_records);
        let bytes = services.brakes.most_bytes(&self.own.scopes).unwrap_or(u64::MAX);
        let records = self.appetite.records_for(room.min(bytes), most);
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let source = &self.own.stream.source;
                source
                    .open(self.own.context.shard(), self.position.clone())
                    .await?
            }
        };
        let fetch = stream.next(FetchLimit { records }).await;
        // A stream stays usable after an error.
        self.stream = Some(stream);
        fetch
    }

    /// Unpacks what came and leaves out what is done; `None` when nothing is left to hand on.
    fn take_in(&mut self, fetch: Fetch, mut room: Held) -> Option<Fetched> {
        let own = Arc::clone(&self.own);
        let services = &own.services;
        let now = services.clock.now();
        own.progress.step(now);
        self.end_failures();
        if let (StartPosition::Latest, Some(first)) = (&self.position, fetch.records.first()) {
            own.begun_at(first.sequence_number());
        }
        let (behind, span) = (fetch.behind, span(&fetch.records));
        let portion = self.unpack(fetch, &mut room);
        services
            .brakes
            .took(&own.scopes, portion.taken, portion.size, now);
        self.report_misplaced(&portion.misplaced);
        let Portion {
            records,
            end,
            unreadable,
            is_part,
            ..
        } = portion;
        if let Some(last) = records.last() {
            self.done = Some(last.position().detached());
        }
        let outcome = if records.is_empty() {
            FetchOutcome::Empty
        } else {
            FetchOutcome::Records
        };
        services.metrics.fetched(outcome);
        let answer = Answer {
            came: now,
            behind: behind.unwrap_or_default(),
            span,
            brings: !records.is_empty(),
            is_whole: !is_part && unreadable.is_none(),
        };
        own.with_backlog(|backlog| backlog.fetched(self.number, answer));
        let is_news = !records.is_empty() || end.is_some() || unreadable.is_some();
        is_news.then_some(Fetched {
            records: Records::held(records, room),
            behind,
            end,
            unreadable,
        })
    }

    /// Unpacks an answer, and makes the room what the records take that are handed on: all of them if there is room for all.
    fn unpack(&mut self, fetch: Fetch, room: &mut Held) -> Portion {
        let (taken, size) = (fetch.records.len(), total_size(&fetch.records));
        let how = self.own.services.settings.aggregation;
        let range = self.own.row().hash_range;
        let Unpacked {
            mut records,
            unreadable,
            mut misplaced,
        } = unpack(fetch.records, how, range, self.done.as_ref());
        let bytes = Appetite::of(records.len(), fetch.bytes);
        let asked = self.appetite.least();
        self.appetite.learn(taken, bytes);
        if let Some(per_record) = self.appetite.seen() {
            self.account.tell_per_record(per_record);
        }
        if records.is_empty() {
            room.set(0);
        } else if !self.settle(room, bytes, fetch.kept) && self.keep_what_fits(&mut records, room, asked) {
            // The others are read again, and counted then.
            let last = records.last().map(Record::sequence_number);
            misplaced.retain(|aggregate| last.is_some_and(|last| aggregate.sequence <= *last));
            let whole = |record: &&Record| record.position().sub_sequence == 0;
            return Portion {
                taken: records.iter().filter(whole).count(),
                size: total_size(&records),
                records,
                misplaced,
                end: None,
                unreadable: None,
                is_part: true,
            };
        }
        Portion {
            taken,
            size,
            records,
            misplaced,
            // Nothing is read beyond a record that cannot be read.
            end: fetch.end.filter(|_| unreadable.is_none()),
            unreadable,
            is_part: false,
        }
    }

    /// The shard was read.
    fn end_failures(&mut self) {
        let own = &self.own;
        if self.failures > 0 {
            tracing::info!(lease = %own.key, failures = self.failures, "the shard can be read again");
            self.failures = 0;
        }
        let board = &own.services.board;
        board.update_lease(&own.key, |status| status.trouble = None);
    }

    /// Makes the room what the answer takes, with what the source keeps of it. If there is none for that, the source lets go of it, and reads it
    /// again. Says whether there is room for the records at least.
    fn settle(&mut self, room: &mut Held, bytes: u64, kept: usize) -> bool {
        if kept > 0 {
            if room.settle(bytes.saturating_add(kept as u64)) {
                return true;
            }
            if let Some(stream) = &mut self.stream {
                stream.pause();
            }
        }
        room.settle(bytes)
    }

    /// Copies the records for which there is room, which frees the rest of the answer. Says whether there are others, which are read again.
    ///
    /// `asked` is the room for one record that was asked for. One that takes no more than that is kept in any case: there will never be
    /// more room for it.
    fn keep_what_fits(&mut self, records: &mut Vec<Record>, room: &mut Held, asked: u64) -> bool {
        let mut kept = 0;
        let fits = |record: &&Record| {
            let size = Appetite::of(1, record.size());
            let fits = kept + size <= room.bytes() || (kept == 0 && size <= asked);
            if fits {
                kept += size;
            }
            fits
        };
        let fitting: Vec<_> = records.iter().take_while(fits).map(Record::detached).collect();
        let is_part = fitting.len() < records.len();
        if let (None, Some(first)) = (fitting.last(), records.first()) {
            // Read again once there is room for it.
            self.appetite.learn(1, Appetite::of(1, first.size()));
            self.position = StartPosition::AtSequence(first.sequence_number().detached());
            self.stream = None;
        } else if is_part && let Some(last) = fitting.last() {
            self.position = StartPosition::AtSequence(last.sequence_number().clone());
            self.stream = None;
        }
        room.set(kept);
        *records = fitting;
        is_part
    }

    /// Says once that user records do not belong to the shard, and counts them all.
    fn report_misplaced(&mut self, aggregates: &[Misplaced]) {
        if aggregates.is_empty() {
            return;
        }
        let outside = aggregates.iter().map(|aggregate| aggregate.outside).sum();
        let withheld = aggregates.iter().map(|aggregate| aggregate.withheld).sum();
        let services = &self.own.services;
        services.metrics.outside_shard(outside, withheld);
        if !std::mem::replace(&mut self.saw_outside, true) {
            let how = services.settings.aggregation;
            tracing::warn!(lease = %self.own.key, outside, withheld, ?how,
                "aggregated records hold user records of another shard; the setting `aggregation` says what becomes of them");
        }
    }

    /// Waits after a failure, longer each time.
    async fn recover(&mut self, error: &SourceError, begun: Moment) {
        let services = &self.own.services;
        self.failures = self.failures.saturating_add(1);
        let throttled = error.kind() == SourceErrorKind::Throttled;
        let outcome = if throttled {
            FetchOutcome::Throttled
        } else {
            FetchOutcome::Failed
        };
        services.metrics.fetched(outcome);
        services
            .board
            .update_lease(&self.own.key, |status| status.trouble = Some(error.kind()));
        // A throttle is an answer. So is a stream that is gone: the shard is held for as long as it is, and nothing would be
        // better at another worker.
        if matches!(
            error.kind(),
            SourceErrorKind::Throttled | SourceErrorKind::NotFound
        ) {
            self.own.progress.step(services.clock.now());
        }
        if error.kind() == SourceErrorKind::NotFound {
            services
                .streams
                .doubt_shard(&self.own.stream, services.clock.now());
        }
        if throttled {
            tracing::debug!(lease = %self.own.key, "throttled");
        } else if self.failures == 1 || self.failures.is_multiple_of(100) {
            tracing::warn!(lease = %self.own.key, failures = self.failures, error = %Causes(error), "cannot read the shard, trying on");
        }
        let (first, longest) = match error.kind() {
            SourceErrorKind::Throttled | SourceErrorKind::Unavailable => (FIRST_PAUSE, LONGEST_PAUSE),
            SourceErrorKind::Denied | SourceErrorKind::Invalid => (LONGEST_PAUSE, LONGEST_PAUSE),
            // Each try makes somebody ask for the stream. This fits into the shortest time after which a consumer is stuck.
            SourceErrorKind::NotFound => (
                LONGEST_PAUSE,
                (services.settings.stall_timeout / 2).max(LONGEST_PAUSE),
            ),
        };
        let pause = self.rng.jittered(backoff(first, longest, self.failures));
        services
            .clock
            .sleep_until(begun.max(services.clock.now()) + pause)
            .await;
        if error.kind() == SourceErrorKind::NotFound {
            // Whatever others may do, this one knows no more than that it found nothing.
            hold_while(&self.own, OpenStream::is_asked_for).await;
        }
    }
}

fn total_size(records: &[Record]) -> usize {
    records.iter().map(Record::size).sum()
}

/// The time from the first record to the last, by the service's own clock.
fn span(records: &[Record]) -> Duration {
    let arrived = |record: Option<&Record>| record.and_then(Record::arrived);
    let ends = arrived(records.first()).zip(arrived(records.last()));
    let millis = ends.map(|(first, last)| last.as_millis().saturating_sub(first.as_millis()));
    Duration::from_millis(millis.and_then(|millis| u64::try_from(millis).ok()).unwrap_or(0))
}

/// Waits for this. A source that would wait along for long is told to let go of what it keeps.
async fn patiently<T: Send>(
    clock: &dyn Clock,
    stream: &mut Option<Box<dyn RecordStream>>,
    wait: impl Future<Output = T> + Send,
) -> T {
    let mut wait = std::pin::pin!(wait);
    if let Ok(there) = clock.timeout(SOURCE_PATIENCE, &mut wait).await {
        return there;
    }
    if let Some(stream) = stream {
        stream.pause();
    }
    wait.await
}

/// Waits while it is not known whether the stream is still the one that the lease is for.
async fn until_known(own: &Ownership) {
    hold_while(own, OpenStream::is_doubted).await;
}

/// Holds the shard, as the status says. Nothing would be better at another worker.
async fn hold_while(own: &Ownership, is_open: impl Fn(&OpenStream) -> bool) {
    while is_open(&own.stream) {
        let clock = &own.services.clock;
        own.progress.step(clock.now());
        clock.sleep(FIRST_PAUSE).await;
    }
}

/// Waits for the next read as the source asks to. What takes long is a slower pace that somebody asked for, and no stall.
async fn keep_pace(own: &Ownership, next: Moment) {
    let clock = &own.services.clock;
    if next.saturating_since(clock.now()) <= COMMON_PACE {
        clock.sleep_until(next).await;
        return;
    }
    own.fetcher_waits(WaitReason::RateLimit);
    clock.sleep_until(next).await;
    own.fetcher_goes_on();
}

/// Waits for a part of the worker's budget of bytes, as large as a batch may be and is likely to be.
async fn room_for(own: &Ownership, account: &Account, appetite: Appetite) -> Held {
    let services = &own.services;
    let want = appetite.want(services.settings.max_batch_records);
    let mut reserved = std::pin::pin!(account.reserve(want, appetite.least()));
    tokio::select! {
        biased;
        room = &mut reserved => return room,
        () = std::future::ready(()) => {}
    }
    own.fetcher_waits(WaitReason::ByteBudget);
    let patience = services.settings.stall_timeout;
    let room = match services.clock.timeout(patience, &mut reserved).await {
        Ok(room) => room,
        Err(_) => {
            let (held, holders) = services.budget.holders(3);
            services.metrics.starved();
            tracing::warn!(lease = %own.key, waited = ?patience, held, ?holders,
                "not read, because others hold the worker's budget of bytes: raise memory_budget, or see what holds them up");
            reserved.await
        }
    };
    own.fetcher_goes_on();
    room
}

/// The pause after the first failure, before jitter: one read at the rate that Kinesis allows per shard.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long a source is kept ready although nobody reads it: shorter than what an unread subscription does to others that share its
/// connection, longer than most batches take.
const SOURCE_PATIENCE: Duration = Duration::from_secs(5);
/// The pace that no one needs to be told of: that of an idle shard, and of one that is read at the limits of Kinesis.
const COMMON_PACE: Duration = Duration::from_secs(5);
/// The longest pause between two tries: a service that comes back is noticed within seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
