//! One held lease: everything about it is behind one lock.
//!
//! `lease_state`, `validity`, `progress`, `checkpoint_tracker`, `inherited_ahead`, `backlog`, `throughput`, `report_meter`, `obeyed_orders` and `control` decide; `row_writes` writes the row,
//! `renewer` renews it and stores checkpoints, `checkpoints` takes those of user code, `waits` names what the consumer waits for,
//! `lease_status` answers what the status shows, `orders` obeys operators, `release` gives the lease up, and `held_leases` knows all leases of the worker.

pub(crate) mod assignment_hints;
pub(crate) mod backlog;
pub(crate) mod checkpoint_tracker;
pub(crate) mod checkpoints;
pub(crate) mod control;
pub(crate) mod facts;
pub(crate) mod fatal;
pub(crate) mod held_leases;
pub(crate) mod inherited_ahead;
pub(crate) mod lease_state;
pub(crate) mod lease_status;
pub(crate) mod obeyed_orders;
pub(crate) mod orders;
pub(crate) mod progress;
pub(crate) mod release;
pub(crate) mod renewer;
pub(crate) mod report_meter;
pub(crate) mod row_writes;
pub(crate) mod throughput;
pub(crate) mod validity;
pub(crate) mod waits;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tracing::Span;

use crate::dead_letter::DeadLetterSink;
use crate::invariant::Violation;
use crate::lease::client::StoreClient;
use crate::lease::row::Lease;
use crate::lease::scanner::TableScanner;
use crate::limits::byte_budget::ByteBudget;
use crate::limits::flow_control::{FlowControl, FlowKey, FlowScope};
use crate::metrics::Metrics;
use crate::ownership::assignment_hints::AssignmentHints;
use crate::ownership::backlog::LagTracker;
use crate::ownership::checkpoint_tracker::CheckpointTracker;
use crate::ownership::control::{Commands, DrainReason};
use crate::ownership::facts::LeaseFacts;
use crate::ownership::fatal::FatalError;
use crate::ownership::held_leases::HeldLeases;
use crate::ownership::inherited_ahead::InheritedAhead;
use crate::ownership::lease_state::LeaseState;
use crate::ownership::obeyed_orders::ObeyedOrders;
use crate::ownership::progress::Progress;
use crate::ownership::report_meter::ReportMeter;
use crate::ownership::throughput::ThroughputEma;
use crate::ownership::validity::{LeaseValidity, Validity, judge_validity};
use crate::processor::{ErrorPolicy, FencingToken, RecordProcessorFactory, ShardContext};
use crate::runtime::clock::{Clock, Moment};
use crate::runtime::failpoint::failpoint;
use crate::runtime::rng::Rng;
use crate::runtime::stall_probe::{CallbackThread, StallProbe};
use crate::runtime::task_scope::TaskScope;
use crate::runtime::watched::Watched;
use crate::settings::Settings;
use crate::settings::timing::Timing;
use crate::status::WorkerState;
use crate::streams::registry::{OpenStream, Streams};
use crate::types::{ApplicationName, LeaseKey, RecordPosition, SequenceNumber, WorkerId};

/// The parts that every consumer of a worker uses.
pub(crate) struct WorkerContext {
    pub(crate) application: ApplicationName,
    pub(crate) worker: WorkerId,
    pub(crate) settings: Settings,
    pub(crate) timing: Timing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Rng,
    pub(crate) streams: Arc<Streams>,
    pub(crate) store_client: StoreClient,
    pub(crate) scope: TaskScope,
    pub(crate) factory: Arc<dyn RecordProcessorFactory>,
    pub(crate) policy: Arc<dyn ErrorPolicy>,
    /// Where records go that the policy sets aside.
    pub(crate) dead_letters: Option<Arc<dyn DeadLetterSink>>,
    /// Stops the worker without being asked to.
    pub(crate) fatal: Arc<FatalError>,
    pub(crate) metrics: Metrics,
    pub(crate) status: Arc<WorkerState>,
    pub(crate) scanner: Arc<TableScanner>,
    pub(crate) assignment_hints: Arc<AssignmentHints>,
    pub(crate) budget: Arc<ByteBudget>,
    pub(crate) flow_control: Arc<FlowControl>,
    /// Set when leases may have become available. Only the planner waits for it, and one that plans just now finds it set when it is done:
    /// it keeps one event, and more are not needed to plan once more.
    pub(crate) plan_now: Arc<Notify>,
    /// Whether the runtime runs that the consumers live on.
    pub(crate) stall_probe: Arc<StallProbe>,
}

impl WorkerContext {
    /// Makes known what this worker has seen of itself that must never be. It goes on: each write is conditioned even so.
    pub(crate) fn report(&self, seen: Result<(), Violation>) {
        if let Err(violation) = seen {
            self.metrics.invariant_broken(violation.invariant.place());
            tracing::error!(
                invariant = violation.invariant.id(),
                seen = violation.message,
                "an invariant is broken: this is a bug"
            );
        }
    }
}

/// One ownership of one lease: from the renewal that began it until it is lost or given up.
pub(crate) struct Ownership {
    pub(crate) worker: Arc<WorkerContext>,
    /// The leases of the worker, this one among them.
    held: Weak<HeldLeases<Arc<Ownership>>>,
    /// The stream of the shard.
    pub(crate) stream: Arc<OpenStream>,
    pub(crate) key: LeaseKey,
    pub(crate) context: ShardContext,
    /// The fields of every log line about the shard: the lease, the token, and the worker around them. It is entered by the tasks of the lease, so
    /// that their lines name neither; user code that checkpoints may run outside.
    pub(crate) span: Span,
    /// Where pauses and rates for the shard may be set.
    pub(crate) scopes: Vec<FlowKey>,
    /// Set when there may be something to store. Only the renewer waits for it, and one that stores just now finds it set when it is done.
    pub(crate) dirty: Notify,
    /// Set when more is finished. Only the consumer waits for it.
    pub(crate) finished_more: Notify,
    /// Set when the fetcher waits for room. Only the consumer waits for it, while it gathers records that hold some.
    pub(crate) fetcher_starves: Notify,
    /// Whether a user callback runs: a handoff may be declined only then.
    pub(crate) in_callback: AtomicBool,
    /// Whether it was said that user records belong to another shard, and that one has an explicit hash key that is none.
    pub(crate) said_outside: AtomicBool,
    pub(crate) said_invalid_hash_key: AtomicBool,
    /// When its callbacks have a thread, which they may block.
    pub(crate) on_thread: Arc<CallbackThread>,
    /// Everything else that is known of the lease, behind one lock. Tasks wait for the commands in it.
    state: Watched<OwnershipState>,
}

/// The state of one ownership: its parts decide, and know nothing of each other.
struct OwnershipState {
    commands: Commands,
    known: LeaseState,
    validity: LeaseValidity,
    /// Since when no batch may start, if none may.
    suspended: Option<Moment>,
    /// Whether a write that gives the lease up was sent.
    giving_up: bool,
    stored_at: Moment,
    tracker: CheckpointTracker,
    /// The records that are finished ahead of the checkpoint, as far as the row knew more than the tracker.
    inherited: InheritedAhead,
    /// The position that user code has prepared and not committed. The worker stores nothing before it: that would discard it.
    prepared: Option<RecordPosition>,
    backlog: LagTracker,
    progress: Progress,
    /// The first record that came, where reading began without a checkpoint.
    begun_at: Option<SequenceNumber>,
    /// Where the last gap begins that an operator accepted.
    accepted_gap: Option<SequenceNumber>,
    /// Since when no record has come.
    idle_since: Moment,
    throughput_ema: ThroughputEma,
    meter: ReportMeter,
    facts: LeaseFacts,
    obeyed: ObeyedOrders,
}

impl Ownership {
    /// The ownership that began with a renewal sent at `renewed`, which returned this row.
    pub(crate) fn begin(
        worker: Arc<WorkerContext>,
        held: &Arc<HeldLeases<Arc<Self>>>,
        stream: Arc<OpenStream>,
        row: Lease,
        renewed: Moment,
    ) -> Arc<Self> {
        let now = worker.clock.now();
        let throughput_ema = ThroughputEma::new(row.throughput, worker.timing.renewal, now);
        let early = u64::from(failpoint!(TokenNotRaised));
        let token = FencingToken::new(row.counter - early);
        let context = ShardContext::of_lease(
            worker.application.clone(),
            worker.worker.clone(),
            (stream.identity.name.clone(), Some(stream.identity.arn.clone())),
            (row.shard.clone(), row.hash_range),
            (row.key.clone(), Some(row.checkpoint.clone())),
            token,
        );
        let validity = LeaseValidity {
            renewed,
            refused: false,
        };
        context.set_valid_until(validity.until(worker.timing.validity));
        let mut scopes = vec![FlowScope::Worker, FlowScope::Shard(row.key.clone())];
        scopes.push(FlowScope::Stream(stream.source.name().to_owned()));
        if stream.source.address() != stream.source.name() {
            scopes.push(FlowScope::Stream(stream.source.address().to_owned()));
        }
        let mut scopes: Vec<FlowKey> = scopes.into_iter().map(FlowKey::Handle).collect();
        scopes.push(FlowKey::Orders(row.key.clone()));
        // Of the highest level, so that its fields are there whatever level is logged.
        let span = tracing::error_span!("shard", lease = %row.key, token = %token);
        let meter = ReportMeter::new(worker.timing.renewal, now);
        let own = Arc::new(Self {
            held: Arc::downgrade(held),
            stream,
            key: row.key.clone(),
            context,
            span,
            scopes,
            dirty: Notify::new(),
            finished_more: Notify::new(),
            fetcher_starves: Notify::new(),
            in_callback: AtomicBool::new(false),
            said_outside: AtomicBool::new(false),
            said_invalid_hash_key: AtomicBool::new(false),
            on_thread: Arc::default(),
            state: Watched::new(OwnershipState {
                commands: Commands::default(),
                known: LeaseState::new(row),
                validity,
                suspended: None,
                giving_up: false,
                stored_at: now,
                tracker: CheckpointTracker::default(),
                inherited: InheritedAhead::default(),
                prepared: None,
                backlog: LagTracker::new(now),
                progress: Progress::new(now),
                begun_at: None,
                accepted_gap: None,
                idle_since: now,
                throughput_ema,
                meter,
                facts: LeaseFacts::default(),
                obeyed: ObeyedOrders::default(),
            }),
            worker,
        });
        own.obey_orders();
        own
    }

    /// The row as the last applied write returned it.
    pub(crate) fn row(&self) -> Lease {
        self.read(|state| state.known.row().clone())
    }

    pub(crate) fn token(&self) -> FencingToken {
        self.context.fencing_token()
    }

    /// How many leases the worker holds, this one among them.
    pub(crate) fn held_leases(&self) -> usize {
        self.held.upgrade().map_or(0, |held| held.count())
    }

    /// The validity of the lease now, by the owner's own clock.
    pub(crate) fn verdict(&self) -> Validity {
        let now = self.worker.clock.now();
        let (verdict, is_new) = self.with(|state| self.judge_validity(state, now));
        if is_new {
            self.report_suspended();
        }
        verdict
    }

    /// Returns the validity at `now`, and `true` if the lease is suspended from now on.
    fn judge_validity(&self, state: &mut OwnershipState, now: Moment) -> (Validity, bool) {
        let verdict = judge_validity(state.validity, now, self.worker.timing.validity);
        let is_new = verdict == Validity::Suspended && state.suspended.is_none();
        if is_new {
            state.suspended = Some(now);
        }
        (verdict, is_new)
    }

    fn report_suspended(&self) {
        self.worker.status.changed();
        self.worker.metrics.lease_suspended();
        tracing::warn!(parent: &self.span, "the lease could not be renewed in time: no batch starts until it is");
    }

    /// The lease is to be given up: the consumer is informed, and a callback that runs.
    pub(crate) fn drain(&self, reason: DrainReason) {
        self.state.modify(|state| state.commands.drain(reason));
        self.context.begin_drain();
    }

    /// The handoff is off: the consumer goes on, unless it must give the lease up for another reason.
    pub(crate) fn withdraw_handoff(&self) {
        self.state.modify(|state| state.commands.withdraw_handoff());
        if self.drain_reason().is_none() {
            self.context.end_drain();
            // Another reason may have come in between.
            if self.drain_reason().is_some() {
                self.context.begin_drain();
            }
        }
    }

    /// Marks the time in which a user callback runs.
    pub(crate) fn enter_callback(&self) -> CallbackGuard<'_> {
        let before = self.in_callback.swap(true, Ordering::AcqRel);
        CallbackGuard {
            flag: &self.in_callback,
            before,
        }
    }

    /// Whether calls of user code run that no single [`enter_callback`](Self::enter_callback) spans.
    pub(crate) fn set_in_callback(&self, runs: bool) {
        self.in_callback.store(runs, Ordering::Release);
    }

    /// Looks at the state. The closure must neither wait nor use the ownership.
    fn read<T>(&self, look: impl FnOnce(&OwnershipState) -> T) -> T {
        self.state.read(look)
    }

    /// Changes a part of the state that no task waits for: anything but the commands.
    fn with<T>(&self, change: impl FnOnce(&mut OwnershipState) -> T) -> T {
        self.state.modify_quietly(change)
    }
}

/// A callback runs until this is dropped.
pub(crate) struct CallbackGuard<'a> {
    flag: &'a AtomicBool,
    /// Whether one ran before already.
    before: bool,
}

impl Drop for CallbackGuard<'_> {
    fn drop(&mut self) {
        self.flag.store(self.before, Ordering::Release);
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ownership")
            .field("lease", &self.key)
            .field("token", &self.token())
            .finish_non_exhaustive()
    }
}
