//! The metrics as Prometheus sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use async_trait::async_trait;
use kcl_core::metrics::{ALL, MetricKind};
use kcl_http::metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use kcl_http::{HttpServer, METRICS_PATH, prometheus_builder};
use kcl_tests::exposition::Exposition;
use kcl_tests::figures::series::{JAVA_PER_WORKER, Series, measure};
use kinesis_client::processor::{LastResort, Policy, Retries};
use kinesis_client::{
    MemoryLeaseStore, MemoryStream, ProcessorError, RecordBatch, RecordProcessor, Recorder, ShardContext,
    Worker,
};
use metrics::{Key, KeyName, Label, Level, Metadata};

/// An exporter in which every metric is described and has a series with all its labels.
fn full(builder: PrometheusBuilder) -> PrometheusHandle {
    let recorder = builder.build_recorder();
    let metadata = Metadata::new("test", Level::INFO, None);
    for metric in ALL {
        let labels = metric.labels.iter().chain([&"worker"]);
        let labels: Vec<_> = labels.map(|label| Label::new(*label, "a \"b\" c\n")).collect();
        let key = Key::from_parts(metric.name, labels);
        let (name, unit) = (KeyName::from_const_str(metric.name), Some(metric.unit));
        match metric.kind {
            MetricKind::Counter => {
                recorder.describe_counter(name, unit, metric.help.into());
                recorder.register_counter(&key, &metadata).increment(3);
            }
            MetricKind::Gauge => {
                recorder.describe_gauge(name, unit, metric.help.into());
                recorder.register_gauge(&key, &metadata).set(2.5);
            }
            MetricKind::Histogram => {
                recorder.describe_histogram(name, unit, metric.help.into());
                recorder.register_histogram(&key, &metadata).record(0.125);
            }
            _ => panic!("the exporter has no such kind: {metric:?}"),
        }
    }
    recorder.handle()
}

#[test]
fn names_are_the_same_under_every_setting() {
    for builder in [prometheus_builder, PrometheusBuilder::new] {
        for is_recommended in [false, true] {
            let text = full(builder().with_recommended_naming(is_recommended)).render();
            let scrape = Exposition::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            let names: BTreeSet<_> = scrape.families.keys().map(String::as_str).collect();
            let expected: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
            assert_eq!(names, expected, "recommended naming: {is_recommended}");
            for metric in ALL {
                check(&scrape, metric.name);
            }
        }
    }
}

/// The family is what the list of metrics says of this one.
fn check(scrape: &Exposition, name: &str) {
    let metric = ALL.iter().find(|metric| metric.name == name);
    let metric = metric.unwrap_or_else(|| panic!("{name} is in no list"));
    let family = &scrape.families[name];
    assert_eq!(family.help, metric.help, "{name}");
    let kinds: &[&str] = match metric.kind {
        MetricKind::Counter => &["counter"],
        MetricKind::Gauge => &["gauge"],
        MetricKind::Histogram | _ => &["histogram", "summary"],
    };
    assert!(kinds.contains(&family.kind.as_str()), "{name}: {}", family.kind);
    for sample in &family.samples {
        let mut labels: BTreeSet<_> = sample.labels.keys().map(String::as_str).collect();
        labels.remove("le");
        labels.remove("quantile");
        let expected: BTreeSet<_> = metric.labels.iter().copied().chain(["worker"]).collect();
        assert_eq!(labels, expected, "{sample:?}");
    }
}

/// Cannot process a record that says so.
struct Particular;

#[async_trait]
impl RecordProcessor for Particular {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        for record in &batch {
            if record.data().as_ref() == b"poison" {
                return Err(ProcessorError::poison("it says so").at(record));
            }
        }
        Ok(())
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).unwrap();
    write!(tcp, "GET {path} HTTP/1.1\r\nhost: worker\r\n\r\n").unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

#[tokio::test]
async fn scrape_of_a_worker_is_valid() {
    let recorder = prometheus_builder()
        .with_recommended_naming(true)
        .build_recorder();
    let metrics = recorder.handle();
    let stream = MemoryStream::builder("trucks").shards(4).build();
    for number in 0..50 {
        // At the beginning of its shard, so that no call returns an error for others beside it.
        let data = if number == 0 { "poison" } else { "position" };
        stream.put(format!("truck-{number}"), data).unwrap();
    }
    let worker = Worker::builder("trucks")
        .worker_id("the \"first\" worker")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .metrics_recorder(Arc::new(recorder))
        .error_policy(Policy::new(LastResort::Skip).poison(Retries::none(), LastResort::Skip))
        .processor(|_: &ShardContext| Particular)
        .build()
        .unwrap()
        .start();
    let is_done = |lease: &kinesis_client::status::LeaseStatus| lease.records + lease.skipped;
    worker
        .wait_for(|status| status.leases.values().map(is_done).sum::<u64>() == 50)
        .await;
    let server = HttpServer::new(worker.status_reader()).prometheus(metrics);
    let server = server.address(([127, 0, 0, 1], 0)).start().unwrap();
    let text = get(server.address(), METRICS_PATH);
    let scrape = Exposition::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    scrape.families.keys().for_each(|name| check(&scrape, name));
    let total = |name: &str| -> f64 {
        scrape.families[name]
            .samples
            .iter()
            .map(|sample| sample.value)
            .sum()
    };
    assert_eq!(total("kcl_records_processed_total"), 49.0);
    assert_eq!(total("kcl_processed_bytes_total"), 49.0 * 8.0);
    let set_aside: BTreeMap<_, _> = scrape.families["kcl_records_set_aside_total"]
        .samples
        .iter()
        .map(|sample| (sample.labels["outcome"].as_str(), sample.value))
        .collect();
    assert_eq!(
        set_aside,
        BTreeMap::from([("skipped", 1.0)]),
        "what never happened has no series"
    );
    let worker_label = &scrape.families["kcl_leases_held"].samples[0].labels["worker"];
    assert_eq!(worker_label, "the \"first\" worker");
    server.stop().await;
    worker.shutdown();
    worker.join().await.unwrap();
}

#[tokio::test]
async fn shards_add_no_series_to_a_worker() {
    let series = measure().await;
    println!("{series}");
    assert_eq!(series.metrics.0, series.metrics.1, "shards have series");
    assert_eq!(series.lines.0, series.lines.1, "shards have series");
    assert!(series.lines.1 < Series::java() / 4, "{series}");
    assert!(
        series.metrics.0 <= JAVA_PER_WORKER.1,
        "more than the Java KCL has: {series}"
    );
}
