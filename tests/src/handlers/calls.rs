//! The calls of handlers, by key. The data of each record is its number among those of its key, from 0.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{ProcessorError, RecordHandler, ShardContext};
use kcl_core::types::Record;

/// Stands for the key of a record without one.
pub const KEYLESS: &str = "";

/// The calls of all handlers of a worker.
#[derive(Debug, Default)]
pub struct KeyCalls {
    /// The keys of which two calls ran at once.
    pub overlaps: BTreeSet<String>,
    /// The most calls that ran at once.
    pub most: usize,
    /// The number of each record whose call has returned, by key.
    pub handled: BTreeMap<String, Vec<u32>>,
    /// The keys of those that run.
    running: Vec<String>,
}

impl KeyCalls {
    /// How many calls have returned.
    pub fn count(&self) -> usize {
        self.handled.values().map(Vec::len).sum()
    }
}

/// A handler whose clones note their calls together.
#[derive(Debug, Clone, Default)]
pub struct KeyCaller(Arc<Mutex<KeyCalls>>);

impl RecordHandler for KeyCaller {
    async fn handle(&self, record: &Record, _: &ShardContext) -> Result<(), ProcessorError> {
        let key = record.partition_key().unwrap_or(KEYLESS).to_owned();
        let number: u32 = std::str::from_utf8(record.data())?.parse()?;
        {
            let mut calls = self.calls();
            if calls.running.contains(&key) {
                calls.overlaps.insert(key.clone());
            }
            calls.running.push(key.clone());
            calls.most = calls.most.max(calls.running.len());
        }
        // The next record of the key would overtake this one.
        let pause = Duration::from_millis(if number.is_multiple_of(2) { 12 } else { 1 });
        TokioClock::new().sleep(pause).await;
        let mut calls = self.calls();
        let running = calls.running.iter().position(|other| *other == key);
        calls.running.remove(running.expect("this call runs"));
        calls.handled.entry(key).or_default().push(number);
        Ok(())
    }
}

impl KeyCaller {
    /// The calls so far.
    ///
    /// # Panics
    ///
    /// When a handler has panicked.
    pub fn calls(&self) -> MutexGuard<'_, KeyCalls> {
        self.0.lock().unwrap()
    }

    /// Waits until so many calls have returned.
    ///
    /// # Panics
    ///
    /// When they have not after `limit`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn returns(&self, calls: usize, limit: Duration) {
        let clock = TokioClock::new();
        let all = async {
            while self.calls().count() < calls {
                clock.sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = clock.timeout(limit, all).await;
        assert!(in_time.is_ok(), "not {calls} calls: {:?}", self.calls());
    }

    /// Judges that each of these keys was handled so many times, in order, and never twice at once.
    ///
    /// # Panics
    ///
    /// When it was not.
    pub fn kept_order(&self, keys: impl IntoIterator<Item = String>, rounds: u32) {
        let calls = self.calls();
        let in_order = keys.into_iter().map(|key| (key, (0..rounds).collect()));
        assert_eq!(calls.handled, in_order.collect());
        assert!(calls.overlaps.is_empty(), "{:?}", calls.overlaps);
    }
}
