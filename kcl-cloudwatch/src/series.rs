//! Single series, and the handles that code records through.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::{CounterFn, GaugeFn, HistogramFn};

use crate::statistics::{Statistics, add};

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A series is plain data, which a panic elsewhere leaves whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rises of a counter that are not sent.
#[derive(Debug, Default)]
pub(crate) struct CounterSeries {
    risen: AtomicU64,
    /// The highest total that was set.
    highest: AtomicU64,
}

impl CounterSeries {
    /// Takes the rise since it was last taken.
    pub(crate) fn take(&self) -> u64 {
        self.risen.swap(0, Ordering::AcqRel)
    }
}

impl CounterFn for CounterSeries {
    fn increment(&self, value: u64) {
        self.risen.fetch_add(value, Ordering::AcqRel);
    }

    fn absolute(&self, value: u64) {
        let before = self.highest.fetch_max(value, Ordering::AcqRel);
        self.increment(value.saturating_sub(before));
    }
}

/// A gauge, and the values that it had since they were last taken.
#[derive(Debug, Default)]
pub(crate) struct GaugeSeries(Mutex<GaugeState>);

#[derive(Debug, Default)]
struct GaugeState {
    value: f64,
    had: Option<Statistics>,
    has_been_set: bool,
    has_been_other_than_zero: bool,
}

impl GaugeSeries {
    /// Takes the statistics of the values since they were last taken, or those of the value that stands. `None` while it has none, or
    /// has been 0 from the beginning and `also_zero` is `false`.
    pub(crate) fn take(&self, also_zero: bool) -> Option<Statistics> {
        let mut state = locked(&self.0);
        let had = state.had.take();
        let is_sent = state.has_been_set && (also_zero || state.has_been_other_than_zero);
        is_sent.then(|| had.unwrap_or_else(|| Statistics::of(state.value)))
    }

    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut state = locked(&self.0);
        let value = change(state.value);
        if !value.is_finite() {
            return;
        }
        state.value = value;
        add(&mut state.had, Statistics::of(value));
        state.has_been_set = true;
        state.has_been_other_than_zero |= value != 0.0;
    }
}

impl GaugeFn for GaugeSeries {
    fn increment(&self, value: f64) {
        self.change(|before| before + value);
    }

    fn decrement(&self, value: f64) {
        self.change(|before| before - value);
    }

    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

/// The statistics of a histogram that are not sent.
#[derive(Debug, Default)]
pub(crate) struct HistogramSeries(Mutex<Option<Statistics>>);

impl HistogramSeries {
    /// Takes the statistics of the values since they were last taken.
    pub(crate) fn take(&self) -> Option<Statistics> {
        locked(&self.0).take()
    }

    /// Adds statistics that were taken and could not be sent.
    pub(crate) fn give_back(&self, taken: Statistics) {
        add(&mut locked(&self.0), taken);
    }
}

impl HistogramFn for HistogramSeries {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        if value.is_finite() && count > 0 {
            self.give_back(Statistics::of_many(value, count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_gives_each_rise_once() {
        let counter = CounterSeries::default();
        counter.increment(3);
        counter.absolute(10);
        counter.absolute(7);
        counter.absolute(12);
        assert_eq!((counter.take(), counter.take()), (15, 0));
        counter.increment(1);
        assert_eq!(counter.take(), 1);
    }

    #[test]
    fn gauge_keeps_extremes_between_two_looks() {
        let gauge = GaugeSeries::default();
        assert_eq!(gauge.take(true), None, "it has no value");
        gauge.set(0.0);
        assert_eq!(gauge.take(false), None, "it has been 0 from the beginning");
        assert_eq!(gauge.take(true), Some(Statistics::of(0.0)));
        gauge.set(9.0);
        gauge.decrement(7.0);
        gauge.set(f64::NAN);
        let taken = gauge.take(false).unwrap();
        assert_eq!(
            (taken.count, taken.sum, taken.least, taken.greatest),
            (2.0, 11.0, 2.0, 9.0)
        );
        assert_eq!(
            gauge.take(false),
            Some(Statistics::of(2.0)),
            "the value that stands"
        );
        gauge.set(0.0);
        gauge.take(false);
        assert_eq!(
            gauge.take(false),
            Some(Statistics::of(0.0)),
            "it once was another"
        );
    }

    #[test]
    fn histogram_counts_every_value() {
        let histogram = HistogramSeries::default();
        for value in 1..=1000 {
            histogram.record(f64::from(value));
        }
        histogram.record_many(0.5, 3);
        histogram.record(f64::INFINITY);
        let taken = histogram.take().unwrap();
        assert_eq!(
            (taken.count, taken.sum, taken.least, taken.greatest),
            (1003.0, 500_501.5, 0.5, 1000.0)
        );
        assert_eq!(histogram.take(), None);
        histogram.give_back(taken);
        histogram.record(2000.0);
        assert_eq!(histogram.take().unwrap().count, 1004.0);
    }
}
