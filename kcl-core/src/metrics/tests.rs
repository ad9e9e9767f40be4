use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use metrics::{Key, KeyName, Metadata, SharedString, Unit};

use super::*;

type Description = (MetricKind, Option<Unit>, String);

/// The calls that a recorder received: for each name how often what, and which labels its series have.
#[derive(Default)]
struct Told {
    described: Mutex<BTreeMap<String, Vec<Description>>>,
    registered: Mutex<BTreeMap<String, BTreeSet<Vec<String>>>>,
}

impl Told {
    fn describe(&self, kind: MetricKind, name: &KeyName, unit: Option<Unit>, help: &str) {
        let mut described = self.described.lock().unwrap();
        let told = described.entry(name.as_str().to_owned()).or_default();
        told.push((kind, unit, help.to_owned()));
    }

    fn register(&self, key: &Key) {
        let labels = key.labels().map(|label| label.key().to_owned());
        let mut registered = self.registered.lock().unwrap();
        let of_name = registered.entry(key.name().to_owned()).or_default();
        of_name.insert(labels.collect());
    }
}

impl Recorder for Told {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(MetricKind::Counter, &name, unit, &help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(MetricKind::Gauge, &name, unit, &help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(MetricKind::Histogram, &name, unit, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.register(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.register(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.register(key);
        Histogram::noop()
    }
}

/// Once each, what makes a series when it first happens.
fn everything_happens(metrics: &Metrics) {
    metrics.lease_suspended();
    metrics.batch_failed(true);
    metrics.hold_begins();
    metrics.set_aside(false);
    metrics.left_out(1);
    metrics.dead_letter_failed();
    metrics.fetched(FetchOutcome::Empty);
    metrics.task_panicked("renewer shardId-000000000000");
    metrics.outside_shard(2, 1);
    metrics.invalid_hash_keys(1);
    metrics.gap();
    metrics.end_claimed();
    metrics.starved();
    metrics.stalled();
    metrics.stood_still(true);
    metrics.leases_deleted(1);
    metrics.shards_gone(1);
    metrics.invariant_broken(0);
    metrics.store_pages(1);
}

#[test]
fn every_metric_is_described_once_with_its_help() {
    let told = Arc::new(Told::default());
    let metrics = Metrics::register(Some(Arc::clone(&told) as Arc<_>), "w", MetricsLevel::Detailed);
    assert!(
        told.registered.lock().unwrap().len() < ALL.len(),
        "all is registered at once"
    );
    everything_happens(&metrics);
    metrics.shard_freshness("shardId-000000000000", Duration::from_secs(11));
    metrics.lease_change("renew", ChangeOutcome::Applied);
    metrics.store_call(StoreOperation::Scan, StoreOutcome::Done, Duration::ZERO);
    metrics.waiting(0, 1, Duration::from_secs(1));
    metrics.of_concern(0, 1);
    let expected: BTreeMap<_, _> = ALL
        .iter()
        .map(|metric| {
            let told = (metric.kind, Some(metric.unit), metric.help.to_owned());
            (metric.name.to_owned(), vec![told])
        })
        .collect();
    assert_eq!(expected.len(), ALL.len(), "a name stands twice");
    assert_eq!(*told.described.lock().unwrap(), expected);
    let labels = |metric: &Metric| {
        let labels = metric.labels.iter().copied().chain(["worker"]);
        BTreeSet::from([labels.map(str::to_owned).collect::<Vec<_>>()])
    };
    let expected: BTreeMap<_, _> = ALL
        .iter()
        .map(|metric| (metric.name.to_owned(), labels(metric)))
        .collect();
    assert_eq!(*told.registered.lock().unwrap(), expected);
}

#[test]
fn detailed_metrics_are_kept_where_asked_for() {
    for level in [MetricsLevel::Essential, MetricsLevel::Detailed] {
        let told = Arc::new(Told::default());
        let metrics = Metrics::register(Some(Arc::clone(&told) as Arc<_>), "w", level);
        metrics.lease_change("renew", ChangeOutcome::Applied);
        metrics.store_call(StoreOperation::Scan, StoreOutcome::Done, Duration::ZERO);
        metrics.store_pages(1);
        let registered = told.registered.lock().unwrap();
        assert!(registered.contains_key(STORE_CALLS), "{level:?}");
        for metric in ALL.iter().filter(|metric| metric.level == MetricsLevel::Detailed) {
            let is_kept = level == MetricsLevel::Detailed;
            assert_eq!(registered.contains_key(metric.name), is_kept, "{metric:?}");
            let described = told.described.lock().unwrap();
            assert_eq!(described.contains_key(metric.name), is_kept, "{metric:?}");
        }
    }
}

#[test]
fn series_of_waits_begin_with_the_first() {
    let told = Arc::new(Told::default());
    let metrics = Metrics::register(Some(Arc::clone(&told) as Arc<_>), "w", MetricsLevel::Detailed);
    let is_there = |name: &str| told.registered.lock().unwrap().contains_key(name);
    metrics.waiting(0, 0, Duration::ZERO);
    metrics.of_concern(0, 0);
    assert!(!is_there(SHARDS_WAITING) && !is_there(WAIT_SECONDS) && !is_there(SHARDS_OF_CONCERN));
    metrics.waiting(0, 1, Duration::from_millis(1));
    metrics.of_concern(0, 1);
    assert!(is_there(SHARDS_WAITING) && is_there(WAIT_SECONDS) && is_there(SHARDS_OF_CONCERN));
}

#[test]
fn names_end_with_their_unit() {
    for metric in ALL {
        // Exporters put the unit there where it is not, some of them only with some settings.
        let name = metric.name.trim_end_matches("_total");
        let is_named = metric.unit == Unit::Count || name.ends_with(metric.unit.as_str());
        assert!(is_named, "{metric:?}");
        assert_eq!(
            metric.kind == MetricKind::Counter,
            metric.name.ends_with("_total"),
            "{metric:?}"
        );
    }
}

#[test]
fn help_texts_are_one_line_each() {
    for metric in ALL {
        let is_sentence = metric.help.ends_with('.') && !metric.help.contains(['\n', '`', '[']);
        assert!(is_sentence, "{metric:?}");
        assert!(metric.name.starts_with("kcl_"), "{metric:?}");
    }
}
