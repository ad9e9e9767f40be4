//! The parts of a state of the fleet.
//!
//! States are distinguished by their hash, so everything that decides about the future, or about the verdict on it, is hashed.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kcl_core::internals::TableView;
use kcl_core::lease_store::Lease;
use kcl_core::status::ConsumerState;
use kcl_testkit::invariant::{Checker, Observation, Violation};

/// The fleet, its table, and what is under way between them.
#[derive(Clone)]
pub struct State {
    /// The tick that it is, everywhere.
    pub now: u8,
    /// The lease table, by shard.
    pub rows: Vec<Option<Row>>,
    pub workers: Vec<Worker>,
    /// Writes that were sent and may yet reach the store, whether or not somebody waits for them.
    pub network: Vec<Request>,
    /// The faults that may still happen.
    pub left: Budget,
    pub ghost: Ghost,
    /// The checker's verdict on the history that led here: a function of what is hashed.
    pub checker: Arc<Checker>,
    pub violation: Option<Arc<Violation>>,
    /// Events on the way here, in a set of [`Seen`]; not a part of the state.
    pub seen: u16,
}

impl State {
    fn parts(&self) -> impl PartialEq + Hash + '_ {
        (
            (self.now, &self.rows, &self.workers, &self.network),
            (&self.left, &self.ghost),
            self.violation.as_ref().map(|violation| violation.invariant),
        )
    }
}

impl State {
    pub(crate) fn saw(&mut self, what: Seen) {
        self.seen |= what as u16;
    }

    /// Reports to the checker what happened.
    pub(crate) fn observe(&mut self, observation: &Observation) {
        if let Err(violation) = Arc::make_mut(&mut self.checker).observe(observation)
            && self.violation.is_none()
        {
            self.violation = Some(Arc::new(violation));
        }
    }

    /// The row of a shard.
    pub(crate) fn row(&self, shard: usize) -> Option<&Row> {
        self.rows[shard].as_ref()
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.parts().hash(hasher);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tick {}", self.now)?;
        for row in self.rows.iter().flatten() {
            writeln!(f, "  {row:?}")?;
        }
        for worker in &self.workers {
            writeln!(f, "  {worker:?}")?;
        }
        for request in &self.network {
            writeln!(f, "  in the network: {request:?}")?;
        }
        if let Some(violation) = &self.violation {
            writeln!(f, "  {violation}")?;
        }
        Ok(())
    }
}

/// A row of the lease table.
#[derive(Clone)]
pub struct Row(pub Arc<Lease>);

impl Row {
    pub fn new(lease: Lease) -> Self {
        Self(Arc::new(lease))
    }
}

impl std::ops::Deref for Row {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.0
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Row {}

impl Hash for Row {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let lease = &*self.0;
        (&lease.key, &lease.owner, &lease.checkpoint_owner, lease.counter).hash(hasher);
        (
            &lease.checkpoint,
            lease.stamp,
            lease.handoff_stamp,
            &lease.children,
        )
            .hash(hasher);
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lease = &*self.0;
        write!(f, "{} #{} {}", lease.key, lease.counter, lease.checkpoint)?;
        match (&lease.checkpoint_owner, &lease.owner) {
            (Some(from), Some(to)) => write!(f, " {from} -> {to}"),
            (None, Some(owner)) => write!(f, " {owner}"),
            (_, None) => write!(f, " nobody's"),
        }
    }
}

/// One worker: a process, or its remains.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Worker {
    /// How often it was started again.
    pub run: u8,
    pub life: Life,
    /// Whether it runs and cannot reach the store.
    pub cut_off: bool,
    /// Whether it has taken its row out of the table and gives up what it has.
    pub leaving: bool,
    /// The counter in its own row.
    pub touches: u8,
    /// Its relation to each lease.
    pub slots: Vec<Slot>,
    /// It stands still between the decision to start a batch of this shard, made at this tick, and the start.
    pub cleared: Option<(usize, u8)>,
    pub planner: Option<Planner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Life {
    Up,
    Frozen,
    Down,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    pub own: Option<Own>,
    /// The write that it waits for: writes to one lease run one at a time.
    pub call: Option<Call>,
}

/// An ownership, as the owner knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Own {
    /// The row as the last answer showed it.
    pub row: Row,
    /// When the last applied write was sent.
    pub renewed: u8,
    pub refused: bool,
    pub giving_up: bool,
    pub token: u64,
    pub state: ConsumerState,
    /// How many records of the shard are finished, as far as this owner knows.
    pub done: u8,
    /// Since when the next record is being processed.
    pub started: Option<u8>,
    /// Since when it knows of a handoff.
    pub asked: Option<u8>,
}

/// A write that its caller has not done with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    pub write: Write,
    pub sent: u8,
    pub at: At,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum At {
    /// The caller waits for the answer.
    Network,
    /// There will be no answer: a strong read is next.
    Unknown,
    /// The answer is there, and the caller has not seen it.
    Replied { applied: bool, row: Option<Row> },
}

/// A conditional write.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Write {
    /// Whose row.
    pub shard: usize,
    pub change: Change,
    /// The row on which the condition rests.
    pub before: Option<Row>,
}

/// The changes that workers make of leases that are theirs, or are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// The renewal that begins an ownership.
    TakeUp,
    /// A worker that leaves gives up what it has not started.
    GiveBack,
    Renew,
    Checkpoint(u8),
    Create,
    End,
    Complete,
    Cancel,
    Release,
}

/// A write on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    pub worker: usize,
    pub run: u8,
    pub slot: usize,
    pub write: Write,
}

/// The knowledge and the next step of a worker that scans the table.
#[derive(Clone)]
pub struct Planner {
    pub observer: Arc<TableView>,
    /// A fingerprint of all that the observer knows.
    print: u64,
    pub scanned: Option<u8>,
    /// The changes that it has planned and not made yet.
    pub pending: Vec<Planned>,
}

/// One change of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Planned {
    pub shard: usize,
    pub step: PlannedStep,
    pub before: Row,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlannedStep {
    Assign(usize),
    BeginHandoff(usize),
    Delete,
}

impl Planner {
    pub fn new(observer: TableView) -> Self {
        let mut planner = Self {
            observer: Arc::new(observer),
            print: 0,
            scanned: None,
            pending: Vec::new(),
        };
        planner.fingerprint();
        planner
    }

    /// Changes what the observer knows.
    pub fn learn(&mut self, how: impl FnOnce(&mut TableView)) {
        how(Arc::make_mut(&mut self.observer));
        self.fingerprint();
    }

    fn fingerprint(&mut self) {
        self.print = fingerprint(&self.observer);
    }

    fn parts(&self) -> impl PartialEq + Hash + '_ {
        (self.print, self.scanned, &self.pending)
    }
}

/// The hash of all that the value shows of itself: for the views of the core, whose fields are their own business.
pub(crate) fn fingerprint(value: &impl fmt::Debug) -> u64 {
    struct Into(DefaultHasher);
    impl fmt::Write for Into {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut hash = Into(DefaultHasher::new());
    fmt::write(&mut hash, format_args!("{value:?}")).expect("a hasher takes everything");
    hash.0.finish()
}

impl PartialEq for Planner {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Planner {}

impl Hash for Planner {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.parts().hash(hasher);
    }
}

impl fmt::Debug for Planner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planner")
            .field("scanned", &self.scanned)
            .field("pending", &self.pending)
            .finish()
    }
}

/// How many of each fault may still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Processes that vanish.
    pub crashes: u8,
    /// Processes that vanished and start again under their name.
    pub restarts: u8,
    /// Processes that stand still, anywhere, for as long as they like.
    pub freezes: u8,
    /// Workers that run on and cannot reach the store, for as long as it takes.
    pub cuts: u8,
    /// Writes that are made and whose reply is lost.
    pub lost: u8,
    /// Writes that hang in the network, longer than their caller waits, and may be made at any later time.
    pub late: u8,
    /// Workers that leave in peace.
    pub leaves: u8,
    /// Handoffs that planners may begin.
    pub handoffs: u8,
}

/// Facts that the fleet does not know, and that the verdict rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// The records of each shard that were handed to a processor, as bits.
    pub delivered: Vec<u8>,
    /// Those that a processor finished.
    pub finished: Vec<u8>,
    /// The newest ownership of each shard: token, worker, run.
    pub granted: Vec<Option<(u64, usize, u8)>>,
    /// The newest ownership that has started a batch.
    pub started: Vec<Option<(u64, usize, u8)>>,
    /// When an owner's change was accepted last.
    pub written: Vec<u8>,
    /// The processes that have ever stood still.
    pub paused: Vec<(usize, u8)>,
    /// Whether a record was handed to a processor again.
    pub again: bool,
}

/// Something worth reaching, so that a model which holds is not one in which nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Seen {
    Failover = 1,
    HandedOver = 1 << 1,
    Declined = 1 << 2,
    Fenced = 1 << 3,
    LostReplyApplied = 1 << 4,
    LandedLate = 1 << 5,
    Resumed = 1 << 7,
    Overlap = 1 << 8,
    Adopted = 1 << 9,
    Again = 1 << 10,
    Deleted = 1 << 11,
    Released = 1 << 12,
    TwoPlans = 1 << 13,
}
