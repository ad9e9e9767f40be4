//! Answers that the proxy makes up, in the wire form of each service.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::fault::Service;

const CBOR: &str = "application/x-amz-cbor-1.1";

/// That the caller is too fast: DynamoDB says so about the table, Kinesis about the shard or about the call.
pub(super) fn throttled(service: Service, target: &str, content_type: &str) -> Response<Full<Bytes>> {
    let operation = target.rsplit('.').next().unwrap_or_default();
    let about_a_shard = ["GetRecords", "GetShardIterator", "PutRecord", "PutRecords"];
    let code = match service {
        Service::Dynamo => "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
        Service::Kinesis if about_a_shard.contains(&operation) => "ProvisionedThroughputExceededException",
        Service::Kinesis => "LimitExceededException",
    };
    failure(StatusCode::BAD_REQUEST, code, "Rate exceeded.", content_type)
}

/// The server failed: with a code of its own, or as a load balancer in front says so.
pub(super) fn server_error(service: Service, content_type: &str, unavailable: bool) -> Response<Full<Bytes>> {
    if unavailable {
        let mut answer = Response::new(Full::from(
            "<html><body><h1>503 Service Unavailable</h1></body></html>",
        ));
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        answer
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        return answer;
    }
    let code = match service {
        Service::Dynamo => "com.amazonaws.dynamodb.v20120810#InternalServerError",
        Service::Kinesis => "InternalFailureException",
    };
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    failure(status, code, "The request processing has failed.", content_type)
}

/// In the encoding of the request, as the services answer.
fn failure(status: StatusCode, code: &str, message: &str, content_type: &str) -> Response<Full<Bytes>> {
    let body = if content_type == CBOR {
        let mut body = Vec::new();
        let map = BTreeMap::from([("__type", code), ("message", message)]);
        ciborium::into_writer(&map, &mut body).expect("a vector takes everything");
        Bytes::from(body)
    } else {
        Bytes::from(json!({ "__type": code, "message": message }).to_string())
    };
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_str(content_type);
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/x-amz-json-1.1"));
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn body(answer: Response<Full<Bytes>>) -> Bytes {
        answer.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn each_service_throttles_in_its_own_words() {
        let json = "application/x-amz-json-1.0";
        let answer = throttled(Service::Dynamo, "DynamoDB_20120810.UpdateItem", json);
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer.headers()[CONTENT_TYPE], json);
        let text = body(answer).await;
        let code = "\"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException\"";
        assert!(String::from_utf8_lossy(&text).contains(code), "{text:?}");

        let words = async |target: &str| {
            let answer = throttled(Service::Kinesis, target, CBOR);
            assert_eq!(answer.headers()[CONTENT_TYPE], CBOR);
            let map: BTreeMap<String, String> = ciborium::from_reader(&body(answer).await[..]).unwrap();
            map["__type"].clone()
        };
        assert_eq!(
            words("Kinesis_20131202.GetRecords").await,
            "ProvisionedThroughputExceededException"
        );
        assert_eq!(
            words("Kinesis_20131202.ListShards").await,
            "LimitExceededException"
        );
    }

    #[tokio::test]
    async fn failed_server_answers_in_encoding_or_as_page() {
        let answer = server_error(Service::Kinesis, CBOR, false);
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let map: BTreeMap<String, String> = ciborium::from_reader(&body(answer).await[..]).unwrap();
        assert_eq!(map["__type"], "InternalFailureException");

        let answer = server_error(Service::Dynamo, "application/x-amz-json-1.0", true);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(body(answer).await.starts_with(b"<html>"));
    }
}
