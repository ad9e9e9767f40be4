//! Follows the streams that the application reads: opens those that come, closes those that go, and finds out whether one
//! that was not found is still the one that the leases are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Causes, Error, ErrorKind};
use crate::lease::key_scheme::LeaseKeyScheme;
use crate::ownership::WorkerContext;
use crate::ownership::fatal::FatalError;
use crate::processor::Concurrency;
use crate::runtime::clock::{ClockExt as _, Moment};
use crate::runtime::log_once::LogOnce;
use crate::runtime::task_scope::TaskPlace;
use crate::runtime::task_scope::TaskScope;
use crate::settings::Aggregation;
use crate::source::{RecordPlacement, SourceError, SourceErrorKind, StreamSource};
use crate::streams::registry::OpenStream;
use crate::streams::{StreamTracker, TrackedStream};
use crate::types::{InvalidName, StreamIdentity};
use crate::worker::builder::StreamSelection;
use crate::worker::lease_taker::LeaseTaker;

/// How long a tracker may take to answer.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a stream may take to say which it is.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest time between two questions about streams that were not found: the service allows few of them.
const RECHECK: Duration = Duration::from_secs(5);
/// The shortest time between two questions to a tracker.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Makes a stream that was asked for its identity one that can be read.
///
/// # Errors
///
/// When the lease rows of an application that reads many cannot name it.
pub(crate) fn open_tracked(
    stream: &TrackedStream,
    identity: StreamIdentity,
) -> Result<OpenStream, InvalidName> {
    let keying = LeaseKeyScheme::MultiStream(identity.key()?);
    let source = Arc::clone(stream.source());
    Ok(OpenStream::new(
        source,
        identity,
        keying,
        stream.initial_position(),
    ))
}

/// Asks a tracker beside the user's code, of which it is a part: it may block.
pub(crate) async fn ask_tracker(
    scope: &TaskScope,
    tracker: &Arc<dyn StreamTracker>,
) -> Result<Vec<TrackedStream>, SourceError> {
    let tracker = Arc::clone(tracker);
    let listed = async move { tracker.streams().await };
    scope
        .run_at(TaskPlace::Processing, "streams tracker", listed)
        .await
}

/// Refuses what needs a key to decide the shard, where it does not: to filter user records by hash key, and order by key. The source must have
/// been asked for its identity.
///
/// # Errors
///
/// The fault, and the advice.
pub(crate) fn check_placement(
    source: &dyn StreamSource,
    aggregation: Aggregation,
    concurrency: Concurrency,
) -> Result<(), String> {
    let filters = match aggregation {
        Aggregation::Filter | Aggregation::FilterRecords => true,
        Aggregation::Deliver | Aggregation::Fail | Aggregation::Raw => false,
    };
    match source.description().placement {
        Some(RecordPlacement::ByService) if filters => Err(format!(
            "the service distributes the records of the stream {:?} over its shards (AUTO), so the setting aggregation = {aggregation:?} would drop user records that are nowhere else: set it to Deliver",
            source.address()
        )),
        Some(RecordPlacement::ByService) if matches!(concurrency, Concurrency::PerKey(_)) => Err(format!(
            "the service distributes the records of the stream {:?} over its shards (AUTO), so records of one key are in any shard and no order by key exists: call its handler with Concurrency::Unordered, not {concurrency:?}",
            source.address()
        )),
        Some(_) | None => Ok(()),
    }
}

/// Leaves out streams whose address was there before.
pub(crate) fn by_address(streams: Vec<TrackedStream>) -> BTreeMap<String, TrackedStream> {
    let mut unique = BTreeMap::new();
    for stream in streams {
        let address = stream.source().address().to_owned();
        unique.entry(address).or_insert(stream);
    }
    unique
}

/// Runs as long as the worker.
pub(crate) async fn follow_streams(
    worker: Arc<WorkerContext>,
    subject: StreamSelection,
    taker: Arc<LeaseTaker>,
    fatal: Arc<FatalError>,
) {
    let mut follower = StreamWatcher {
        worker: &worker,
        taker: &taker,
        fatal: &fatal,
        said: BTreeMap::new(),
        checked: None,
    };
    match subject {
        StreamSelection::One(_) => loop {
            follower.until_check().await;
            follower.check(None).await;
        },
        StreamSelection::Many(tracker) => follower.follow(&tracker).await,
    }
}

struct StreamWatcher<'a> {
    worker: &'a WorkerContext,
    taker: &'a Arc<LeaseTaker>,
    fatal: &'a FatalError,
    /// The last report for each address, so that it is made once.
    said: BTreeMap<String, LogOnce<String>>,
    /// When streams were last asked who they are.
    checked: Option<Moment>,
}

impl StreamWatcher<'_> {
    async fn follow(&mut self, tracker: &Arc<dyn StreamTracker>) {
        let clock = &self.worker.clock;
        let interval = || tracker.interval().max(SHORTEST_INTERVAL);
        let mut tracked = BTreeMap::new();
        let mut next_list = clock.now() + interval();
        loop {
            // The list comes first, whatever else is to be found out: a stream that is gone for good must be one that can be
            // taken off it.
            tokio::select! {
                biased;
                () = clock.sleep_until(next_list) => {
                    if let Some(listed) = self.list(tracker).await {
                        tracked = listed;
                        self.follow_list(&tracked).await;
                    }
                    next_list = clock.now() + interval();
                }
                () = self.until_check() => self.check(Some(&tracked)).await,
            }
        }
    }

    /// Returns once somebody wants to know about a stream and it may be asked.
    async fn until_check(&self) {
        self.worker.streams.asked().await;
        if let Some(checked) = self.checked {
            self.worker.clock.sleep_until(checked + RECHECK).await;
        }
    }

    async fn list(&mut self, tracker: &Arc<dyn StreamTracker>) -> Option<BTreeMap<String, TrackedStream>> {
        const TRACKER: &str = "";
        let streams = ask_tracker(&self.worker.scope, tracker);
        let answer = self.worker.clock.timeout(LIST_TIMEOUT, streams).await;
        let answer = answer.unwrap_or_else(|elapsed| Err(no_answer(elapsed)));
        match answer {
            Ok(streams) => {
                self.said.remove(TRACKER);
                Some(by_address(streams))
            }
            Err(error) => {
                // What is known may be out of date.
                self.worker.streams.are_settled(false);
                let problem = Causes(&error).to_string();
                self.say(
                    TRACKER,
                    problem,
                    "the streams to read cannot be listed; those known are read on",
                );
                None
            }
        }
    }

    async fn follow_list(&mut self, tracked: &BTreeMap<String, TrackedStream>) {
        let open = self.worker.streams.all();
        for stream in &open {
            if !tracked.contains_key(stream.source.address()) {
                self.close(stream, "no longer listed");
            }
        }
        let open: BTreeSet<&str> = open.iter().map(|stream| stream.source.address()).collect();
        let mut are_open = true;
        for (address, stream) in tracked {
            if !open.contains(address.as_str()) {
                are_open &= self.open(address, stream).await;
            }
        }
        self.worker.streams.are_settled(are_open);
        self.said
            .retain(|address, _| address.is_empty() || tracked.contains_key(address));
    }

    /// Returns `true` if the stream is read now.
    async fn open(&mut self, address: &str, stream: &TrackedStream) -> bool {
        const WHAT: &str = "a stream cannot be read yet";
        let identity = match self.identify(stream.source().as_ref()).await {
            Ok(identity) => identity,
            Err(error) => {
                self.say(address, Causes(&error).to_string(), WHAT);
                return false;
            }
        };
        let aggregation = self.worker.settings.reading.aggregation;
        let concurrency = self.worker.factory.concurrency();
        if let Err(problem) = check_placement(stream.source().as_ref(), aggregation, concurrency) {
            self.say(address, problem, WHAT);
            return false;
        }
        let opened = match open_tracked(stream, identity) {
            Ok(opened) => opened,
            Err(error) => {
                self.say(address, error.to_string(), WHAT);
                return false;
            }
        };
        let streams = &self.worker.streams;
        let twin = streams
            .all()
            .into_iter()
            .find(|other| other.keying == opened.keying);
        if let Some(twin) = twin {
            let problem = format!("it is the stream that is read as {:?}", twin.source.address());
            self.say(address, problem, WHAT);
            return true;
        }
        self.said.remove(address);
        tracing::info!(stream = address, key = ?opened.keying.stream(), "reads a stream");
        streams.open(opened);
        self.worker.plan_now.notify_one();
        true
    }

    fn close(&self, stream: &OpenStream, reason: &str) {
        tracing::info!(stream = stream.source.address(), reason, "reads a stream no more");
        self.worker.streams.close(stream);
        self.taker.drain_closed_streams();
        self.worker.plan_now.notify_one();
    }

    /// Asks the streams that were not found, or a shard of which was not, who they are. Those that cannot say are asked again.
    async fn check(&mut self, tracked: Option<&BTreeMap<String, TrackedStream>>) {
        self.checked = Some(self.worker.clock.now());
        for stream in self.worker.streams.all() {
            if !stream.begin_to_look() {
                continue;
            }
            match self.identify(stream.source.as_ref()).await {
                Ok(identity) if identity.is_same_stream(&stream.identity) => {
                    stream.is_confirmed(self.worker.clock.now());
                }
                Ok(identity) => {
                    stream.is_not_confirmed(true);
                    self.replace(&stream, identity, tracked);
                }
                Err(error) => {
                    let problem = Causes(&error).to_string();
                    let is_gone = error.kind() == SourceErrorKind::NotFound;
                    let what = match is_gone {
                        true => "the stream is gone; its shards are held",
                        false => {
                            "cannot find out whether the stream is gone; what was not found of it is held"
                        }
                    };
                    self.say(stream.source.address(), problem, what);
                    stream.is_not_confirmed(is_gone);
                }
            }
        }
    }

    /// The stream was created again: its shards are others, although they have the ids of the old ones.
    fn replace(
        &mut self,
        stream: &OpenStream,
        identity: StreamIdentity,
        tracked: Option<&BTreeMap<String, TrackedStream>>,
    ) {
        let Some(tracked) = tracked else {
            let message = format!(
                "the stream {} was deleted and created again while it was read, so the positions in the lease table mean nothing: use another application name, or delete the old leases",
                stream.identity.arn
            );
            return self.fatal.raise(Error::new(ErrorKind::Mismatch, message));
        };
        self.close(stream, "it was deleted and created again");
        let settings = &self.worker.settings.reading;
        let concurrency = self.worker.factory.concurrency();
        let opened = tracked.get(stream.source.address()).map(|tracked| {
            check_placement(tracked.source().as_ref(), settings.aggregation, concurrency)?;
            open_tracked(tracked, identity).map_err(|error| error.to_string())
        });
        if let Some(Err(problem)) = opened {
            self.say(stream.source.address(), problem, "a stream cannot be read yet");
        } else if let Some(Ok(opened)) = opened {
            self.worker.streams.open(opened);
            self.worker.plan_now.notify_one();
        }
    }

    async fn identify(&self, source: &dyn StreamSource) -> Result<StreamIdentity, SourceError> {
        let answer = self
            .worker
            .clock
            .timeout(IDENTITY_TIMEOUT, source.identity())
            .await;
        answer.unwrap_or_else(|elapsed| Err(no_answer(elapsed)))
    }

    fn say(&mut self, address: &str, problem: String, what: &'static str) {
        let said = self.said.entry(address.to_owned()).or_default();
        if said.begins(problem.clone()) {
            tracing::error!(stream = address, problem, "{what}");
        }
    }
}

fn no_answer(elapsed: impl std::error::Error + Send + Sync + 'static) -> SourceError {
    SourceError::new(SourceErrorKind::Unavailable, "no answer in time").with_source(elapsed)
}
