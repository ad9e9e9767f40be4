//! Reads a shard ahead of its processor, within bounds.

mod ends;
mod gaps;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::error::Causes;
use crate::limits::byte_budget::{BudgetPermit, ShardBudget};
use crate::limits::fetch_sizer::FetchSizer;
use crate::metrics::FetchOutcome;
use crate::ownership::Ownership;
use crate::ownership::backlog::SourceAnswer;
use crate::processor::fetched_batch::FetchedBatch;
use crate::retrieval::deaggregate::{AggregateFaults, Deaggregator, leave_out_done};
use crate::retrieval::end_check::EndCheck;
use crate::retrieval::fetch_room::{ArrivalRoom, room_to_unpack, wait_for_room};
use crate::retrieval::read_position::ReadPosition;
use crate::retrieval::start_position::ReadStart;
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::{Clock, ClockExt as _, Moment};
use crate::runtime::log_once;
use crate::runtime::rng::Rng;
use crate::runtime::task_scope::TaskPlace;
use crate::runtime::task_scope::TaskPolicy;
use crate::source::{Fetch, FetchLimit, RecordStream, SourceError, SourceErrorKind};
use crate::status::WaitReason;
use crate::streams::registry::OpenStream;
use crate::types::{Gap, Record};

/// Starts reading. The fetcher ends after the end of the shard, at a record that cannot be read, or when the receiver is dropped.
pub(crate) fn start_fetching(own: &Arc<Ownership>, start: ReadStart) -> mpsc::Receiver<FetchedBatch> {
    let ahead = usize::try_from(own.worker.settings.memory.prefetch_batches).unwrap_or(1);
    let (sender, receiver) = mpsc::channel(ahead.max(1));
    let (number, idle_since) = own.begin_fetching();
    let fetcher = Fetcher {
        rng: own.worker.rng.child("fetch").child(own.key.as_str()),
        own: Arc::clone(own),
        place: ReadPosition::new(start),
        watch: EndCheck::default(),
        opens_as_usual: false,
        gap: None,
        lost: None,
        looked: Moment::ZERO,
        stream: None,
        failures: 0,
        account: own.worker.budget.open(&own.key),
        sizer: FetchSizer::new(),
        number,
        idle_since,
    };
    let fetching = async move {
        tokio::select! {
            biased;
            () = sender.closed() => {}
            () = fetcher.run(&sender) => {}
        }
    };
    let name = format!("fetcher {}", own.key);
    let scope = &own.worker.scope;
    scope.spawn_at(TaskPlace::Processing, name, TaskPolicy::Job, fetching);
    receiver
}

struct Fetcher {
    own: Arc<Ownership>,
    rng: Rng,
    place: ReadPosition,
    watch: EndCheck,
    /// Whether a closed shard is opened as any other, since the rights for more are missing.
    opens_as_usual: bool,
    /// The gap before the records that are handed on next.
    gap: Option<Gap>,
    /// The gap at the end of a shard that is gone.
    lost: Option<Gap>,
    /// When it last asked a listing because nothing came.
    looked: Moment,
    stream: Option<Box<dyn RecordStream>>,
    failures: u32,
    account: ShardBudget,
    sizer: FetchSizer,
    /// By which the backlog knows it from those before.
    number: u64,
    /// Since when the source has brought no record, as the ownership knows it too.
    idle_since: Moment,
}

impl Fetcher {
    async fn run(mut self, sender: &mpsc::Sender<FetchedBatch>) {
        loop {
            // There must be a place for a batch before it is fetched: nothing waits outside the bound.
            let clock = Arc::clone(&self.own.worker.clock);
            let waits_since = clock.now();
            let Ok(place) = patiently(&*clock, &mut self.stream, sender.reserve()).await else {
                return;
            };
            self.was_held_up(waits_since);
            if let Some(end) = self.look_into_end().await {
                self.hold_at_lost_end().await;
                place.send(FetchedBatch::ended(end));
                return;
            }
            let own = &self.own;
            let room = async {
                loop {
                    until_known(own).await;
                    if own.until_free(true, |reason| own.fetcher_waits(reason)).await {
                        own.fetcher_goes_on();
                    }
                    self.sizer.seed(self.account.per_record_elsewhere());
                    let room = room_for(own, &self.account, self.sizer).await;
                    // It may have been paused while it waited for room.
                    if own.is_free() {
                        return room;
                    }
                }
            };
            let waits_since = clock.now();
            let room = patiently(&*clock, &mut self.stream, room).await;
            self.was_held_up(waits_since);
            let begun = clock.now();
            match self.fetch(room).await {
                Ok((fetch, room)) => {
                    if let Some(gap) = self.gap_to_hold_at(&fetch) {
                        drop((fetch, room));
                        self.hold_at(&gap).await;
                        continue;
                    }
                    let next = begun + fetch.wait;
                    let (records, answer) = self.take_in(fetch, room);
                    if self.gap.is_some() {
                        self.hold_at_lost_end().await;
                    }
                    let waits_since = clock.now();
                    if self.hand_on(records, answer, place, sender).await.is_break() {
                        return;
                    }
                    self.was_held_up(waits_since);
                    keep_pace(&self.own, next).await;
                }
                Err(error) => {
                    self.recover(&error, begun).await;
                }
            }
        }
    }

    /// Reads once, for as many records as the room is likely to hold. Returns the room that the answer has.
    async fn fetch(&mut self, room: BudgetPermit) -> Result<(Fetch, BudgetPermit), SourceError> {
        let own = Arc::clone(&self.own);
        let worker = &own.worker;
        let most = worker.flow_control.most(&own.scopes).unwrap_or(u32::MAX);
        let most = most.min(worker.settings.reading.max_batch_records);
        let bytes = worker.flow_control.most_bytes(&own.scopes).unwrap_or(u64::MAX);
        let records = self.sizer.records_for(room.bytes().min(bytes), most);
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open().await?,
        };
        let landing = ArrivalRoom::new(&own, &self.account, records, room);
        let fetch = stream.next_announced(FetchLimit { records }, &landing).await;
        let (room, announced) = landing.into_room();
        // A stream stays usable after an error.
        self.stream = Some(stream);
        let fetch = match (fetch, announced) {
            (Ok(fetch), _) => fetch,
            (Err(error), announced) => {
                if let Some(bytes) = announced {
                    self.sizer.missed(bytes);
                }
                return Err(error);
            }
        };
        if let Err(error) = self.place.check_oldest(&fetch) {
            self.stream = None;
            return Err(error);
        }
        Ok((fetch, room))
    }

    async fn open(&mut self) -> Result<Box<dyn RecordStream>, SourceError> {
        let source = &self.own.stream.source;
        let (shard, position) = (self.own.context.shard(), self.place.position().clone());
        let opens_closed = self.watch.is_closed() && self.place.is_fixed() && !self.opens_as_usual;
        let opened = match opens_closed {
            true => source.open_closed(shard, position).await,
            false => source.open(shard, position).await,
        };
        match &opened {
            Ok(_) => {
                self.place.opened();
                if self.place.is_fixed() {
                    self.watch.opened();
                }
            }
            Err(error) if error.kind() == SourceErrorKind::Invalid => {
                if let Some(refused) = self.place.refused() {
                    tracing::warn!(%refused, error = %Causes(error),
                        "the service refuses the position; reading goes on at the oldest record that it keeps");
                }
            }
            Err(_) => {}
        }
        opened
    }

    /// Lets go of the reader at hand. The next one begins at the last record that was handed on.
    fn reopen(&mut self) {
        self.stream = None;
        self.place.back_to_last();
    }

    /// Notes what came, without what is done, and makes the room what that takes: the whole if there is room for all.
    fn take_in(&mut self, mut fetch: Fetch, mut room: BudgetPermit) -> (Deaggregator, SourceAnswer) {
        let own = Arc::clone(&self.own);
        let worker = &own.worker;
        let now = worker.clock.now();
        self.end_failures();
        let first = match self.place.done() {
            None => fetch.records.first().map(|first| first.sequence_number().clone()),
            Some(_) => None,
        };
        let gap = self.place.gap_before(&fetch);
        let named = std::mem::take(&mut fetch.children);
        let (mut taken, mut size) = (fetch.records.len(), total_size(&fetch.records));
        let mut answer = SourceAnswer {
            came: now,
            behind: fetch.behind.unwrap_or_default(),
            span: span(&fetch.records),
            brings: false,
            is_whole: true,
        };
        let bytes = FetchSizer::of(taken, fetch.bytes);
        let asked = self.sizer.min_bytes();
        self.sizer.observe(taken, bytes);
        if let Some(per_record) = self.sizer.seen() {
            self.account.tell_per_record(per_record);
        }
        let how = worker.settings.reading.aggregation;
        let mut records = fetch.records;
        if let Some(done) = self.place.done() {
            leave_out_done(&mut records, how, done);
        }
        let outcome = if records.is_empty() {
            FetchOutcome::Empty
        } else {
            FetchOutcome::Records
        };
        worker.metrics.fetched(outcome);
        let mut is_part = false;
        if records.is_empty() {
            room.set(0);
        } else if !self.settle(&mut room, bytes, fetch.kept) {
            is_part = self.keep_what_fits(&mut records, &mut room, asked);
            if is_part {
                (taken, size) = (records.len(), total_size(&records));
            }
        }
        worker.flow_control.took(&own.scopes, taken, size, now);
        let begun = self.place.done().map(|done| done.position.clone());
        if let Some(last) = records.last() {
            self.place.handed_on(last.sequence_number());
        }
        let brings = !records.is_empty() || is_part;
        if brings {
            self.idle_since = now;
            self.watch.brought_records();
        }
        let hash_range = own.fetched(now, first.as_ref(), brings);
        let end = match is_part {
            true => None,
            false => self.judge_end(fetch.end, named),
        };
        if let Some(gap) = gap.or_else(|| self.place.gap_at(end.as_ref())) {
            self.report_gap(&gap);
            self.gap = Some(gap);
        }
        answer.is_whole = !is_part;
        let records = Deaggregator::new(records, how, hash_range, begun);
        (records.of_answer(room, fetch.behind, end), answer)
    }

    /// Hands the records of an answer to the consumer, in batches for which there is room. Breaks where nothing is read after them, or nothing more is wanted.
    async fn hand_on<'a>(
        &mut self,
        mut records: Deaggregator,
        answer: SourceAnswer,
        place: mpsc::Permit<'a, FetchedBatch>,
        sender: &'a mpsc::Sender<FetchedBatch>,
    ) -> ControlFlow<()> {
        let own = Arc::clone(&self.own);
        let clock = &*own.worker.clock;
        let mut place = Some(place);
        loop {
            let to = match place.take() {
                Some(place) => place,
                None => match patiently(clock, &mut self.stream, sender.reserve()).await {
                    Ok(place) => place,
                    Err(_) => return ControlFlow::Break(()),
                },
            };
            let room = match records.is_plain() {
                true => None,
                false => {
                    let room = room_to_unpack(&own, &self.account, &records);
                    Some(patiently(clock, &mut self.stream, room).await)
                }
            };
            let mut batch = records.next(room);
            if !batch.is_empty() || batch.unreadable.is_some() {
                batch.gap = self.gap.take();
            }
            self.report(records.take_faults());
            let (ends, is_rest) = (batch.is_last(), records.is_empty());
            let part = SourceAnswer {
                brings: !batch.is_empty(),
                is_whole: answer.is_whole && is_rest && batch.unreadable.is_none(),
                ..answer
            };
            own.handed_on(self.number, part);
            match part.brings || ends {
                true => to.send(batch),
                false => place = Some(to),
            }
            match () {
                () if ends => return ControlFlow::Break(()),
                () if is_rest => return ControlFlow::Continue(()),
                () => own.step(),
            }
        }
    }

    /// The shard was read.
    fn end_failures(&mut self) {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, "the shard can be read again");
            self.failures = 0;
        }
    }

    /// Makes the room what the answer takes, with the rest that the source keeps. If there is none for that, the source drops that rest, and reads it
    /// again. Returns `true` if there is room for the records at least, if need be a little beyond the budget: rather that than to read them again.
    fn settle(&mut self, room: &mut BudgetPermit, bytes: u64, kept: usize) -> bool {
        if kept > 0 {
            if room.settle(bytes.saturating_add(kept as u64)) {
                return true;
            }
            if let Some(stream) = &mut self.stream {
                stream.pause();
            }
        }
        room.settle(bytes) || room.overdraw(bytes)
    }

    /// Copies the records for which there is room, which frees the rest of the answer. Returns `true` if there are others, which are read again.
    ///
    /// `asked` is the room for one record that was asked for. One that takes no more than that is kept in any case: there will never be
    /// more room for it.
    fn keep_what_fits(&mut self, records: &mut Vec<Record>, room: &mut BudgetPermit, asked: u64) -> bool {
        let mut kept = 0;
        let fits = |record: &&Record| {
            let size = FetchSizer::of(1, record.size());
            let fits = kept + size <= room.bytes() || (kept == 0 && size <= asked);
            if fits {
                kept += size;
            }
            fits
        };
        let fitting: Vec<_> = records.iter().take_while(fits).map(Record::detached).collect();
        let is_part = fitting.len() < records.len();
        if let Some(next) = records.get(fitting.len()) {
            // Read again once there is room for it.
            self.sizer.observe(1, FetchSizer::of(1, next.size()));
        }
        if let (None, Some(first)) = (fitting.last(), records.first()) {
            self.place.go_to(first.sequence_number().detached());
            self.stream = None;
        } else if is_part && let Some(last) = fitting.last() {
            self.place.go_to(last.sequence_number().clone());
            self.stream = None;
        }
        room.set(kept);
        *records = fitting;
        is_part
    }

    /// Counts what is odd about user records, and says each kind once for the shard.
    fn report(&self, faults: AggregateFaults) {
        let (own, worker) = (&self.own, &self.own.worker);
        let AggregateFaults {
            outside,
            withheld,
            invalid_hash_keys,
        } = faults;
        if outside > 0 {
            worker.metrics.outside_shard(outside, withheld);
            if !own.said_outside.swap(true, Ordering::Relaxed) {
                let how = worker.settings.reading.aggregation;
                tracing::warn!(
                    outside,
                    withheld,
                    ?how,
                    "aggregated records hold user records of another shard: after a split a producer may send these again; the setting `aggregation` says what becomes of them"
                );
            }
        }
        if invalid_hash_keys > 0 {
            worker.metrics.invalid_hash_keys(invalid_hash_keys);
            if !own.said_invalid_hash_key.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    records = invalid_hash_keys,
                    "explicit hash keys of user records are no numbers and are read as absent: correct the producer"
                );
            }
        }
    }

    /// Waits after a failure, longer each time.
    async fn recover(&mut self, error: &SourceError, begun: Moment) {
        let own = Arc::clone(&self.own);
        let worker = &own.worker;
        self.failures = self.failures.saturating_add(1);
        let throttled = error.kind() == SourceErrorKind::Throttled;
        let outcome = if throttled {
            FetchOutcome::Throttled
        } else {
            FetchOutcome::Failed
        };
        worker.metrics.fetched(outcome);
        own.show(|facts| facts.trouble = Some(error.kind()));
        // The shard is held for as long as the service answers like this: nothing would be better at another worker.
        if error.kind().is_answer() {
            own.step();
        }
        if error.kind() == SourceErrorKind::Denied && self.watch.is_closed() {
            self.opens_as_usual = !self.opens_as_usual;
            self.reopen();
        }
        if error.kind() == SourceErrorKind::NotFound {
            worker.streams.doubt_shard(&self.own.stream, worker.clock.now());
        }
        if throttled {
            tracing::debug!("throttled");
        } else if log_once::is_due(self.failures) {
            tracing::warn!(failures = self.failures, error = %Causes(error), "cannot read the shard, trying on");
        }
        let (first, longest) = match error.kind() {
            SourceErrorKind::Throttled | SourceErrorKind::Unavailable => (FIRST_PAUSE, LONGEST_PAUSE),
            SourceErrorKind::Denied | SourceErrorKind::Invalid => (LONGEST_PAUSE, LONGEST_PAUSE),
            // Each try makes somebody ask for the stream. This fits into the shortest time after which a consumer is stuck.
            SourceErrorKind::NotFound => (
                LONGEST_PAUSE,
                (worker.settings.reading.stall_timeout / 2).max(LONGEST_PAUSE),
            ),
        };
        let pause = self
            .rng
            .jittered(Backoff::new(first, longest).after(self.failures));
        worker
            .clock
            .sleep_until(begun.max(worker.clock.now()) + pause)
            .await;
        if error.kind() == SourceErrorKind::NotFound {
            // Whatever others may do, this one knows no more than that it found nothing.
            hold_while(&self.own, OpenStream::is_asked_for).await;
            self.watch.not_found();
        }
    }
}

fn total_size(records: &[Record]) -> usize {
    records.iter().map(Record::size).sum()
}

/// The time from the first record to the last, by the service's own clock.
fn span(records: &[Record]) -> Duration {
    let arrived = |record: Option<&Record>| record.and_then(Record::approximate_arrival);
    let ends = arrived(records.first()).zip(arrived(records.last()));
    let millis = ends.map(|(first, last)| last.as_millis().saturating_sub(first.as_millis()));
    Duration::from_millis(millis.and_then(|millis| u64::try_from(millis).ok()).unwrap_or(0))
}

/// Waits for this. A source that would wait along for long must let go of what it keeps.
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
        own.step();
        own.worker.clock.sleep(FIRST_PAUSE).await;
    }
}

/// Waits for the next read as the source asks to. A long wait is a slower pace that somebody asked for, and no stall.
async fn keep_pace(own: &Ownership, next: Moment) {
    let clock = &own.worker.clock;
    // A consumer counts as stuck that names nothing for the stall timeout.
    let common = COMMON_PACE.min(own.worker.settings.reading.stall_timeout / 4);
    if next.saturating_since(clock.now()) <= common {
        clock.sleep_until(next).await;
        return;
    }
    own.fetcher_waits(WaitReason::RateLimit);
    clock.sleep_until(next).await;
    own.fetcher_goes_on();
}

/// Waits for a part of the worker's budget of bytes, as large as a batch may be and is likely to be.
async fn room_for(own: &Ownership, account: &ShardBudget, sizer: FetchSizer) -> BudgetPermit {
    let want = sizer.preferred_bytes(own.worker.settings.reading.max_batch_records);
    wait_for_room(own, account.reserve(want, sizer.min_bytes())).await
}

/// The pause after the first failure, before jitter: one read at the rate that Kinesis allows per shard.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long a source is kept ready although nobody reads it: shorter than what an unread subscription does to others that share its
/// connection, longer than most batches take.
const SOURCE_PATIENCE: Duration = Duration::from_secs(5);
/// The pace that needs no report: that of an idle shard, and of one that is read at the limits of Kinesis.
const COMMON_PACE: Duration = Duration::from_secs(5);
/// The longest pause between two tries: a service that comes back is noticed within seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
