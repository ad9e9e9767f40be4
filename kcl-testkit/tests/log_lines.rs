//! Every line that a worker logs names the worker, and a line about a shard its lease: once each, whatever level is logged.
//!
//! A program of its own: which lines a process logs at a level depends on everything else in it that listens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::internals::{TaskPolicy, TaskScope};
use kcl_core::lease_store::StoreErrorKind;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::{Worker, WorkerHandle};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::faults::{Fault, FaultyLeaseStore, Operation};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

const SECOND: Duration = Duration::from_secs(1);
const FAILOVER: Duration = Duration::from_secs(3);

/// The fields of an event or a span, and the message.
#[derive(Debug, Clone, Default)]
struct Fields(Vec<(&'static str, String)>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

/// A line as a subscriber writes it: the event's own fields, and those of the spans around it.
#[derive(Debug, Clone)]
struct Line {
    target: String,
    fields: Fields,
}

impl Line {
    fn count(&self, name: &str) -> usize {
        self.fields.0.iter().filter(|(field, _)| *field == name).count()
    }

    fn message(&self) -> &str {
        let message = self.fields.0.iter().find(|(field, _)| *field == "message");
        message.map_or("", |(_, text)| text)
    }
}

/// Keeps every line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(more) = span.extensions().get::<Fields>() {
                fields.0.extend(more.0.clone());
            }
        }
        let target = event.metadata().target().to_owned();
        self.0.lock().unwrap().push(Line { target, fields });
    }
}

/// Fails on each record once, and lets a task of its own make the checkpoints, outside of everything that the worker entered.
struct Awkward {
    outside: TaskScope,
    failed: bool,
}

#[async_trait::async_trait]
impl RecordProcessor for Awkward {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.failed = !self.failed;
        if self.failed {
            return Err("not yet".into());
        }
        self.outside.spawn("checkpoint", TaskPolicy::Job, async move {
            let _ = batch.checkpoint().await;
        });
        Ok(())
    }
}

struct Member {
    handle: WorkerHandle,
    scope: TaskScope,
}

fn member(name: &str, stream: &MemoryStream, store: FaultyLeaseStore, outside: &TaskScope) -> Member {
    let (scope, outside) = (TaskScope::new(), outside.clone());
    let mut settings = Settings::default();
    settings.leases.failover_time = FAILOVER;
    settings.checkpoints.mode = CheckpointMode::Manual;
    let handle = Worker::builder("lines")
        .worker_id(name)
        .stream(stream.clone())
        .lease_store(store)
        .processor(move |_: &ShardContext| Awkward {
            outside: outside.clone(),
            failed: false,
        })
        .settings(settings)
        .clock(Arc::new(TokioClock::new()))
        .task_scope(scope.clone())
        .build()
        .unwrap()
        .start();
    Member { handle, scope }
}

/// A fleet to which much happens that is worth a line.
async fn live_through_much() {
    let (clock, memory, outside) = (
        TokioClock::new(),
        Arc::new(MemoryLeaseStore::new()),
        TaskScope::new(),
    );
    let stream = MemoryStream::builder("trucks")
        .shards(2)
        .clock(Arc::new(clock))
        .build();
    let put = |from: u32| {
        for n in from..from + 20 {
            stream.put(format!("truck-{n}"), "here").unwrap();
        }
    };
    let store = || FaultyLeaseStore::new(memory.clone(), Arc::new(clock));
    let faulty = store();
    let faults = faulty.faults();
    let a = member("a", &stream, faulty, &outside);
    a.handle.wait_for(|status| status.leases.len() == 2).await;
    put(0);
    clock.sleep(5 * SECOND).await;
    // No renewal succeeds for longer than the failover time, and checkpoints are asked for meanwhile.
    faults.always(Operation::Change, Fault::Fail(StoreErrorKind::Unavailable));
    put(20);
    clock.sleep(4 * SECOND).await;
    faults.clear();
    clock.sleep(4 * SECOND).await;
    let open = stream.shards_snapshot();
    stream.split(&open[0].shard.id).unwrap();
    put(40);
    clock.sleep(10 * SECOND).await;
    let b = member("b", &stream, store(), &outside);
    clock.sleep(20 * SECOND).await;
    put(60);
    for task in ["renewer", "consumer", "fetcher"] {
        a.scope.panic_in(task);
        clock.sleep(5 * SECOND).await;
    }
    // Others take what it has, and it finds out by a checkpoint of its own or a renewal.
    a.scope.freeze();
    clock.sleep(4 * FAILOVER).await;
    a.scope.thaw();
    put(80);
    clock.sleep(10 * SECOND).await;
    b.scope.kill();
    clock.sleep(400 * SECOND).await;
    a.handle.shutdown();
    a.handle.join().await.unwrap();
}

#[test]
fn every_field_stands_once_on_every_line() {
    let mut said = BTreeSet::new();
    for level in [
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ] {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(level).with(lines.clone());
        tracing::subscriber::with_default(subscriber, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(live_through_much());
        });
        let lines = lines.0.lock().unwrap().clone();
        let ours = lines.iter().filter(|line| line.target.starts_with("kcl_"));
        let mut count = 0;
        for line in ours {
            count += 1;
            let named: BTreeSet<_> = line.fields.0.iter().map(|(name, _)| *name).collect();
            assert_eq!(line.count("worker"), 1, "at {level}: {line:?}");
            assert_eq!(
                named.len(),
                line.fields.0.len(),
                "at {level}, a field stands twice: {line:?}"
            );
            if ABOUT_A_LEASE
                .iter()
                .any(|message| line.message().contains(message))
            {
                assert_eq!(line.count("lease"), 1, "at {level}: {line:?}");
            }
            said.insert(line.message().to_owned());
        }
        assert!(count > 0, "nothing was logged at {level}");
    }
    let is_said = |message: &&&str| !said.iter().any(|said| said.contains(**message));
    let unsaid: Vec<_> = ABOUT_A_LEASE.iter().filter(is_said).collect();
    assert!(
        unsaid.is_empty(),
        "the fleet came by none of {unsaid:?}, but by {said:#?}"
    );
}

/// Of lines about one lease.
const ABOUT_A_LEASE: [&str; 13] = [
    "lease taken up",
    "shard started",
    "failed call; holding the shard",
    "cannot renew the lease",
    "over: cannot renew the lease",
    "the lease could not be renewed in time",
    "the lease is renewed again",
    "lease ended",
    "lease lost",
    "lease given up",
    "consumer ended",
    "handoff begun",
    "a task panicked",
];
