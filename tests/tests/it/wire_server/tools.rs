//! The calls of a tool that manages streams, one after the other.

use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{EncryptionType, MetricsName, ScalingType, StreamMode, StreamModeDetails};
use hyper::http::Method;
use kinesis_local::WireOptions;

use crate::wire_server::raw;
use crate::wire_server::support::{NAME, Served};

/// The operations that failed, with their errors.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn note<T, E: ProvideErrorMetadata>(&mut self, what: &str, outcome: Result<T, E>) {
        if let Err(error) = outcome {
            self.0
                .push(format!("{what}: {:?} {:?}", error.code(), error.message()));
        }
    }
}

#[tokio::test]
async fn tool_that_manages_streams_finds_its_operations() {
    let served = Served::with(2, WireOptions::unlimited()).await;
    let (sdk, arn) = (&served.sdk, served.arn().await);
    let on_demand = || {
        StreamModeDetails::builder()
            .stream_mode(StreamMode::OnDemand)
            .build()
            .unwrap()
    };
    let mut failures = Failures::default();
    let create = |name: &str| sdk.create_stream().stream_name(name);
    let outcome = create("od").stream_mode_details(on_demand()).send().await;
    failures.note("CreateStream on demand", outcome);
    let outcome = create("tagged").shard_count(1).tags("a", "b").send().await;
    failures.note("CreateStream with tags", outcome);
    let outcome = create("large").shard_count(1).max_record_size_in_kib(10_240);
    failures.note("CreateStream of large records", outcome.send().await);
    let outcome = sdk.list_tags_for_stream().stream_name(NAME).send().await;
    failures.note("ListTagsForStream", outcome);
    let outcome = sdk
        .add_tags_to_stream()
        .stream_name(NAME)
        .tags("a", "b")
        .send()
        .await;
    failures.note("AddTagsToStream", outcome);
    let outcome = sdk.list_tags_for_resource().resource_arn(&arn).send().await;
    failures.note("ListTagsForResource", outcome);
    let outcome = sdk.tag_resource().resource_arn(&arn).tags("a", "b").send().await;
    failures.note("TagResource", outcome);
    let outcome = sdk.increase_stream_retention_period().stream_name(NAME);
    let outcome = outcome.retention_period_hours(48).send().await;
    failures.note("IncreaseStreamRetentionPeriod", outcome);
    let outcome = sdk.decrease_stream_retention_period().stream_name(NAME);
    let outcome = outcome.retention_period_hours(24).send().await;
    failures.note("DecreaseStreamRetentionPeriod", outcome);
    let outcome = sdk.update_shard_count().stream_name(NAME).target_shard_count(4);
    let outcome = outcome.scaling_type(ScalingType::UniformScaling).send().await;
    failures.note("UpdateShardCount", outcome);
    let outcome = sdk.update_stream_mode().stream_arn(&arn);
    let outcome = outcome.stream_mode_details(on_demand()).send().await;
    failures.note("UpdateStreamMode", outcome);
    let outcome = sdk.enable_enhanced_monitoring().stream_name(NAME);
    let outcome = outcome.shard_level_metrics(MetricsName::All).send().await;
    failures.note("EnableEnhancedMonitoring", outcome);
    let outcome = sdk.start_stream_encryption().stream_name(NAME);
    let outcome = outcome
        .encryption_type(EncryptionType::Kms)
        .key_id("alias/aws/kinesis");
    failures.note("StartStreamEncryption", outcome.send().await);
    let outcome = sdk
        .put_resource_policy()
        .resource_arn(&arn)
        .policy("{}")
        .send()
        .await;
    failures.note("PutResourcePolicy", outcome);
    let outcome = sdk.get_resource_policy().resource_arn(&arn).send().await;
    failures.note("GetResourcePolicy", outcome);
    failures.note("DescribeLimits", sdk.describe_limits().send().await);
    let outcome = sdk
        .update_max_record_size()
        .stream_arn(&arn)
        .max_record_size_in_kib(10_240);
    failures.note("UpdateMaxRecordSize", outcome.send().await);
    let put = || sdk.put_record().partition_key("k");
    let outcome = put().stream_arn(&arn).data(Blob::new("x")).send().await;
    failures.note("PutRecord by ARN", outcome);
    let outcome = put()
        .stream_name(NAME)
        .data(Blob::new(vec![0; 2 << 20]))
        .send()
        .await;
    failures.note("PutRecord of 2 MiB", outcome);
    failures.note(
        "ListShards by ARN",
        sdk.list_shards().stream_arn(&arn).send().await,
    );
    assert_eq!(failures.0, [""; 0]);
}

#[tokio::test]
async fn health_is_asked_without_a_body_too() {
    let served = Served::with(1, WireOptions::unlimited()).await;
    let request = hyper::Request::builder()
        .method(Method::HEAD)
        .header("host", "localhost")
        .uri("/health");
    let (head, body) = raw::ask(&served.server, request).await;
    assert_eq!((head.status.as_u16(), body.len()), (200, 0));
}
