//! All series of a process, and what is taken of them to be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{CounterFn as _, Unit};

use crate::names::{SHARD_BEHIND, SHARD_RECORDS, has_java_name};
use crate::series::{CounterSeries, GaugeSeries, HistogramSeries};
use crate::taken::{SeriesKey, Taken, TakenValue};

/// The most series of each kind.
const MOST_SERIES: usize = 10_000;

#[derive(Debug, Default)]
struct SeriesTable {
    counters: BTreeMap<SeriesKey, Arc<CounterSeries>>,
    gauges: BTreeMap<SeriesKey, Arc<GaugeSeries>>,
    histograms: BTreeMap<SeriesKey, Arc<HistogramSeries>>,
    units: BTreeMap<String, Unit>,
    has_warned: bool,
}

/// All series of a process.
#[derive(Debug, Default)]
pub(crate) struct Aggregates(Mutex<SeriesTable>);

/// Returns the series of this key, which is made if there is room for it.
fn find_or_make<S: Default>(
    of_kind: &mut BTreeMap<SeriesKey, Arc<S>>,
    key: SeriesKey,
    has_warned: &mut bool,
) -> Option<Arc<S>> {
    if let Some(series) = of_kind.get(&key) {
        return Some(Arc::clone(series));
    }
    if of_kind.len() >= MOST_SERIES {
        if !std::mem::replace(has_warned, true) {
            tracing::warn!(
                series = MOST_SERIES,
                metric = key.name,
                "left out a series, and will leave out others"
            );
        }
        return None;
    }
    Some(Arc::clone(of_kind.entry(key).or_default()))
}

impl Aggregates {
    fn table(&self) -> MutexGuard<'_, SeriesTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the unit of a metric.
    pub(crate) fn describe(&self, name: &str, unit: Option<Unit>) {
        if let Some(unit) = unit {
            let mut table = self.table();
            // As many as there may be series.
            if table.units.len() < MOST_SERIES {
                table.units.insert(name.to_owned(), unit);
            }
        }
    }

    pub(crate) fn counter(&self, key: SeriesKey) -> Option<Arc<CounterSeries>> {
        let table = &mut *self.table();
        find_or_make(&mut table.counters, key, &mut table.has_warned)
    }

    pub(crate) fn gauge(&self, key: SeriesKey) -> Option<Arc<GaugeSeries>> {
        let table = &mut *self.table();
        find_or_make(&mut table.gauges, key, &mut table.has_warned)
    }

    pub(crate) fn histogram(&self, key: SeriesKey) -> Option<Arc<HistogramSeries>> {
        let table = &mut *self.table();
        find_or_make(&mut table.histograms, key, &mut table.has_warned)
    }

    /// Takes everything that is to be sent.
    pub(crate) fn take(&self) -> Vec<Taken> {
        let table = self.table();
        let unit = |key: &SeriesKey| table.units.get(&key.name).copied();
        let taken = |key: &SeriesKey, value| Taken {
            key: key.clone(),
            value,
            unit: unit(key),
        };
        let counters = table.counters.iter().filter_map(|(key, series)| {
            let rise = series.take();
            (rise > 0 || has_java_name(&key.name)).then(|| taken(key, TakenValue::Rise(rise)))
        });
        let gauges = table.gauges.iter().filter_map(|(key, series)| {
            let level = series.take(has_java_name(&key.name))?;
            Some(taken(key, TakenValue::Level(level)))
        });
        let histograms = table.histograms.iter().filter_map(|(key, series)| {
            let spread = series.take()?;
            Some(taken(key, TakenValue::Spread(spread)))
        });
        counters.chain(gauges).chain(histograms).collect()
    }

    /// Gives back what could not be sent, so that it is part of what is taken next.
    pub(crate) fn give_back(&self, taken: Taken) {
        match taken.value {
            TakenValue::Rise(rise) => {
                if let Some(series) = self.counter(taken.key) {
                    series.increment(rise);
                }
            }
            TakenValue::Spread(spread) => {
                if let Some(series) = self.histogram(taken.key) {
                    series.give_back(spread);
                }
            }
            // Its value stands, and is sent next time.
            TakenValue::Level(_) => {}
        }
    }

    /// Removes the series of shards that are not among these leases. Call it after their rises were taken.
    pub(crate) fn keep_shards(&self, leases: &BTreeSet<String>) {
        let mut table = self.table();
        let is_kept = |key: &SeriesKey| {
            let is_of_shard = [SHARD_BEHIND, SHARD_RECORDS].contains(&key.name.as_str());
            !is_of_shard || key.labels.iter().all(|(_, lease)| leases.contains(lease))
        };
        table.gauges.retain(|key, _| is_kept(key));
        table.counters.retain(|key, _| is_kept(key));
    }
}

#[cfg(test)]
mod tests {
    use metrics::{GaugeFn as _, HistogramFn as _, Key};

    use super::*;

    fn key(name: &str) -> SeriesKey {
        SeriesKey::from(&Key::from_name(name.to_owned()))
    }

    #[test]
    fn what_never_happened_is_not_sent() {
        let aggregates = Aggregates::default();
        aggregates.counter(key("orders_total")).unwrap();
        aggregates.gauge(key("queue")).unwrap().set(0.0);
        aggregates.histogram(key("call_seconds")).unwrap();
        aggregates.counter(key("kcl_leases_lost_total")).unwrap();
        let taken = aggregates.take();
        let names: Vec<_> = taken.iter().map(|taken| taken.key.name.as_str()).collect();
        assert_eq!(
            names,
            ["kcl_leases_lost_total"],
            "Java sends zeros, and alarms may look at them"
        );
    }

    #[test]
    fn rises_given_back_join_those_that_came_since() {
        let aggregates = Aggregates::default();
        let (orders, calls) = (key("orders_total"), key("call_seconds"));
        aggregates.counter(orders.clone()).unwrap().increment(3);
        aggregates.histogram(calls.clone()).unwrap().record(1.0);
        for taken in aggregates.take() {
            aggregates.counter(orders.clone()).unwrap().increment(1);
            aggregates.give_back(taken);
        }
        aggregates.histogram(calls).unwrap().record(2.0);
        let taken = aggregates.take();
        assert_eq!(taken[0].value, TakenValue::Rise(5));
        assert!(matches!(taken[1].value, TakenValue::Spread(spread) if spread.count == 2.0));
    }

    #[test]
    fn series_beyond_the_bound_are_left_out() {
        let aggregates = Aggregates::default();
        for number in 0..MOST_SERIES {
            assert!(aggregates.counter(key(&format!("c{number}"))).is_some());
        }
        assert!(aggregates.counter(key("one_too_many")).is_none());
        assert!(aggregates.counter(key("c7")).is_some());
        assert!(aggregates.gauge(key("another_kind")).is_some());
    }
}
