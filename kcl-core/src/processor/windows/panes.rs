//! Decides which records stand in which window, and when a window closes. User code is called elsewhere.

use std::collections::VecDeque;
use std::time::Duration;

use crate::processor::ShardContext;
use crate::types::{Record, RecordPosition, Timestamp};

/// A tumbling window of one shard, or one of its panes: the records that were counted together.
///
/// A window has one pane, as long as the records of the shard arrive in the order of their times. A record that is older than the window
/// before it opens another pane of its window, as do records after an idle time or after an early emission. The panes of a window hold each
/// of its records once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// When the window begins: a multiple of its length since 1970, by the clock of the service.
    pub start: Timestamp,
    /// When it ends; a record that arrived at this time is in the next window.
    pub end: Timestamp,
    /// The first record of the pane.
    pub first: RecordPosition,
    /// The last record of the pane so far.
    pub last: RecordPosition,
    /// How many records the pane has.
    pub records: u64,
    /// Their size, by payload and partition key.
    pub bytes: u64,
}

impl Window {
    /// A key of the pane for sinks: the lease, the start of the window and the first record. A pane that is handed over again, because a
    /// worker died, has the same key, and all records that it had before: overwrite the row.
    pub fn pane_key(&self, shard: &ShardContext) -> String {
        let (lease, start) = (shard.lease(), self.start.as_millis());
        format!("{lease}/{start}/{}", self.first)
    }

    fn add(&mut self, record: &Record) {
        self.last = record.position().clone();
        self.records += 1;
        self.bytes += record.size() as u64;
    }
}

/// A window under way, with the user's state.
pub(super) struct Pane<S, M> {
    pub(super) window: Window,
    pub(super) state: S,
    /// The mark of the last record before its first, if the ownership was given one.
    pub(super) before: Option<M>,
}

/// The place of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// It joins the open pane with this index.
    Joins(usize),
    /// It opens this pane.
    Opens(Window),
    /// It opens this pane, and there is no room for it beside the open ones: they are closed early.
    OpensAlone(Window),
}

/// Why a record has no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum PlacementError {
    #[error("the record has no arrival time, by which windows are made: the source does not report it")]
    NoArrival,
    #[error(
        "{open} bytes of records are in windows that are not closed, and a successor would have to read them again; the bound is {bound} bytes. \
         Raise TumblingWindows::max_open_bytes, shorten the windows, or close them early by TumblingWindows::emit_early"
    )]
    TooManyBytes { open: u64, bound: u64 },
}

/// The bounds of windows.
#[derive(Debug, Clone)]
pub(super) struct WindowBounds {
    /// In milliseconds, above zero.
    pub(super) length: i64,
    pub(super) max_open_bytes: u64,
    /// Whether windows are closed early where there is no more room, and it is no error.
    pub(super) emits_early: bool,
}

/// The panes of a shard. `M` marks a record, so that a checkpoint can be made there.
///
/// The open panes are nested: each began after the one before it, and has an earlier window, since its first record was late. So a record
/// closes the panes inside of its own, and where it closes the outermost one, everything before it is closed. Which records make a pane
/// therefore depends on nothing before the outermost open pane: a successor that begins there makes the same panes.
pub(super) struct Panes<S, M> {
    bounds: WindowBounds,
    /// The outermost first.
    open: Vec<Pane<S, M>>,
    /// Those that have passed, and that the user's code was not given yet.
    passed: VecDeque<Pane<S, M>>,
    /// The size of all records since the outermost open pane began.
    open_bytes: u64,
    /// The latest arrival since then.
    newest: Option<Timestamp>,
}

impl<S, M> Panes<S, M> {
    pub(super) fn new(bounds: WindowBounds) -> Self {
        Self {
            bounds,
            open: Vec::new(),
            passed: VecDeque::new(),
            open_bytes: 0,
            newest: None,
        }
    }

    /// Finds the place of the next record. Nothing changes before the record is [added](Self::add).
    pub(super) fn place(&self, record: &Record) -> Result<Placement, PlacementError> {
        let arrived = record.approximate_arrival().ok_or(PlacementError::NoArrival)?;
        let length = self.bounds.length;
        let start = arrived.as_millis().div_euclid(length).saturating_mul(length);
        let window = Window {
            start: Timestamp::from_millis(start),
            end: Timestamp::from_millis(start.saturating_add(length)),
            first: record.position().detached(),
            last: record.position().clone(),
            records: 1,
            bytes: record.size() as u64,
        };
        // A record that closes all that is open needs room for no other.
        let stays = self
            .open
            .first()
            .is_some_and(|outermost| outermost.window.start >= window.start);
        let bytes = self.open_bytes.saturating_add(window.bytes);
        if stays && bytes > self.bounds.max_open_bytes {
            return match self.bounds.emits_early {
                true => Ok(Placement::OpensAlone(window)),
                false => Err(PlacementError::TooManyBytes {
                    open: self.open_bytes,
                    bound: self.bounds.max_open_bytes,
                }),
            };
        }
        let same = self
            .open
            .iter()
            .position(|pane| pane.window.start == window.start);
        Ok(same.map_or(Placement::Opens(window), Placement::Joins))
    }

    /// The state of an open pane.
    pub(super) fn state(&mut self, index: usize) -> Option<&mut S> {
        self.open.get_mut(index).map(|pane| &mut pane.state)
    }

    /// Adds a record that joins an open pane.
    pub(super) fn join(&mut self, index: usize, record: &Record) {
        let Some(pane) = self.open.get_mut(index) else {
            return;
        };
        pane.window.add(record);
        let start = pane.window.start;
        self.close_before(start);
        self.added(record);
    }

    /// Adds a record that opens a pane, alone or inside of those that stay open.
    pub(super) fn open(&mut self, pane: Pane<S, M>, is_alone: bool, record: &Record) {
        match is_alone {
            true => self.close_all(),
            false => self.close_before(pane.window.start),
        }
        self.open.push(pane);
        self.added(record);
    }

    fn added(&mut self, record: &Record) {
        self.open_bytes += record.size() as u64;
        self.newest = self.newest.max(record.approximate_arrival());
    }

    /// The windows that end by `start` have passed, the oldest first.
    fn close_before(&mut self, start: Timestamp) {
        while let Some(pane) = self.open.pop_if(|pane| pane.window.start < start) {
            self.passed.push_back(pane);
        }
        if self.open.is_empty() {
            self.open_bytes = 0;
            self.newest = None;
        }
    }

    /// Every window has passed.
    pub(super) fn close_all(&mut self) {
        self.close_before(Timestamp::from_millis(i64::MAX));
    }

    /// Closes every window, if all of them have passed on a shard without records: the newest record was received `idle` ago or longer, and the
    /// source had no other then.
    ///
    /// Never some of them: a record that comes later could join one that a successor, which knows nothing of this time, finds open.
    pub(super) fn close_idle(&mut self, idle: Duration, grace: Duration) {
        let (Some(outermost), Some(newest)) = (self.open.first(), self.newest) else {
            return;
        };
        // The service received the newest record before this worker did, so its clock shows at least this.
        let watermark = newest.plus(idle.saturating_sub(grace));
        if idle > grace && watermark >= outermost.window.end {
            self.close_all();
        }
    }

    /// The next pane that has passed, for the user's code.
    pub(super) fn next_passed(&mut self) -> Option<&mut Pane<S, M>> {
        self.passed.front_mut()
    }

    /// The user's code is done with that pane.
    pub(super) fn passed_is_done(&mut self) {
        self.passed.pop_front();
    }

    /// The outermost open pane: everything before it is closed.
    pub(super) fn outermost(&self) -> Option<&Pane<S, M>> {
        self.open.first()
    }

    /// The panes share no memory with the records any more.
    pub(super) fn detach(&mut self) {
        for pane in &mut self.open {
            pane.window.last = pane.window.last.detached();
        }
    }
}
