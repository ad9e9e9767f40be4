//! The headers of every answer: when it was made, which request it answers, and which origins may read it in a browser.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, DATE, HeaderMap,
    HeaderValue, ORIGIN,
};
use hyper::http::HeaderName;
use kcl_core::types::Timestamp;
use md5::{Digest as _, Md5};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ID_2: HeaderName = HeaderName::from_static("x-amz-id-2");
/// The headers that scripts of other origins may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-amzn-RequestId,x-amzn-ErrorType,x-amz-request-id,x-amz-id-2,x-amzn-ErrorMessage,Date",
);

/// Names requests: each id once per server, and other ones after a new start.
#[derive(Debug, Clone)]
pub(super) struct RequestIds {
    started: i64,
    count: Arc<AtomicU64>,
}

impl RequestIds {
    pub(super) fn new(started: Timestamp) -> Self {
        Self {
            started: started.as_millis(),
            count: Arc::default(),
        }
    }

    fn next(&self) -> [u8; 16] {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        Md5::digest(format!("{} {count}", self.started)).into()
    }
}

/// Adds the headers of an answer that the service makes at this time.
pub(super) fn stamp(headers: &mut HeaderMap, ids: &RequestIds, time: Timestamp) {
    let id = ids.next();
    add(headers, REQUEST_ID, &as_uuid(id));
    add(
        headers,
        ID_2,
        &STANDARD.encode([id, ids.next(), ids.next()].concat()),
    );
    let since = Duration::from_secs(u64::try_from(time.as_secs()).unwrap_or(0));
    add(headers, DATE, &httpdate::fmt_http_date(UNIX_EPOCH + since));
}

/// Lets any origin read the answer, if a browser asks for one.
pub(super) fn share(headers: &mut HeaderMap, request: &HeaderMap) {
    if request.contains_key(ORIGIN) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

/// Answers the question of a browser whether a script may call at all.
pub(super) fn preflight(headers: &mut HeaderMap, request: &HeaderMap) {
    let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let asked = asked.unwrap_or_else(|| HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("172800"));
}

fn add(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

fn as_uuid(bytes: [u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}
