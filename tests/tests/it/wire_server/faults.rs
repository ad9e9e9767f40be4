//! Faults that a test scripts, as the SDK sees them.

use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::types::ShardIteratorType;
use hyper::Version;
use kinesis_local::{Fault, FaultRule, Operation, WireOptions};

use crate::wire_server::raw;
use crate::wire_server::support::{NAME, Served, code, shard, soon, stays_silent};

async fn with(fault: Fault) -> (Served, String) {
    let served = Served::with(2, WireOptions::unlimited()).await;
    served.stream.put_with_hash_key("key", 0, "a").unwrap();
    let iterator = served.iterator(&shard(0), ShardIteratorType::TrimHorizon).await;
    let rule = FaultRule::new(fault).on(Operation::GetRecords).times(1);
    served.server.faults().inject(rule);
    (served, iterator)
}

#[tokio::test]
async fn call_that_hangs_is_accepted_and_never_answered() {
    for fault in [Fault::Hang, Fault::HalfOpen] {
        let (served, iterator) = with(fault).await;
        assert!(stays_silent(served.read(&iterator)).await, "{fault:?}");
        // It is one call that hangs, not the server.
        assert_eq!(soon(served.read(&iterator)).await.records().len(), 1);
        assert_eq!(served.server.requests().count(Operation::GetRecords), 2);
    }
}

#[tokio::test]
async fn the_head_of_a_half_open_answer_comes() {
    let (served, iterator) = with(Fault::HalfOpen).await;
    let body = format!(r#"{{"ShardIterator":"{iterator}"}}"#);
    let json = "application/x-amz-json-1.1";
    let answer = raw::send(&served.server, Version::HTTP_11, "GetRecords", json, body);
    let answer = soon(answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = http_body_util::BodyExt::collect(answer.into_body());
    assert!(stays_silent(body).await);
}

#[tokio::test]
async fn a_reset_takes_the_connection_away() {
    let (served, iterator) = with(Fault::Reset).await;
    let call = || served.sdk.get_records().shard_iterator(&iterator).send();
    let error = soon(call()).await.unwrap_err();
    assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");
    call().await.unwrap();
}

#[tokio::test]
async fn all_connections_can_be_reset_at_once() {
    let (served, iterator) = with(Fault::Hang).await;
    let call = served.sdk.get_records().shard_iterator(&iterator).send();
    let hanging = async {
        // The reset comes when the call has arrived.
        kcl_tests::wait::eventually(crate::wire_server::support::PATIENCE, async || {
            let arrived = served.server.requests().count(Operation::GetRecords);
            if arrived == 1 { Ok(()) } else { Err("no call") }
        })
        .await;
        served.server.reset_connections();
    };
    let (outcome, ()) = tokio::join!(call, hanging);
    assert!(
        matches!(outcome, Err(SdkError::DispatchFailure(_))),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn failures_and_throttles_are_those_of_the_service() {
    let (served, iterator) = with(Fault::InternalFailure).await;
    let call = || served.sdk.get_records().shard_iterator(&iterator).send();
    let error = call().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 500);
    assert_eq!(code(Err::<(), _>(error)), "InternalFailureException");
    call().await.unwrap();

    served.server.faults().inject(FaultRule::new(Fault::Throttle));
    assert_eq!(code(call().await), "ProvisionedThroughputExceededException");
    let list = || served.sdk.list_shards().stream_name(NAME).send();
    assert_eq!(code(list().await), "LimitExceededException");
    served.server.faults().clear();
    list().await.unwrap();
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let (served, iterator) = with(Fault::Garbage).await;
    let call = || served.sdk.get_records().shard_iterator(&iterator).send();
    let error = call().await.unwrap_err();
    assert!(matches!(error, SdkError::ResponseError(_)), "{error:?}");
    call().await.unwrap();
}

#[tokio::test]
async fn a_fault_of_one_shard_spares_the_others() {
    let (served, _) = with(Fault::Garbage).await;
    served.server.faults().clear();
    let rule = FaultRule::new(Fault::InternalFailure).shard(shard(1));
    served.server.faults().inject(rule);
    let get = |index| {
        let call = served
            .sdk
            .get_shard_iterator()
            .stream_name(NAME)
            .shard_id(shard(index).as_str());
        call.shard_iterator_type(ShardIteratorType::Latest).send()
    };
    let spared = get(0).await.unwrap().shard_iterator.unwrap();
    assert_eq!(code(get(1).await), "InternalFailureException");
    served.read(&spared).await;
}
