//! Metrics in CloudWatch, as a server of its protocol stores them.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use kcl_cloudwatch::CloudWatch;
use kcl_cloudwatch::aws_sdk_cloudwatch::Client;
use kcl_cloudwatch::aws_sdk_cloudwatch::primitives::DateTime;
use kcl_cloudwatch::aws_sdk_cloudwatch::types::{Dimension, Statistic};
use kcl_core::clock::{Clock as _, TokioClock};
use kcl_tests::testbed_or_skip;
use kcl_tests::wait::eventually;
use kinesis_client::{
    MemoryLeaseStore, MemoryStream, ProcessorError, RecordBatch, RecordProcessor, ShardContext, Worker,
};

const RECORDS: u64 = 60;
const SHARDS: u32 = 2;

struct Reader;

#[async_trait]
impl RecordProcessor for Reader {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

type Dimensions = BTreeMap<String, String>;

/// The metrics of this namespace that are stored, by name.
async fn stored(client: &Client, namespace: &str) -> BTreeMap<String, Vec<Dimensions>> {
    let listed = client.list_metrics().namespace(namespace).send().await.unwrap();
    let mut stored = BTreeMap::<_, Vec<_>>::new();
    for metric in listed.metrics() {
        let dimensions = metric.dimensions().iter();
        let dimensions = dimensions.map(|dimension| {
            let (name, value) = (dimension.name().unwrap(), dimension.value().unwrap());
            (name.to_owned(), value.to_owned())
        });
        let name = metric.metric_name().unwrap().to_owned();
        stored.entry(name).or_default().push(dimensions.collect());
    }
    stored
}

/// The sum and the unit of a metric that are stored.
async fn sum(client: &Client, namespace: &str, name: &str, dimensions: &Dimensions) -> (f64, String) {
    let now = TokioClock::new().wall().as_secs();
    let dimensions = dimensions.iter();
    let dimensions = dimensions.map(|(name, value)| Dimension::builder().name(name).value(value).build());
    let asked = client
        .get_metric_statistics()
        .namespace(namespace)
        .metric_name(name)
        .set_dimensions(Some(dimensions.collect()))
        .start_time(DateTime::from_secs(now - 600))
        .end_time(DateTime::from_secs(now + 60))
        .period(60)
        .statistics(Statistic::Sum);
    let answer = asked.send().await.unwrap();
    let points = answer.datapoints();
    let unit = points.first().and_then(|point| point.unit());
    let unit = unit.map(|unit| unit.as_str().to_owned()).unwrap_or_default();
    (points.iter().filter_map(|point| point.sum()).sum(), unit)
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudwatch_stores_names_and_dimensions_of_java() {
    let testbed = testbed_or_skip!();
    let servers = testbed.dynamo_configs();
    // The others serve no CloudWatch.
    let Some((_, config)) = servers.into_iter().find(|(name, _)| name == "ministack") else {
        return;
    };
    // ministack reads no compressed requests.
    let config = config.to_builder().disable_request_compression(true).build();
    let client = Client::new(&config);
    let namespace = testbed.unique("trucks");
    let cloudwatch = CloudWatch::new(&config, &namespace)
        .interval(Duration::from_secs(1))
        .start()
        .unwrap();

    let stream = MemoryStream::builder("trucks").shards(SHARDS).build();
    for number in 0..RECORDS {
        stream.put(format!("truck-{number}"), "position").unwrap();
    }
    let worker = Worker::builder("trucks")
        .worker_id("worker-1")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .metrics_recorder(cloudwatch.recorder())
        .processor(|_: &ShardContext| Reader)
        .build()
        .unwrap()
        .start();
    cloudwatch.watch_shards(worker.status_reader());
    let of = |pairs: &[(&str, &str)]| -> Dimensions {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let of_shard = |shard: u32| {
        of(&[
            ("Operation", "ProcessTask"),
            ("ShardId", &format!("shardId-{shard:012}")),
        ])
    };
    let shards: Vec<_> = (0..SHARDS).map(of_shard).collect();
    eventually(Duration::from_secs(60), async || {
        let mut found = 0.0;
        for shard in &shards {
            found += sum(&client, &namespace, "RecordsProcessed", shard).await.0;
        }
        match found {
            60.0 => Ok(()),
            _ => Err(format!("{found} records")),
        }
    })
    .await;
    worker.shutdown();
    worker.join().await.unwrap();
    cloudwatch.stop().await;

    let stored = stored(&client, &namespace).await;
    let process = of(&[("Operation", "ProcessTask")]);
    let renew = of(&[("Operation", "RenewAllLeases"), ("WorkerIdentifier", "worker-1")]);
    let assign = of(&[("Operation", "LeaseAssignmentManager")]);
    for (name, dimensions) in [
        ("RecordsProcessed", &process),
        ("DataBytesProcessed", &process),
        ("RecordProcessor.processRecords.Time", &process),
        ("MillisBehindLatest", &of(&[("Operation", "ApplicationTracker")])),
        ("MillisBehindLatest", &of_shard(1)),
        ("CurrentLeases", &renew),
        ("LostLeases", &renew),
        ("LeaseSpillover", &assign),
        ("NumOfLeasesReassignment", &assign),
        ("LeaderDecider:IsLeader", &of(&[("Operation", "LeaderDecider")])),
        (
            "kcl_fetches_total",
            &of(&[("WorkerIdentifier", "worker-1"), ("outcome", "records")]),
        ),
    ] {
        let found = stored.get(name);
        let is_there = found.is_some_and(|found| found.contains(dimensions));
        assert!(is_there, "{name} with {dimensions:?} in {stored:#?}");
    }
    let total = sum(&client, &namespace, "RecordsProcessed", &process).await;
    assert_eq!(total, (60.0, "Count".to_owned()));
    let bytes = sum(&client, &namespace, "DataBytesProcessed", &process).await;
    assert_eq!(bytes, (480.0, "Bytes".to_owned()));
    let names: Vec<_> = stored.keys().filter(|name| name.contains("panics")).collect();
    assert!(names.is_empty(), "nothing panicked, and is stored: {names:?}");
}
