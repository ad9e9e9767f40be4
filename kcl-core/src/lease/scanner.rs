//! The one reader of the whole lease table in a running worker.
//!
//! Planner, shard sync, cleanup and discovery ask the [`TableScanner`] for a scan that starts after they ask, because what they decide must not
//! rest on rows from before. Scans run one at a time, so that those who ask meanwhile share the next one, and each scan that another caller
//! asked for also feeds the planner, which then need not scan itself.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::lease::client::StoreClient;
use crate::lease::scan_deadline::ScanDeadline;
use crate::lease::store::{Scan, StoreError, StoreErrorKind};
use crate::runtime::clock::{Clock, ClockExt as _};
use crate::runtime::watched::Watched;

/// The result of a scan, shared by all who waited for it.
pub(crate) type ScanOutcome = Result<Arc<Scan>, Arc<StoreError>>;

/// Reads the whole lease table, for one caller at a time.
pub(crate) struct TableScanner {
    store_client: StoreClient,
    clock: Arc<dyn Clock>,
    /// Whose turn it is to scan, in the order in which they asked.
    turn: Semaphore,
    state: Watched<ScannerState>,
}

#[derive(Debug, Default)]
struct ScannerState {
    /// How many scans were started. It numbers them.
    started: u64,
    /// How many callers wait for their turn.
    waiting: u32,
    /// The last scan, as long as callers wait for whom it may be new enough.
    shared: Option<(u64, ScanOutcome)>,
    /// The number of the last scan that the planner has no use for, while it listens.
    listens_after: Option<u64>,
    /// A newer scan that others asked for.
    heard: Option<Arc<Scan>>,
}

impl ScannerState {
    /// Gives a finished scan to all who may use it.
    fn publish(&mut self, number: u64, outcome: &ScanOutcome) {
        if self.waiting > 0 {
            self.shared = Some((number, outcome.clone()));
        }
        if let (Ok(scan), Some(after)) = (outcome, self.listens_after)
            && number > after
        {
            self.heard = Some(Arc::clone(scan));
        }
    }
}

impl TableScanner {
    pub(crate) fn new(store_client: StoreClient, clock: Arc<dyn Clock>) -> Self {
        Self {
            store_client,
            clock,
            turn: Semaphore::new(1),
            state: Watched::default(),
        }
    }

    /// Returns a scan that starts after this call: one of its own, or one that another caller asked for in the meantime.
    ///
    /// A scan of its own takes no longer than the deadline, which adapts to it. The end of a scan that is under way is waited for as long.
    ///
    /// # Errors
    ///
    /// The [`StoreError`] of the scan.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the turn to the next caller, who scans again.
    pub(crate) async fn fresh(&self, deadline: &mut ScanDeadline) -> ScanOutcome {
        let wanted = self.state.read(|state| state.started + 1);
        let limit = deadline.get();
        let waiting = WaitingCaller::new(&self.state);
        let Ok(_turn) = self.clock.timeout(limit, self.turn.acquire()).await else {
            deadline.was_not_enough();
            let message = format!("the scan that was under way did not end within {limit:?}");
            return Err(Arc::new(StoreError::definite(
                StoreErrorKind::Unavailable,
                message,
            )));
        };
        let shared = self.state.read(|state| state.shared.clone());
        drop(waiting);
        if let Some((number, outcome)) = shared
            && number >= wanted
        {
            return outcome;
        }
        let number = self.state.modify_quietly(|state| {
            state.started += 1;
            state.started
        });
        let begun = self.clock.now();
        let outcome = self
            .store_client
            .scan(limit)
            .await
            .map(Arc::new)
            .map_err(Arc::new);
        let took = self.clock.now().saturating_since(begun);
        match &outcome {
            Ok(_) => deadline.took(took),
            Err(_) if took >= limit => deadline.was_not_enough(),
            Err(_) => {}
        }
        self.state.modify(|state| state.publish(number, &outcome));
        outcome
    }

    /// Listens to the scans that start from now on. Only the planner does.
    pub(crate) fn listen(&self) -> ScanListener<'_> {
        self.state
            .modify_quietly(|state| state.listens_after = Some(state.started));
        ScanListener { state: &self.state }
    }
}

/// One that waits for its turn. It counts until it is dropped.
struct WaitingCaller<'a>(&'a Watched<ScannerState>);

impl<'a> WaitingCaller<'a> {
    fn new(state: &'a Watched<ScannerState>) -> Self {
        state.modify_quietly(|state| state.waiting += 1);
        Self(state)
    }
}

impl Drop for WaitingCaller<'_> {
    fn drop(&mut self) {
        self.0.modify_quietly(|state| {
            state.waiting -= 1;
            if state.waiting == 0 {
                state.shared = None;
            }
        });
    }
}

/// The planner, while it waits for its next round.
pub(crate) struct ScanListener<'a> {
    state: &'a Watched<ScannerState>,
}

impl ScanListener<'_> {
    /// Returns the next scan that others ask for, once it has succeeded.
    pub(crate) async fn next(&self) -> Arc<Scan> {
        self.state.wait_until(|state| state.heard.take()).await
    }
}

impl Drop for ScanListener<'_> {
    fn drop(&mut self) {
        self.state.modify_quietly(|state| {
            state.listens_after = None;
            state.heard = None;
        });
    }
}

impl fmt::Debug for TableScanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableScanner").finish_non_exhaustive()
    }
}
