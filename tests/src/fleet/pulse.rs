//! How much of the time the machine and its servers gave to nobody.
//!
//! A test that measures seconds of processes measures the machine too, which may be busy with something else. A [`Pulse`] asks the lease table
//! for a single row again and again; what an answer takes beyond the usual is time in which no worker got one either.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::internals::{TaskPolicy, TaskScope};

use super::leases::leader;

/// How often the table is asked.
const PERIOD: Duration = Duration::from_millis(100);
/// How long a period with its answer takes on a machine with nothing else to do.
const USUAL: Duration = Duration::from_millis(150);

/// Measures until it is dropped.
#[derive(Debug)]
pub struct Pulse {
    beats: Arc<Mutex<Vec<Beat>>>,
    scope: TaskScope,
}

/// One period: when it began and how long it took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Beat {
    at: f64,
    took: f64,
}

impl Pulse {
    /// Begins to measure with this lease table.
    pub fn start(config: SdkConfig, table: String) -> Self {
        let beats = Arc::<Mutex<Vec<Beat>>>::default();
        let noted = Arc::clone(&beats);
        let scope = TaskScope::new();
        scope.spawn("pulse", TaskPolicy::Job, async move {
            let clock = TokioClock::new();
            loop {
                let began = clock.now();
                let at = clock.wall().as_millis() as f64 / 1000.0;
                // What it answers does not matter here.
                let _ = leader(&config, &table).await;
                clock.sleep(PERIOD).await;
                let took = clock.now().saturating_since(began).as_secs_f64();
                lock(&noted).push(Beat { at, took });
            }
        });
        Self { beats, scope }
    }

    /// Returns how many seconds were lost from `from` until `to`, both in seconds since 1970.
    pub fn lost(&self, from: f64, to: f64) -> f64 {
        lost(&lock(&self.beats), from, to)
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.scope.kill();
    }
}

fn lock(beats: &Mutex<Vec<Beat>>) -> MutexGuard<'_, Vec<Beat>> {
    beats.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost(beats: &[Beat], from: f64, to: f64) -> f64 {
    let within = beats
        .iter()
        .filter(|beat| beat.at + beat.took > from && beat.at < to);
    within
        .map(|beat| (beat.took - USUAL.as_secs_f64()).max(0.0))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_beats_within_span_are_lost_time() {
        let beats = [(10.0, 1.15), (11.15, 0.1), (11.25, 0.65), (20.0, 9.0)];
        let beats = beats.map(|(at, took)| Beat { at, took });
        let lost = |from, to| (lost(&beats, from, to) * 100.0).round() / 100.0;
        assert_eq!(lost(10.5, 12.0), 1.5);
        assert_eq!(lost(11.2, 11.24), 0.0);
        assert_eq!(lost(13.0, 19.0), 0.0);
    }
}
