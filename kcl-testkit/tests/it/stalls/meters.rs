//! A recorder that a test can ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// The last value of each gauge and counter, by its name and its one label beside the worker, if it has one. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meters(Arc<Mutex<BTreeMap<(String, String), f64>>>);

impl Meters {
    /// The value without a label.
    pub(crate) fn read(&self, name: &str) -> f64 {
        self.of(name, "")
    }

    /// The value with this label.
    pub(crate) fn of(&self, name: &str, label: &str) -> f64 {
        let key = (name.to_owned(), label.to_owned());
        self.lock().get(&key).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), f64>> {
        self.0.lock().unwrap()
    }

    fn meter(&self, key: &Key) -> Arc<Meter> {
        let label = key.labels().find(|label| label.key() != "worker");
        let label = label.map_or("", |label| label.value()).to_owned();
        let key = (key.name().to_owned(), label);
        self.lock().insert(key.clone(), 0.0);
        Arc::new(Meter {
            key,
            meters: self.clone(),
        })
    }
}

struct Meter {
    key: (String, String),
    meters: Meters,
}

impl Meter {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut values = self.meters.lock();
        let value = values.get_mut(&self.key).expect("it was registered");
        *value = change(*value);
    }
}

impl GaugeFn for Meter {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }
    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }
    fn set(&self, to: f64) {
        self.change(|_| to);
    }
}

impl CounterFn for Meter {
    fn increment(&self, by: u64) {
        self.change(|value| value + by as f64);
    }
    fn absolute(&self, to: u64) {
        self.change(|_| to as f64);
    }
}

impl Recorder for Meters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.meter(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.meter(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
