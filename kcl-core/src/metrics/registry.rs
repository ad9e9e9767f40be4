use std::fmt;
use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};

use crate::metrics::catalogue::{ALL, MetricKind, MetricsLevel};

/// The recorder of one worker, and the name that its metrics carry.
#[derive(Clone)]
pub(crate) struct Registry {
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
    worker: Arc<str>,
    level: MetricsLevel,
}

const TARGET: &str = "kcl_core::metrics";
const METADATA: Metadata<'static> = Metadata::new(TARGET, Level::INFO, Some(TARGET));

impl Registry {
    /// The registry of a worker with this label, for the metrics up to this level: in the given recorder, or in the global one.
    pub(crate) fn new(
        recorder: Option<Arc<dyn Recorder + Send + Sync>>,
        worker: &str,
        level: MetricsLevel,
    ) -> Self {
        Self {
            recorder,
            worker: Arc::from(worker),
            level,
        }
    }

    fn with<T>(&self, call: impl FnOnce(&dyn Recorder) -> T) -> T {
        match &self.recorder {
            Some(recorder) => call(recorder.as_ref()),
            None => metrics::with_recorder(call),
        }
    }

    /// Returns `true` if the metric is one of the level.
    fn keeps(&self, name: &str) -> bool {
        ALL.iter()
            .any(|metric| metric.name == name && metric.level <= self.level)
    }

    /// Describes every metric of the level, each once.
    pub(crate) fn describe_all(&self) {
        self.with(|recorder| {
            for metric in ALL.iter().filter(|metric| metric.level <= self.level) {
                let (name, unit) = (KeyName::from_const_str(metric.name), Some(metric.unit));
                let help = metric.help.into();
                match metric.kind {
                    MetricKind::Counter => recorder.describe_counter(name, unit, help),
                    MetricKind::Gauge => recorder.describe_gauge(name, unit, help),
                    MetricKind::Histogram => recorder.describe_histogram(name, unit, help),
                }
            }
        });
    }

    fn key(&self, name: &'static str, labels: impl IntoIterator<Item = Label>) -> Key {
        let worker = Label::new("worker", Arc::clone(&self.worker));
        Key::from_parts(name, labels.into_iter().chain([worker]).collect::<Vec<_>>())
    }

    fn fixed_key(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
        let fixed = |(name, value): &(&'static str, &'static str)| Label::from_static_parts(name, value);
        self.key(name, labels.iter().map(fixed))
    }

    pub(crate) fn counter(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Counter {
        if !self.keeps(name) {
            return Counter::noop();
        }
        let key = self.fixed_key(name, labels);
        self.with(|recorder| recorder.register_counter(&key, &METADATA))
    }

    pub(crate) fn gauge(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Gauge {
        if !self.keeps(name) {
            return Gauge::noop();
        }
        let key = self.fixed_key(name, labels);
        self.with(|recorder| recorder.register_gauge(&key, &METADATA))
    }

    /// A gauge with one label whose value is not known beforehand.
    pub(crate) fn labelled_gauge(&self, name: &'static str, label: &'static str, value: &str) -> Gauge {
        let key = self.key(name, [Label::new(label, value.to_owned())]);
        self.with(|recorder| recorder.register_gauge(&key, &METADATA))
    }

    pub(crate) fn histogram(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Histogram {
        if !self.keeps(name) {
            return Histogram::noop();
        }
        let key = self.fixed_key(name, labels);
        self.with(|recorder| recorder.register_histogram(&key, &METADATA))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

/// A handle of a series that is registered when it is first used: what never happens has no series.
pub(crate) struct OnDemand<H> {
    name: &'static str,
    labels: Vec<(&'static str, &'static str)>,
    handle: OnceLock<H>,
}

impl<H> OnDemand<H> {
    pub(crate) fn new(name: &'static str, labels: &[(&'static str, &'static str)]) -> Self {
        Self {
            name,
            labels: labels.to_vec(),
            handle: OnceLock::new(),
        }
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.handle.get().is_some()
    }
}

impl OnDemand<Counter> {
    pub(crate) fn counter(&self, registry: &Registry) -> &Counter {
        self.handle
            .get_or_init(|| registry.counter(self.name, &self.labels))
    }
}

impl OnDemand<Gauge> {
    pub(crate) fn gauge(&self, registry: &Registry) -> &Gauge {
        self.handle
            .get_or_init(|| registry.gauge(self.name, &self.labels))
    }
}

impl OnDemand<Histogram> {
    pub(crate) fn histogram(&self, registry: &Registry) -> &Histogram {
        self.handle
            .get_or_init(|| registry.histogram(self.name, &self.labels))
    }
}
