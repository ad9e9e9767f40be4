//! Attributes of streams and consumers: tags, policies, encryption and metrics; and those of the account.

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{
    EncryptionType, MetricsName, MinimumThroughputBillingCommitmentInput,
    MinimumThroughputBillingCommitmentInputStatus, MinimumThroughputBillingCommitmentOutputStatus, Tag,
};
use kinesis_local::WireOptions;

use crate::wire_server::support::{NAME, Served, code};

async fn unlimited() -> Served {
    Served::with(1, WireOptions::unlimited()).await
}

async fn consumer(served: &Served) -> String {
    let call = served.sdk.register_stream_consumer().consumer_name("app");
    let call = call.stream_arn(served.arn().await).tags("team", "roads");
    call.send().await.unwrap().consumer.unwrap().consumer_arn
}

fn pairs(tags: &[Tag]) -> Vec<(&str, &str)> {
    let value = |tag: &Tag| tag.value.is_some();
    assert!(tags.iter().all(value));
    tags.iter().map(|tag| (tag.key(), tag.value().unwrap())).collect()
}

#[tokio::test]
async fn tags_of_stream_are_added_listed_and_removed() {
    let served = unlimited().await;
    let (sdk, arn) = (&served.sdk, served.arn().await);
    let add = sdk.add_tags_to_stream().stream_name(NAME);
    add.tags("a", "1")
        .tags("b", "2")
        .tags("c", "")
        .send()
        .await
        .unwrap();
    sdk.tag_resource()
        .resource_arn(&arn)
        .tags("b", "3")
        .send()
        .await
        .unwrap();
    let list = || sdk.list_tags_for_stream().stream_arn(&arn);
    let first = list().limit(2).send().await.unwrap();
    assert_eq!(pairs(first.tags()), [("a", "1"), ("b", "3")]);
    assert!(first.has_more_tags);
    let rest = list().exclusive_start_tag_key("b").send().await.unwrap();
    assert_eq!((pairs(rest.tags()), rest.has_more_tags), (vec![("c", "")], false));
    let remove = sdk.remove_tags_from_stream().stream_name(NAME).tag_keys("a");
    remove.tag_keys("never there").send().await.unwrap();
    sdk.untag_resource()
        .resource_arn(&arn)
        .tag_keys("c")
        .send()
        .await
        .unwrap();
    let left = sdk
        .list_tags_for_resource()
        .resource_arn(&arn)
        .send()
        .await
        .unwrap();
    assert_eq!(pairs(left.tags()), [("b", "3")]);
}

#[tokio::test]
async fn consumer_has_tags_of_its_own() {
    let served = unlimited().await;
    let arn = consumer(&served).await;
    served
        .sdk
        .tag_resource()
        .resource_arn(&arn)
        .tags("x", "y")
        .send()
        .await
        .unwrap();
    let list = |arn: &str| served.sdk.list_tags_for_resource().resource_arn(arn).send();
    let tags = list(&arn).await.unwrap();
    assert_eq!(pairs(tags.tags()), [("team", "roads"), ("x", "y")]);
    let untag = served.sdk.untag_resource().resource_arn(&arn).tag_keys("team");
    untag.send().await.unwrap();
    assert_eq!(pairs(list(&arn).await.unwrap().tags()), [("x", "y")]);
    assert!(list(&served.arn().await).await.unwrap().tags().is_empty());
    let other = format!("{arn}9");
    assert_eq!(code(list(&other).await), "ResourceNotFoundException");
    assert_eq!(
        code(list("arn:aws:s3:::bucket").await),
        "InvalidArgumentException"
    );
}

#[tokio::test]
async fn tags_that_break_the_rules_are_refused() {
    let served = unlimited().await;
    let add = || served.sdk.add_tags_to_stream().stream_name(NAME);
    let reserved = add().tags("aws:owner", "me").send().await;
    assert_eq!(code(reserved), "InvalidArgumentException");
    let strange = add().tags("a", "<>").send().await;
    assert_eq!(code(strange), "InvalidArgumentException");
    let long = add().tags("k".repeat(129), "v").send().await;
    assert_eq!(code(long), "ValidationException");
    let many = (0..50).fold(add(), |call, number| call.tags(format!("k{number}"), "v"));
    many.send().await.unwrap();
    assert_eq!(
        code(add().tags("one more", "v").send().await),
        "InvalidArgumentException"
    );
    add().tags("k7", "changed").send().await.unwrap();
    let nowhere = served
        .sdk
        .add_tags_to_stream()
        .stream_name("nowhere")
        .tags("a", "b");
    assert_eq!(code(nowhere.send().await), "ResourceNotFoundException");
}

#[tokio::test]
async fn policy_is_stored_and_goes_with_its_resource() {
    let served = unlimited().await;
    let policy = r#"{"Version":"2012-10-17","Statement":[]}"#;
    for arn in [served.arn().await, consumer(&served).await] {
        let get = || served.sdk.get_resource_policy().resource_arn(&arn).send();
        let delete = || served.sdk.delete_resource_policy().resource_arn(&arn).send();
        let put = |policy: &str| {
            let call = served.sdk.put_resource_policy().resource_arn(&arn);
            call.policy(policy).send()
        };
        assert_eq!(code(get().await), "ResourceNotFoundException");
        assert_eq!(code(put("no JSON").await), "InvalidArgumentException");
        put(policy).await.unwrap();
        assert_eq!(get().await.unwrap().policy, policy);
        delete().await.unwrap();
        assert_eq!(code(get().await), "ResourceNotFoundException");
        assert_eq!(code(delete().await), "ResourceNotFoundException");
        put(policy).await.unwrap();
    }
    let call = served.sdk.deregister_stream_consumer().consumer_name("app");
    call.stream_arn(served.arn().await).send().await.unwrap();
    let arn = consumer(&served).await;
    let of_the_next = served.sdk.get_resource_policy().resource_arn(arn).send().await;
    assert_eq!(code(of_the_next), "ResourceNotFoundException");
}

#[tokio::test]
async fn encryption_is_described_while_it_is_on() {
    let served = unlimited().await;
    let start = |kind| {
        let call = served.sdk.start_stream_encryption().stream_name(NAME);
        call.encryption_type(kind).key_id("alias/aws/kinesis").send()
    };
    assert_eq!(
        code(start(EncryptionType::None).await),
        "InvalidArgumentException"
    );
    start(EncryptionType::Kms).await.unwrap();
    let described = async || {
        let call = served.sdk.describe_stream().stream_name(NAME).send();
        let described = call.await.unwrap().stream_description.unwrap();
        (described.encryption_type, described.key_id)
    };
    let put = async || {
        let call = served.sdk.put_record().stream_name(NAME).partition_key("key");
        call.data(Blob::new("x")).send().await.unwrap().encryption_type
    };
    assert_eq!(
        described().await,
        (Some(EncryptionType::Kms), Some("alias/aws/kinesis".to_owned()))
    );
    assert_eq!(put().await, Some(EncryptionType::Kms));
    let stop = served.sdk.stop_stream_encryption().stream_name(NAME);
    let stop = stop
        .encryption_type(EncryptionType::Kms)
        .key_id("alias/aws/kinesis");
    stop.send().await.unwrap();
    assert_eq!(described().await, (Some(EncryptionType::None), None));
    assert_eq!(put().await, Some(EncryptionType::None));
}

#[tokio::test]
async fn metrics_of_shards_are_switched_on_and_off() {
    let served = unlimited().await;
    let enable = served.sdk.enable_enhanced_monitoring().stream_name(NAME);
    let enabled = enable
        .shard_level_metrics(MetricsName::IncomingBytes)
        .send()
        .await
        .unwrap();
    assert!(enabled.current_shard_level_metrics().is_empty());
    assert_eq!(
        enabled.desired_shard_level_metrics(),
        [MetricsName::IncomingBytes]
    );
    let all = served.sdk.enable_enhanced_monitoring().stream_name(NAME);
    let all = all.shard_level_metrics(MetricsName::All).send().await.unwrap();
    assert_eq!(all.desired_shard_level_metrics().len(), 7);
    let disable = served.sdk.disable_enhanced_monitoring().stream_name(NAME);
    let disable = disable
        .shard_level_metrics(MetricsName::OutgoingBytes)
        .send()
        .await
        .unwrap();
    assert_eq!(disable.current_shard_level_metrics().len(), 7);
    let call = served.sdk.describe_stream().stream_name(NAME).send();
    let described = call.await.unwrap().stream_description.unwrap();
    let metrics = described.enhanced_monitoring[0].shard_level_metrics();
    assert_eq!(metrics.len(), 6);
    assert!(!metrics.contains(&MetricsName::OutgoingBytes));
    let unknown = served.sdk.enable_enhanced_monitoring().stream_name(NAME);
    let unknown = unknown
        .shard_level_metrics(MetricsName::from("Weather"))
        .send()
        .await;
    assert_eq!(code(unknown), "ValidationException");
}

#[tokio::test]
async fn commitment_of_the_account_lasts_a_day() {
    let served = unlimited().await;
    let update = |status| {
        let wanted = MinimumThroughputBillingCommitmentInput::builder().status(status);
        let call = served.sdk.update_account_settings();
        call.minimum_throughput_billing_commitment(wanted.build().unwrap())
            .send()
    };
    let status = async || {
        let settings = served.sdk.describe_account_settings().send().await.unwrap();
        settings.minimum_throughput_billing_commitment.unwrap().status
    };
    use MinimumThroughputBillingCommitmentOutputStatus as Status;
    assert_eq!(status().await, Status::Disabled);
    update(MinimumThroughputBillingCommitmentInputStatus::Enabled)
        .await
        .unwrap();
    assert_eq!(status().await, Status::Enabled);
    update(MinimumThroughputBillingCommitmentInputStatus::Disabled)
        .await
        .unwrap();
    assert_eq!(status().await, Status::EnabledUntilEarliestAllowedEnd);
    served.advance(24 * 3_600_000);
    assert_eq!(status().await, Status::Disabled);
}
