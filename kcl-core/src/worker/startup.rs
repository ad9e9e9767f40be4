//! The start of a worker: is everything there, and is it meant for this application? Nothing is written before that is known,
//! except the table itself where there is none.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Causes, Error, ErrorKind};
use crate::lease::key_scheme::LeaseKeyScheme;
use crate::lease::row::Lease;
use crate::lease::store::{Preparation, StoreError, StoreErrorKind};
use crate::lease::stream_check::{Mismatch, check_identity, check_keyed_by_stream};
use crate::ownership::WorkerContext;
use crate::processor::Concurrency;
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::{Clock, ClockExt as _, Moment};
use crate::runtime::log_once::LogOnce;
use crate::runtime::rng::Rng;
use crate::runtime::task_scope::TaskScope;
use crate::settings::{Aggregation, Settings};
use crate::source::{SourceError, SourceErrorKind, StreamSource};
use crate::streams::StreamTracker;
use crate::streams::registry::{OpenStream, Streams};
use crate::types::{InitialPosition, StreamIdentity};
use crate::worker::builder::{StreamSelection, WorkerParts};
use crate::worker::heartbeat::Heartbeat;
use crate::worker::stream_watcher::{ask_tracker, by_address, check_placement, open_tracked};

/// The worker's knowledge once it may begin.
pub(crate) struct Prepared {
    pub(crate) streams: Arc<Streams>,
    /// Until when the rest of the start may take.
    pub(crate) deadline: Moment,
}

/// Asks source and store. A service that does not answer is asked again until the start's time is up; anything else is an
/// error at once.
pub(crate) async fn prepare(parts: &WorkerParts) -> Result<Prepared, Error> {
    let deadline = parts.clock.now() + parts.settings.start.timeout;
    let attempts = StartAttempts {
        clock: parts.clock.as_ref(),
        scope: &parts.scope,
        rng: parts.rng.child("start"),
        deadline,
        aggregation: parts.settings.reading.aggregation,
        concurrency: parts.factory.concurrency(),
    };
    let streams = attempts.find_streams(&parts.subject).await?;
    attempts
        .until_answered("cannot prepare the lease table", || async {
            let preparation = Preparation {
                application: parts.application.clone(),
                worker: parts.worker.clone(),
                within: deadline.saturating_since(parts.clock.now()),
                take_over_java: parts.settings.start.take_over_java,
            };
            parts.store_client.prepare(&preparation).await
        })
        .await?;
    let scan = attempts
        .until_answered("cannot read the lease table", || {
            parts
                .store_client
                .scan(deadline.saturating_since(parts.clock.now()))
        })
        .await?;
    check_leases(&scan.leases, &parts.subject, &streams)
        .map_err(|mismatch| Error::new(ErrorKind::Mismatch, mismatch.to_string()))?;
    say_initial_positions(parts.settings.reading.initial_position, &streams, &scan.leases);
    for row in &scan.undecodable {
        tracing::error!(
            key = row.key,
            problem = row.problem,
            "a row of the lease table cannot be read; it is left as it is"
        );
    }
    Ok(Prepared {
        streams: Arc::new(streams),
        deadline,
    })
}

/// Writes the worker's row for the first time.
pub(crate) async fn announce(
    worker: &WorkerContext,
    membership: &Heartbeat,
    deadline: Moment,
) -> Result<(), Error> {
    let attempts = StartAttempts {
        clock: worker.clock.as_ref(),
        scope: &worker.scope,
        rng: worker.rng.child("announce"),
        deadline,
        aggregation: worker.settings.reading.aggregation,
        concurrency: worker.factory.concurrency(),
    };
    attempts
        .until_answered("cannot write the worker's row", || membership.announce())
        .await
}

/// Logs where the reading of each new stream begins, and that a configured position means nothing to a stream that has leases already.
fn say_initial_positions(configured: InitialPosition, streams: &Streams, leases: &[Lease]) {
    for stream in streams.all() {
        let position = stream.initial_position.unwrap_or(configured);
        let stream_name = &stream.identity.name;
        let known = leases
            .iter()
            .filter(|lease| lease.stream.as_ref() == stream.keying.stream());
        match known.count() {
            0 => tracing::info!(stream = stream_name, initial_position = %position, "starting a new stream"),
            leases if position != Settings::default().reading.initial_position => tracing::info!(
                stream = stream_name, initial_position = %position, leases,
                "resuming from the lease table; the initial position has no effect on a stream that has leases"
            ),
            leases => tracing::info!(stream = stream_name, leases, "resuming from the lease table"),
        }
    }
}

/// Whether the rows of the table are those of an application that reads what this one reads.
fn check_leases(leases: &[Lease], subject: &StreamSelection, streams: &Streams) -> Result<(), Mismatch> {
    if let StreamSelection::Many(_) = subject {
        leases.iter().try_for_each(check_keyed_by_stream)?;
    }
    streams
        .all()
        .iter()
        .try_for_each(|stream| check_identity(leases, &stream.identity, &stream.keying))
}

struct StartAttempts<'a> {
    clock: &'a dyn Clock,
    scope: &'a TaskScope,
    rng: Rng,
    deadline: Moment,
    aggregation: Aggregation,
    concurrency: Concurrency,
}

/// An error of a service, seen from the start of a worker.
trait ServiceAnswer: StdError + Send + Sync + 'static {
    /// `None` when asking again may help.
    fn verdict(&self) -> Option<ErrorKind>;
}

impl ServiceAnswer for StoreError {
    fn verdict(&self) -> Option<ErrorKind> {
        match self.kind() {
            StoreErrorKind::Throttled | StoreErrorKind::Unavailable => None,
            StoreErrorKind::Denied => Some(ErrorKind::Denied),
            StoreErrorKind::Missing | StoreErrorKind::Foreign | StoreErrorKind::Data => {
                Some(ErrorKind::Mismatch)
            }
            // Before there are rows, a request that makes no sense comes from a name or an option that makes none.
            StoreErrorKind::Invalid => Some(ErrorKind::Configuration),
        }
    }
}

impl ServiceAnswer for SourceError {
    fn verdict(&self) -> Option<ErrorKind> {
        match self.kind() {
            SourceErrorKind::Throttled | SourceErrorKind::Unavailable => None,
            SourceErrorKind::Denied => Some(ErrorKind::Denied),
            SourceErrorKind::NotFound => Some(ErrorKind::Mismatch),
            SourceErrorKind::Invalid => Some(ErrorKind::Configuration),
        }
    }
}

/// Returns `true` for an error that says nothing about the other streams, and that waiting does not cure.
fn concerns_one_stream(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Mismatch | ErrorKind::Denied | ErrorKind::Configuration => true,
        ErrorKind::Unavailable | ErrorKind::Superseded | ErrorKind::Processing | ErrorKind::Internal => false,
    }
}

impl StartAttempts<'_> {
    async fn find_streams(&self, subject: &StreamSelection) -> Result<Streams, Error> {
        let streams = Streams::default();
        match subject {
            StreamSelection::One(source) => {
                let identity = self.identify(source.as_ref()).await?;
                check_placement(source.as_ref(), self.aggregation, self.concurrency)
                    .map_err(|problem| Error::new(ErrorKind::Configuration, problem))?;
                let source = Arc::clone(source);
                streams.open(OpenStream::new(
                    source,
                    identity,
                    LeaseKeyScheme::SingleStream,
                    None,
                ));
            }
            StreamSelection::Many(tracker) => self.find_tracked(tracker, &streams).await?,
        }
        Ok(streams)
    }

    /// Finds those of many streams that can be read. The stream follower asks for the others again while the worker runs.
    ///
    /// A stream that is missing, denied or set up wrongly keeps no other from being read.
    async fn find_tracked(&self, tracker: &Arc<dyn StreamTracker>, streams: &Streams) -> Result<(), Error> {
        let tracked = self
            .until_answered("cannot list the streams to read", || {
                ask_tracker(self.scope, tracker)
            })
            .await?;
        let tracked = by_address(tracked);
        let mut unreadable = None;
        for (address, stream) in &tracked {
            let source = stream.source().as_ref();
            let found = self.identify(source).await.and_then(|identity| {
                let placement = check_placement(source, self.aggregation, self.concurrency);
                placement.map_err(|problem| Error::new(ErrorKind::Configuration, problem))?;
                open_tracked(stream, identity).map_err(|error| {
                    let message = format!("the stream {address:?} cannot be one of many");
                    Error::new(ErrorKind::Configuration, message).with_source(error)
                })
            });
            match found {
                Ok(opened) => streams.open(opened),
                Err(error) if concerns_one_stream(error.kind()) => {
                    tracing::error!(stream = address, error = %Causes(&error), "a stream cannot be read; reading the others");
                    unreadable = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        streams.are_settled(unreadable.is_none());
        match unreadable {
            Some(error) if streams.all().is_empty() => Err(error),
            Some(_) | None => Ok(()),
        }
    }

    async fn identify(&self, source: &dyn StreamSource) -> Result<StreamIdentity, Error> {
        let what = format!("cannot find the stream {:?}", source.address());
        self.until_answered(&what, || source.identity()).await
    }

    async fn until_answered<T, E: ServiceAnswer, F: Future<Output = Result<T, E>> + Send>(
        &self,
        what: &str,
        ask: impl Fn() -> F,
    ) -> Result<T, Error> {
        let clock = self.clock;
        let mut rng = self.rng.clone();
        let (mut pauses, mut problem) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), LogOnce::default());
        let mut last: Option<E> = None;
        loop {
            let left = self.deadline.saturating_since(clock.now());
            let error = match clock.timeout(left, ask()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(elapsed) => {
                    let error = Error::new(ErrorKind::Unavailable, what);
                    // The try that is cut off has no cause to show; the one before it has.
                    return Err(match last {
                        Some(last) => error.with_source(last),
                        None => error.with_source(elapsed),
                    });
                }
            };
            let pause = pauses.failed_jittered(&mut rng);
            let time_is_up = clock.now() + pause >= self.deadline;
            if let Some(kind) = error.verdict().or(time_is_up.then_some(ErrorKind::Unavailable)) {
                return Err(Error::new(kind, what).with_source(error));
            }
            problem.warn(what, Causes(&error));
            last = Some(error);
            clock.sleep(pause).await;
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
