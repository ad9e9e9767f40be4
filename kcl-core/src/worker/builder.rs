use std::fmt;
use std::sync::Arc;

use metrics::Recorder;
use tokio_util::sync::CancellationToken;

use crate::dead_letter::DeadLetterSink;
use crate::error::{Error, ErrorKind};
use crate::lease::client::StoreClient;
use crate::lease::store::LeaseStore;
use crate::processor::{
    Concurrency, ErrorPolicy, Policy, RecordHandler, RecordHandlers, RecordProcessorFactory, ShardContext,
};
use crate::runtime::clock::{Clock, TokioClock};
use crate::runtime::rng::Rng;
use crate::runtime::stall_probe::StallProbe;
use crate::runtime::task_scope::TaskScope;
use crate::settings::Settings;
use crate::settings::timing::Timing;
use crate::source::StreamSource;
use crate::streams::StreamTracker;
use crate::types::{ApplicationName, Incarnation, WorkerId};

/// One member of a fleet that consumes a stream together, ready to run.
///
/// See the [crate page](crate) for an example.
pub struct Worker {
    pub(crate) parts: WorkerParts,
}

/// Where a worker coordinates: renews its leases, stores checkpoints, shows that it lives, leads, and shuts down.
///
/// The processor and the reading of the shards stay on the runtime that the worker was started on in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Coordination {
    /// On one thread of its own, with a runtime of its own. Code that blocks the threads of the user runtime costs no lease then.
    ///
    /// Where the [clock does not follow real time](Clock::follows_real_time), as in a test on paused time, the worker has no second
    /// runtime, because the two would not agree on the time.
    #[default]
    OwnThread,
    /// On the runtime that the worker was started on, as a program needs it that may start no threads, or that pauses tokio's time later on.
    /// A processor that blocks the threads of that runtime for longer than the failover time costs the worker its leases.
    SameRuntime,
}

/// The streams that a worker reads.
#[derive(Debug, Clone)]
pub(crate) enum StreamSelection {
    /// One stream, for good.
    One(Arc<dyn StreamSource>),
    /// Many, that come and go.
    Many(Arc<dyn StreamTracker>),
}

/// The parts of a worker.
pub(crate) struct WorkerParts {
    pub(crate) application: ApplicationName,
    pub(crate) worker: WorkerId,
    pub(crate) settings: Settings,
    pub(crate) timing: Timing,
    pub(crate) subject: StreamSelection,
    pub(crate) store_client: StoreClient,
    pub(crate) factory: Arc<dyn RecordProcessorFactory>,
    pub(crate) policy: Arc<dyn ErrorPolicy>,
    pub(crate) dead_letters: Option<Arc<dyn DeadLetterSink>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Rng,
    pub(crate) scope: TaskScope,
    pub(crate) metrics: crate::metrics::Metrics,
    pub(crate) flow_control: Arc<crate::limits::flow_control::FlowControl>,
    pub(crate) coordination: Coordination,
    pub(crate) stall_probe: Arc<StallProbe>,
    /// Ends what watches to the last.
    pub(crate) ending: CancellationToken,
}

impl Worker {
    /// Begins to build a worker of this application. Every worker of one fleet uses the same name.
    pub fn builder(application: impl Into<String>) -> WorkerBuilder {
        WorkerBuilder {
            application: application.into(),
            worker_id: None,
            settings: Settings::default(),
            subjects: Vec::new(),
            store: None,
            factory: None,
            policy: Arc::new(Policy::default()),
            dead_letters: None,
            clock: None,
            rng: None,
            scope: TaskScope::new(),
            recorder: None,
            coordination: Coordination::default(),
        }
    }

    /// The id under which the worker will be known in its fleet.
    pub fn id(&self) -> &WorkerId {
        &self.parts.worker
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("application", &self.parts.application)
            .field("worker", &self.parts.worker)
            .finish_non_exhaustive()
    }
}

/// Collects what a worker is made of. A stream, a lease store and a processor are needed; all else has a default.
#[must_use]
pub struct WorkerBuilder {
    application: String,
    worker_id: Option<String>,
    settings: Settings,
    subjects: Vec<StreamSelection>,
    store: Option<Arc<dyn LeaseStore>>,
    factory: Option<Arc<dyn RecordProcessorFactory>>,
    policy: Arc<dyn ErrorPolicy>,
    dead_letters: Option<Arc<dyn DeadLetterSink>>,
    clock: Option<Arc<dyn Clock>>,
    rng: Option<Rng>,
    scope: TaskScope,
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
    coordination: Coordination,
}

impl WorkerBuilder {
    /// The one stream to consume. The application is then one of one stream, and its table cannot take a second: for more,
    /// now or later, see [`streams`](Self::streams).
    pub fn stream(mut self, stream: impl StreamSource) -> Self {
        self.subjects.push(StreamSelection::One(Arc::new(stream)));
        self
    }

    /// The streams to consume, which may come and go: a [`StreamSet`](crate::streams::StreamSet), or another tracker.
    pub fn streams(mut self, tracker: impl StreamTracker) -> Self {
        self.subjects.push(StreamSelection::Many(Arc::new(tracker)));
        self
    }

    /// Where the leases live.
    pub fn lease_store(mut self, store: impl LeaseStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Where the leases live, shared with others.
    pub fn shared_lease_store(mut self, store: Arc<dyn LeaseStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Makes the processor of each shard: a closure that takes a [`ShardContext`](crate::processor::ShardContext), or any
    /// other factory.
    pub fn processor(mut self, factory: impl RecordProcessorFactory) -> Self {
        self.factory = Some(Arc::new(factory));
        self
    }

    /// Makes the handler of each shard, which is called for record after record, and for as many at once as `concurrency` says.
    /// [`RecordHandlers`] is the same as a factory.
    pub fn handler<F, H>(self, concurrency: Concurrency, handler: F) -> Self
    where
        F: Fn(&ShardContext) -> H + Send + Sync + 'static,
        H: RecordHandler,
    {
        self.processor(RecordHandlers::new(concurrency, handler))
    }

    /// The id of the worker, unique in its fleet. By default the application name and random digits, new with each start. An id that is set
    /// here is the label of the worker's [metrics](crate::metrics) as well, unless
    /// [`worker_label`](crate::settings::MetricsSettings::worker_label) is.
    pub fn worker_id(mut self, id: impl Into<String>) -> Self {
        self.worker_id = Some(id.into());
        self
    }

    /// How the worker behaves.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets the policy for failures of the processor: a [`Policy`], or one of your own. By default every failure is tried again for ever, and
    /// the shard is held.
    pub fn error_policy(mut self, policy: impl ErrorPolicy) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Sets where records go that the error policy sets aside. Needed if the policy [sends](ErrorPolicy::sends_dead_letters) any.
    pub fn dead_letters(mut self, sink: impl DeadLetterSink) -> Self {
        self.dead_letters = Some(Arc::new(sink));
        self
    }

    /// The only source of time; the runtime's by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The only source of randomness; the operating system's by default.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = Some(rng);
        self
    }

    /// Where all tasks of the worker live. A test that keeps a clone can freeze the worker or make it vanish.
    ///
    /// Give each worker one of its own: one whose tasks do not end in time closes its scope.
    pub fn task_scope(mut self, scope: TaskScope) -> Self {
        self.scope = scope;
        self
    }

    /// Where the worker's metrics are registered; the global recorder by default.
    pub fn metrics_recorder(mut self, recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Where the worker coordinates; on a thread of its own by default.
    pub fn coordination(mut self, coordination: Coordination) -> Self {
        self.coordination = coordination;
        self
    }

    /// Checks everything that can be checked without asking a service.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] with *all* that is missing or wrong.
    pub fn build(self) -> Result<Worker, Error> {
        let rng = self.rng.unwrap_or_else(Rng::from_entropy);
        let mut wrong = Vec::new();
        let application = keep(ApplicationName::new(&self.application), &mut wrong);
        let generated = || format!("{}-{:016x}", self.application, rng.child("worker id").bits());
        let worker = match &self.worker_id {
            Some(id) => keep(WorkerId::new(id), &mut wrong),
            None => WorkerId::new(generated())
                .inspect_err(|_| wrong.extend(application.is_some().then(|| NO_ROOM_FOR_ID.to_owned())))
                .ok(),
        };
        if let Err(violations) = self.settings.validate() {
            wrong.extend(violations.violations().iter().map(ToString::to_string));
        }
        let mut subjects = self.subjects;
        if subjects.len() > 1 {
            wrong.push(
                "more than one stream is set, and an application reads one or many: call .stream(…) once, or .streams(…) once"
                    .into(),
            );
        }
        let subject = needed(
            subjects.pop(),
            "a stream is missing: call .stream(…) or .streams(…)",
            &mut wrong,
        );
        let store = needed(
            self.store,
            "a lease store is missing: call .lease_store(…)",
            &mut wrong,
        );
        let factory = needed(
            self.factory,
            "a processor is missing: call .processor(…) or .handler(…)",
            &mut wrong,
        );
        if let Some(factory) = &factory {
            wrong.extend(factory.concurrency().validate().err());
        }
        if self.policy.sends_dead_letters() && self.dead_letters.is_none() {
            wrong.push(
                "the error policy sends dead letters, and there is no sink for them: call .dead_letters(…)"
                    .into(),
            );
        }
        let stream = match &subject {
            Some(StreamSelection::One(source)) => Some(source.name().to_owned()),
            Some(StreamSelection::Many(_)) | None => None,
        };
        for (what, name) in [
            ("worker id", worker.as_ref().map(WorkerId::as_str)),
            ("stream name", stream.as_deref()),
        ] {
            wrong.extend(name.and_then(|name| reserved(what, name)));
        }
        if stream.is_some() && stream.as_deref() == worker.as_ref().map(WorkerId::as_str) {
            wrong.push("the worker id is the name of the stream; both are keys of the lease table: choose another id".into());
        }
        let parts = (application, worker, subject, store, factory);
        let (Some(application), Some(worker), Some(subject), Some(store), Some(factory), true) =
            (parts.0, parts.1, parts.2, parts.3, parts.4, wrong.is_empty())
        else {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!("the worker cannot be built: {}", wrong.join("; ")),
            ));
        };
        let mut settings = self.settings;
        settings.checkpoints.mode = factory.checkpoint_mode().unwrap_or(settings.checkpoints.mode);
        let label = settings.metrics.worker_label.as_deref();
        let label = label
            .or(self.worker_id.as_deref())
            .unwrap_or(application.as_str());
        let metrics = crate::metrics::Metrics::register(self.recorder, label, settings.metrics.level);
        let clock = self.clock.unwrap_or_else(|| Arc::new(TokioClock::new()));
        let timing = Timing::of(settings.leases.failover_time);
        let store_client = StoreClient::new(
            store,
            Arc::clone(&clock),
            self.scope.clone(),
            Incarnation::from_random_bytes(rng.child("incarnation").bytes()),
            timing.calls,
            metrics.clone(),
        );
        Ok(Worker {
            parts: WorkerParts {
                flow_control: Arc::default(),
                application,
                worker,
                subject,
                store_client,
                factory,
                policy: self.policy,
                dead_letters: self.dead_letters,
                clock,
                rng,
                scope: self.scope,
                metrics,
                coordination: self.coordination,
                stall_probe: Arc::new(StallProbe::new(timing.stall)),
                ending: CancellationToken::new(),
                timing,
                settings,
            },
        })
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("application", &self.application)
            .finish_non_exhaustive()
    }
}

const NO_ROOM_FOR_ID: &str = "the application name is too long to make a worker id of it: shorten it to 1007 bytes, or call .worker_id(…)";

fn keep<T, E: fmt::Display>(made: Result<T, E>, wrong: &mut Vec<String>) -> Option<T> {
    made.map_err(|error| wrong.push(error.to_string())).ok()
}

fn needed<T>(part: Option<T>, problem: &str, wrong: &mut Vec<String>) -> Option<T> {
    if part.is_none() {
        wrong.push(problem.to_owned());
    }
    part
}

/// Keys that the lease table uses for something else, as in the Java KCL 3.5's single-table layout.
const RESERVED: [&str; 3] = ["Leader", "Migration3.0", "TableMigration3.5"];

fn reserved(what: &str, name: &str) -> Option<String> {
    let looks_like_lease = name
        .rsplit(':')
        .next()
        .is_some_and(|last| last.starts_with("shardId-"));
    (RESERVED.contains(&name) || looks_like_lease).then(|| {
        format!(
            "the {what} {name:?} is a key that the lease table uses for something else: choose another one"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_missing_or_wrong_is_reported_at_once() {
        let mut settings = Settings::default();
        settings.assignment.max_leases = Some(0);
        settings.reading.stall_tries = 0;
        let error = Worker::builder("")
            .worker_id("Leader")
            .settings(settings)
            .build()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let message = error.to_string();
        for part in [
            "application name is empty",
            "\"Leader\"",
            "max_leases",
            "stall_tries",
            ".stream(",
            ".streams(",
            ".lease_store(",
            ".processor(",
            ".handler(",
        ] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }

    #[test]
    fn too_long_application_name_blames_no_worker_id() {
        let name = "x".repeat(1010);
        let error = Worker::builder(&name).build().unwrap_err().to_string();
        assert!(error.contains("too long to make a worker id"), "{error}");
        let error = Worker::builder(&name)
            .worker_id("a")
            .build()
            .unwrap_err()
            .to_string();
        assert!(!error.contains("worker id"), "{error}");
    }

    #[test]
    fn stream_beside_list_of_streams_is_refused() {
        let error = Worker::builder("app")
            .streams(crate::streams::StreamSet::default())
            .streams(crate::streams::StreamSet::default())
            .build()
            .unwrap_err();
        assert!(error.to_string().contains("one or many"), "{error}");
    }

    #[test]
    fn worker_id_like_a_lease_key_is_refused() {
        assert!(reserved("worker id", "shardId-000000000000").is_some());
        assert!(reserved("worker id", "123456789012:s:1:shardId-000000000000").is_some());
        assert!(reserved("worker id", "worker-1").is_none());
    }
}
