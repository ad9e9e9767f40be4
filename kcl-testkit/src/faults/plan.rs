use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kcl_core::clock::{Moment, Rng};
use kcl_core::lease_store::{Scan, StoreErrorKind};
use kcl_core::types::{LeaseKey, WorkerId};

use super::{Operation, StoreCounts};

/// One thing that goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call never reaches the storage, and the caller learns so: a definite error of this kind.
    Fail(StoreErrorKind),
    /// The call is done, and the caller learns of an unknown outcome at once, as when the connection breaks.
    LoseReply,
    /// The call reaches the storage this much later.
    DelayRequest(Duration),
    /// The caller gets the answer this much later.
    DelayReply(Duration),
    /// The call panics in its caller before it reaches the storage, as a bug of the store's would.
    Panic,
}

/// The state of the connection between one client and the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// Everything passes.
    #[default]
    Up,
    /// An outage: every call fails at once, and definitely did not happen.
    Refusing,
    /// A partition: no call reaches the storage, and the caller only runs into its deadline.
    RequestsLost,
    /// A partition one way: every call is done, and the caller only runs into its deadline.
    RepliesLost,
}

/// How often calls fail at random. Zero is never; `n` is one call in `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultRates {
    /// One call in this many fails with a definite [`StoreErrorKind::Unavailable`].
    pub unavailable_one_in: u64,
    /// One call in this many fails with a definite [`StoreErrorKind::Throttled`].
    pub throttled_one_in: u64,
    /// One call in this many loses its reply.
    pub lose_reply_one_in: u64,
    /// The longest delay of a request; each is delayed by a random part.
    pub delay_up_to: Duration,
}

/// How many scans a table answers, as one of little provisioned capacity: the others are refused as too many. Clones are the same table.
#[derive(Debug, Clone)]
pub struct ScanCapacity {
    every: Duration,
    next: Arc<Mutex<Moment>>,
}

impl ScanCapacity {
    /// One scan in this time, whoever asks; what was refused costs nothing.
    pub fn one_per(every: Duration) -> Self {
        Self {
            every,
            next: Arc::new(Mutex::new(Moment::ZERO)),
        }
    }

    fn refuses(&self, now: Moment) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let is_too_early = now < *next;
        if !is_too_early {
            *next = now + self.every;
        }
        is_too_early
    }
}

/// The faults on one client's connection. Clones share the plan, so that a test can change it while the store is in use.
#[derive(Debug, Clone, Default)]
pub struct StoreFaults {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    link: Link,
    stale: Option<Stale>,
    once: BTreeMap<Operation, VecDeque<Fault>>,
    always: BTreeMap<Operation, Fault>,
    random: Option<(Rng, FaultRates)>,
    scans: Option<ScanCapacity>,
    counts: StoreCounts,
}

/// The answers that are repeated.
#[derive(Debug, Default)]
struct Stale {
    scan: Option<Scan>,
    owned: BTreeMap<WorkerId, Option<Vec<LeaseKey>>>,
}

/// Returns the fault of the call that begins now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Verdict {
    pub(super) link: Link,
    pub(super) fail: Option<StoreErrorKind>,
    pub(super) lose_reply: bool,
    pub(super) delay_request: Duration,
    pub(super) delay_reply: Duration,
    pub(super) panics: bool,
}

impl StoreFaults {
    /// A plan in which nothing goes wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next call of this kind has this fault. Called again, the call after that has the next fault.
    pub fn once(&self, operation: Operation, fault: Fault) {
        self.lock().once.entry(operation).or_default().push_back(fault);
    }

    /// Every call of this kind that has no other fault has this one, until [`clear`](Self::clear).
    pub fn always(&self, operation: Operation, fault: Fault) {
        self.lock().always.insert(operation, fault);
    }

    /// Calls fail at random at these rates, until [`clear`](Self::clear).
    pub fn at_random(&self, rng: Rng, rates: FaultRates) {
        self.lock().random = Some((rng, rates));
    }

    /// Scans beyond this capacity are refused with a definite [`StoreErrorKind::Throttled`], until [`clear`](Self::clear).
    pub fn limit_scans(&self, capacity: &ScanCapacity) {
        self.lock().scans = Some(capacity.clone());
    }

    /// Sets the state of the connection.
    pub fn set_link(&self, link: Link) {
        self.lock().link = link;
    }

    /// Time stands still for what may lag behind: from now on each scan, and each look-up of the leases of a worker, is answered with
    /// what the first one shows, until [`clear`](Self::clear). Reads of single rows, which must not lag, show the truth.
    pub fn show_old_rows(&self) {
        self.lock().stale.get_or_insert_default();
    }

    /// Returns what a scan shows that has read this.
    pub(super) fn seen_scan(&self, fresh: Scan) -> Scan {
        match &mut self.lock().stale {
            Some(stale) => stale.scan.get_or_insert(fresh).clone(),
            None => fresh,
        }
    }

    /// Returns what a look-up shows that has found this.
    pub(super) fn seen_owned(
        &self,
        worker: &WorkerId,
        fresh: Option<Vec<LeaseKey>>,
    ) -> Option<Vec<LeaseKey>> {
        match &mut self.lock().stale {
            Some(stale) => stale.owned.entry(worker.clone()).or_insert(fresh).clone(),
            None => fresh,
        }
    }

    /// Ends all faults. Counters stay.
    pub fn clear(&self) {
        let mut plan = self.lock();
        let counts = std::mem::take(&mut plan.counts);
        *plan = Plan {
            counts,
            ..Plan::default()
        };
    }

    /// The calls made so far, those that failed included.
    pub fn counts(&self) -> StoreCounts {
        self.lock().counts.clone()
    }

    pub(super) fn begin(&self, operation: Operation, now: Moment) -> Verdict {
        let mut plan = self.lock();
        plan.counts.add(operation);
        let mut verdict = Verdict {
            link: plan.link,
            ..Verdict::default()
        };
        if let Some((rng, rates)) = &mut plan.random {
            verdict.draw(rng, *rates);
        }
        let once = plan.once.get_mut(&operation).and_then(VecDeque::pop_front);
        if let Some(fault) = once.or_else(|| plan.always.get(&operation).copied()) {
            verdict.add(fault);
        }
        let is_scan = operation == Operation::Scan && verdict.fail.is_none();
        if is_scan && plan.scans.as_ref().is_some_and(|scans| scans.refuses(now)) {
            verdict.fail = Some(StoreErrorKind::Throttled);
        }
        verdict
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verdict {
    fn add(&mut self, fault: Fault) {
        match fault {
            Fault::Fail(kind) => self.fail = Some(kind),
            Fault::LoseReply => self.lose_reply = true,
            Fault::DelayRequest(delay) => self.delay_request += delay,
            Fault::DelayReply(delay) => self.delay_reply += delay,
            Fault::Panic => self.panics = true,
        }
    }

    // Every rate draws, whatever the others gave: the numbers that one fault sees do not depend on another's rate.
    fn draw(&mut self, rng: &mut Rng, rates: FaultRates) {
        let unavailable = rng.one_in(rates.unavailable_one_in);
        let throttled = rng.one_in(rates.throttled_one_in);
        self.lose_reply = rng.one_in(rates.lose_reply_one_in);
        let longest = u64::try_from(rates.delay_up_to.as_micros()).unwrap_or(u64::MAX);
        self.delay_request = Duration::from_micros(rng.below(longest));
        self.fail = match (unavailable, throttled) {
            (true, _) => Some(StoreErrorKind::Unavailable),
            (false, true) => Some(StoreErrorKind::Throttled),
            (false, false) => None,
        };
    }
}
