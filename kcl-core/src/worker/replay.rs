//! Reads a bounded window of a stream again: beside the live traffic, with a share of the read limit, and with an end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Error, ErrorKind};
use crate::lease::store::LeaseStore;
use crate::runtime::clock::{Clock, ClockExt as _, Moment, TokioClock};
use crate::runtime::lock::Locked;
use crate::source::{
    Arrival, Fetch, FetchLimit, PageToken, RecordStream, Shard, ShardFilter, ShardPage, SourceError,
    StartPosition, StreamDescription, StreamSource,
};
use crate::status::{Phase, WorkerStatus};
use crate::types::{LeaseKey, Position, ShardId, StreamIdentity, Timestamp};
use crate::worker::handle::WorkerHandle;

/// How many bytes per second Kinesis gives of a shard to all who poll it
/// ([quotas](https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html)).
const BYTES_PER_SECOND: f64 = 2.0 * 1024.0 * 1024.0;
/// The time between two reads at the limit of five per second and shard.
const READ_EVERY: f64 = 0.2;
/// How long after the end of the window a shard that brings nothing may still bring a record of the window.
const GRACE: Duration = Duration::from_secs(10);
/// How many answers without a record a shard needs to be read where the source does not report how far behind it is.
const EMPTY_ANSWERS: u32 = 20;
/// How often a reader asks that is at the end of the window. Nothing is sent for it.
const IDLE: Duration = Duration::from_secs(1);
/// How often the table is read to see whether all is done.
const LOOK: Duration = Duration::from_secs(1);
/// How long such a look may take: a listing and a scan, each of several pages.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// A bounded window of a stream, to be read again by an application of its own.
///
/// It delivers what arrived at `from` or later and before `until`, by the arrival time that Kinesis notes of each record. Shards keep their
/// order, and children begin when their parents are read. A shard is at its end with the first record that arrived at `until` or later, or
/// when nothing is left to read and `until` is ten seconds ago by the time of the service.
///
/// Give [`source`](Self::source) to a worker with an application name of its own, so that it has its own leases, and wait for
/// [`finished`](Self::finished). The initial position of the worker stays as it is by default. One worker, with this one stream, reads the
/// whole window. With a
/// table that outlives the process, a replay that was interrupted goes on where it stopped when it is started again.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::sync::Arc;
/// use kinesis_client::lease_store::LeaseStore;
/// use kinesis_client::processor::RecordProcessorFactory;
/// use kinesis_client::source::StreamSource;
/// use kinesis_client::types::Timestamp;
/// use kinesis_client::{Error, Replay, Worker};
///
/// async fn nine_to_ten(
///     stream: impl StreamSource,
///     store: Arc<dyn LeaseStore>,
///     processor: impl RecordProcessorFactory,
/// ) -> Result<(), Error> {
///     let nine = Timestamp::from_millis(1_800_003_600_000);
///     let ten = Timestamp::from_millis(1_800_007_200_000);
///     let replay = Replay::new(stream, nine, ten).share_percent(20);
///     let worker = Worker::builder("orders-fix-123")
///         .stream(replay.source())
///         .shared_lease_store(Arc::clone(&store))
///         .processor(processor)
///         .build()?
///         .start();
///     replay.finished(&worker, store.as_ref()).await?;
///     worker.shutdown();
///     worker.join().await.map(|_| ())
/// }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Replay {
    window: ReplayWindow,
}

/// The window of a [`Replay`] as a stream that a worker reads.
#[derive(Debug, Clone)]
pub struct ReplaySource {
    window: ReplayWindow,
}

#[derive(Clone)]
struct ReplayWindow {
    inner: Arc<dyn StreamSource>,
    from: Timestamp,
    until: Timestamp,
    /// Above 0, at most 1.
    share: f64,
    clock: Arc<dyn Clock>,
    /// The service's own time, and when it said so: clocks of two hosts are not compared.
    told: Arc<Locked<Option<(Timestamp, Moment)>>>,
    /// The shards of which everything that the window has was handed on, and since when.
    reached: Arc<Locked<BTreeMap<ShardId, Moment>>>,
}

impl fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayWindow")
            .field("inner", &self.inner)
            .field("from", &self.from)
            .field("until", &self.until)
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Replay").field(&self.window).finish()
    }
}

impl Replay {
    /// The records of the stream that arrived from `from` on, and before `until`. It reads at the pace of its source, until
    /// [`share_percent`](Self::share_percent) says less. With `until` not after `from` there are none.
    pub fn new(stream: impl StreamSource, from: Timestamp, until: Timestamp) -> Self {
        Self {
            window: ReplayWindow {
                inner: Arc::new(stream),
                from,
                until,
                share: 1.0,
                clock: Arc::new(TokioClock::new()),
                told: Arc::default(),
                reached: Arc::default(),
            },
        }
    }

    /// Sets how much of each shard's read limit it may use, in percent: 1 to 100, of 5 reads and 2 MiB per second. Others who poll the shard
    /// have the rest. A number out of range counts as the nearest one in range.
    pub fn share_percent(mut self, percent: u8) -> Self {
        self.window.share = f64::from(percent.clamp(1, 100)) / 100.0;
        self
    }

    /// Sets the source of time; the runtime's by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.window.clock = clock;
        self
    }

    /// The window as a stream, for [`WorkerBuilder::stream`](crate::WorkerBuilder::stream).
    pub fn source(&self) -> ReplaySource {
        ReplaySource {
            window: self.window.clone(),
        }
    }

    /// Returns once the worker has processed every record of the window. Shut the worker down then. The store is the worker's.
    ///
    /// A shard that is held by a failure is not finished, nor is one that is paused; see the worker's [status](WorkerHandle::status).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] when the worker stopped before: [`WorkerHandle::join`] says why. Throttles and failures of the stream or of
    /// the store end nothing; it asks again every second.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn finished(&self, worker: &WorkerHandle, store: &dyn LeaseStore) -> Result<(), Error> {
        let window = &self.window;
        loop {
            let status = worker.status();
            if status.phase >= Phase::Draining {
                let message = "the worker stopped before the end of the window; join it to learn why, and start the replay again";
                return Err(Error::new(ErrorKind::Internal, message));
            }
            if status.phase == Phase::Running {
                let look = window.is_read(&status, store);
                match window.clock.timeout(LOOK_WITHIN, look).await {
                    Ok(Ok(true)) => return Ok(()),
                    Ok(Ok(false)) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "it is not known how far the replay is; asking again");
                    }
                    Err(_) => tracing::debug!("no answer to how far the replay is; asking again"),
                }
            }
            window.clock.sleep(LOOK).await;
        }
    }
}

impl ReplayWindow {
    /// Whether all shards that have records of the window are processed.
    async fn is_read(&self, status: &WorkerStatus, store: &dyn LeaseStore) -> Result<bool, String> {
        // The rows before the shards: a shard that appears meanwhile has no row yet.
        let rows = store.scan().await.map_err(|error| error.to_string())?.leases;
        let leased = rows
            .into_iter()
            .map(|row| (row.shard, row.checkpoint == Position::ShardEnd));
        let leased = leased.collect();
        let (mut listed, mut page) = (Vec::new(), None);
        loop {
            let answer = self.inner.shards(ShardFilter::All, page).await;
            let answer = answer.map_err(|error| error.to_string())?;
            listed.extend(answer.shards);
            page = answer.next;
            if page.is_none() {
                break;
            }
        }
        let processed = self.processed(status);
        Ok(!listed.is_empty() && unread(&listed, &leased, &processed).is_empty())
    }

    /// The shards at the end of the window whose records are all finished: a record counts as old as the answer of the source before the
    /// one that brought it, so while one is unfinished the shard is as old as its last answer in the window at least.
    fn processed(&self, status: &WorkerStatus) -> BTreeSet<ShardId> {
        let now = self.clock.now();
        let mut processed = self.reached.lock().clone();
        processed.retain(|shard, reached| {
            let lease = status.leases.get(&LeaseKey::single_stream(shard));
            lease.is_some_and(|lease| {
                lease.unfinished == 0 && lease.freshness.at(status.at) < now.saturating_since(*reached)
            })
        });
        processed.into_keys().collect()
    }
}

/// Decides which shards are still to be read. `leased` has the shards with a row, and whether they are ended.
///
/// A shard below one that is at the end of the window has nothing in it. One without a row, above a shard with a row, was read, and its row
/// is cleaned up: the lease of a child is made when the parent ends.
fn unread<'a>(
    listed: &'a [Shard],
    leased: &BTreeMap<ShardId, bool>,
    processed: &BTreeSet<ShardId>,
) -> Vec<&'a ShardId> {
    let (mut parents, mut children) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
    for shard in listed {
        for parent in &shard.parents {
            parents.entry(&shard.id).or_default().push(parent);
            children.entry(parent).or_default().push(&shard.id);
        }
    }
    let is_done = |shard: &ShardId| match leased.get(shard) {
        Some(true) => true,
        Some(false) | None if processed.contains(shard) => true,
        Some(false) => any_beyond(shard, &parents, |above| processed.contains(above)),
        None => {
            any_beyond(shard, &parents, |above| processed.contains(above))
                || any_beyond(shard, &children, |below| leased.contains_key(below))
        }
    };
    listed
        .iter()
        .map(|shard| &shard.id)
        .filter(|shard| !is_done(shard))
        .collect()
}

/// Whether this holds for a shard that can be reached by these steps.
fn any_beyond<'a>(
    shard: &'a ShardId,
    steps: &BTreeMap<&'a ShardId, Vec<&'a ShardId>>,
    holds: impl Fn(&ShardId) -> bool,
) -> bool {
    let mut to_see = vec![shard];
    let mut seen = BTreeSet::from([shard]);
    while let Some(next) = to_see.pop() {
        for step in steps.get(next).into_iter().flatten() {
            if holds(step) {
                return true;
            }
            if seen.insert(step) {
                to_see.push(step);
            }
        }
    }
    false
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl StreamSource for ReplaySource {
    fn name(&self) -> &str {
        self.window.inner.name()
    }

    fn address(&self) -> &str {
        self.window.inner.address()
    }

    async fn identity(&self) -> Result<StreamIdentity, SourceError> {
        self.window.inner.identity().await
    }

    fn description(&self) -> StreamDescription {
        self.window.inner.description()
    }

    async fn shards(&self, filter: ShardFilter, page: Option<PageToken>) -> Result<ShardPage, SourceError> {
        self.window.inner.shards(filter, page).await
    }

    async fn open(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        let opened = self
            .window
            .inner
            .open(shard, self.window.begin(shard, start))
            .await?;
        Ok(self.window.reader(shard, opened))
    }

    async fn open_closed(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        let start = self.window.begin(shard, start);
        let opened = self.window.inner.open_closed(shard, start).await?;
        Ok(self.window.reader(shard, opened))
    }
}

impl ReplayWindow {
    /// Where a reader begins: nothing before the window is asked for. The progress of a former reader does not count any more.
    fn begin(&self, shard: &ShardId, start: StartPosition) -> StartPosition {
        self.reached.lock().remove(shard);
        match start {
            StartPosition::TrimHorizon | StartPosition::Latest => StartPosition::AtTimestamp(self.from),
            StartPosition::AtTimestamp(time) => StartPosition::AtTimestamp(time.max(self.from)),
            StartPosition::AtSequence(_) | StartPosition::AfterSequence(_) => start,
        }
    }

    /// Whether no record of the window is still to come, by the time of the service, which is asked once.
    async fn is_over(&self) -> bool {
        let mut told = *self.told.lock();
        if told.is_none() {
            let page = self.inner.shards(ShardFilter::Open, None).await;
            told = page.ok().map(|page| (page.service_time, self.clock.now()));
            *self.told.lock() = told;
        }
        told.is_some_and(|(time, at)| {
            let since = self.clock.now().saturating_since(at);
            time.plus(since) >= self.until.plus(GRACE)
        })
    }

    fn reader(&self, shard: &ShardId, inner: Box<dyn RecordStream>) -> Box<dyn RecordStream> {
        Box::new(ReplayReader {
            window: self.clone(),
            shard: shard.clone(),
            inner,
            empty: 0,
            is_reached: false,
        })
    }
}

/// One open shard of a replay.
#[derive(Debug)]
struct ReplayReader {
    window: ReplayWindow,
    shard: ShardId,
    inner: Box<dyn RecordStream>,
    /// How many answers in a row had no record.
    empty: u32,
    is_reached: bool,
}

impl ReplayReader {
    async fn bounded(&mut self, mut fetch: Fetch) -> Fetch {
        let window = &self.window;
        fetch.wait = fetch.wait.max(pace(fetch.bytes, window.share));
        self.empty = match fetch.records.is_empty() {
            true => self.empty.saturating_add(1),
            false => 0,
        };
        if cut(&mut fetch, window.until) || is_at_tip(&fetch, self.empty) && window.is_over().await {
            self.is_reached = true;
            window
                .reached
                .lock()
                .insert(self.shard.clone(), window.clock.now());
            // What is behind it is not read here.
            fetch.behind = Some(Duration::ZERO);
        }
        fetch
    }
}

/// Leaves out the records that arrived at `until` or later, and all behind the first of them, with the end of the shard. Returns whether
/// there was one.
fn cut(fetch: &mut Fetch, until: Timestamp) -> bool {
    let is_late = |arrived: Timestamp| arrived >= until;
    let late = fetch
        .records
        .iter()
        .position(|record| record.approximate_arrival().is_some_and(is_late));
    let Some(late) = late else {
        return false;
    };
    fetch.records.truncate(late);
    fetch.end = None;
    fetch.children = Vec::new();
    true
}

/// Whether there was nothing behind this answer when it was given. The end of the shard says so itself.
fn is_at_tip(fetch: &Fetch, empty: u32) -> bool {
    fetch.end.is_none()
        && fetch.records.is_empty()
        && match fetch.behind {
            Some(behind) => behind.is_zero(),
            None => empty >= EMPTY_ANSWERS,
        }
}

/// The time from the start of a read to the next, so that reads and bytes stay within the share of what Kinesis gives of a shard.
#[expect(
    clippy::cast_precision_loss,
    reason = "an answer has far less than 2^52 bytes"
)]
fn pace(bytes: usize, share: f64) -> Duration {
    let whole = READ_EVERY.max(bytes as f64 / BYTES_PER_SECOND);
    Duration::from_secs_f64(whole / share)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RecordStream for ReplayReader {
    async fn next(&mut self, limit: FetchLimit) -> Result<Fetch, SourceError> {
        self.next_announced(limit, &()).await
    }

    async fn next_announced(
        &mut self,
        limit: FetchLimit,
        arrival: &dyn Arrival,
    ) -> Result<Fetch, SourceError> {
        if self.is_reached {
            return Ok(Fetch {
                behind: Some(Duration::ZERO),
                wait: IDLE,
                ..Fetch::default()
            });
        }
        let fetch = self.inner.next_announced(limit, arrival).await?;
        Ok(self.bounded(fetch).await)
    }

    fn pause(&mut self) {
        self.inner.pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ShardEnd;
    use crate::types::{HashKeyRange, Record, SequenceNumber};

    fn id(name: &str) -> ShardId {
        ShardId::new(name).unwrap()
    }

    fn shard(name: &str, parents: &[&str]) -> Shard {
        Shard {
            id: id(name),
            parents: parents.iter().map(|parent| id(parent)).collect(),
            hash_range: HashKeyRange::WHOLE,
            starting_sequence: SequenceNumber::from(0),
            closed: false,
        }
    }

    fn fetch(arrivals: &[i64]) -> Fetch {
        let record = |(number, arrived): (u128, &i64)| {
            Record::new(SequenceNumber::from(number), "x").with_arrival(Timestamp::from_millis(*arrived))
        };
        Fetch {
            records: (0..).zip(arrivals).map(record).collect(),
            behind: Some(Duration::ZERO),
            ..Fetch::default()
        }
    }

    #[test]
    fn window_ends_before_its_first_late_record() {
        let until = Timestamp::from_millis(100);
        let mut early = fetch(&[1, 99]);
        assert!(!cut(&mut early, until) && early.records.len() == 2);
        let mut late = fetch(&[1, 99, 100, 50]);
        late.end = Some(ShardEnd::default());
        assert!(
            cut(&mut late, until),
            "the record at the bound is behind the window"
        );
        assert_eq!((late.records.len(), late.end), (2, None));
    }

    #[test]
    fn quiet_shard_is_read_at_its_tip_alone() {
        assert!(is_at_tip(&fetch(&[]), 1));
        let behind = Fetch {
            behind: Some(Duration::from_secs(1)),
            ..fetch(&[])
        };
        assert!(!is_at_tip(&behind, 100) && !is_at_tip(&fetch(&[1]), 0));
        let unknown = Fetch {
            behind: None,
            ..fetch(&[])
        };
        assert!(!is_at_tip(&unknown, EMPTY_ANSWERS - 1) && is_at_tip(&unknown, EMPTY_ANSWERS));
    }

    #[test]
    fn share_stretches_reads_and_bytes() {
        assert_eq!(pace(0, 1.0), Duration::from_millis(200));
        assert_eq!(pace(0, 0.2), Duration::from_secs(1));
        assert_eq!(pace(2 * 1024 * 1024, 0.5), Duration::from_secs(2));
    }

    #[test]
    fn shards_below_the_window_are_left_out() {
        let listed = [
            shard("old", &[]),
            shard("a", &["old"]),
            shard("b", &["old"]),
            shard("merged", &["a", "b"]),
            shard("split", &["merged"]),
        ];
        let set = |names: &[&str]| names.iter().map(|name| id(name)).collect::<BTreeSet<_>>();
        let names = |unread: Vec<&ShardId>| unread.into_iter().map(ToString::to_string).collect::<Vec<_>>();
        let left = |ended: &[&str], unfinished: &[&str], processed: &[&str]| {
            let ended = ended.iter().map(|name| (id(name), true));
            let leased = ended
                .chain(unfinished.iter().map(|name| (id(name), false)))
                .collect();
            names(unread(&listed, &leased, &set(processed)))
        };
        let none = Vec::<String>::new();
        assert_eq!(left(&[], &[], &[]), ["old", "a", "b", "merged", "split"]);
        assert_eq!(left(&["old"], &["a", "b"], &[]), ["a", "b", "merged", "split"]);
        assert_eq!(left(&["old"], &["a", "b"], &["a"]), ["b"]);
        assert_eq!(left(&["old", "b"], &["a"], &["a"]), none);
        // The rows of shards that were read are cleaned up.
        assert_eq!(left(&["b"], &["a"], &["a"]), none);
        assert_eq!(left(&["merged"], &["split"], &[]), ["split"]);
        assert_eq!(left(&[], &["split"], &["split"]), none);
        assert_eq!(left(&["old", "a"], &["b"], &[]), ["b", "merged", "split"]);
    }
}
