//! The paths, and what is answered on each.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use kcl_core::StatusReader;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::health::{Verdict, liveness, readiness};

/// The path of the metrics.
pub const METRICS_PATH: &str = "/metrics";
/// The path of the liveness probe.
pub const LIVENESS_PATH: &str = "/healthz";
/// The path of the readiness probe.
pub const READINESS_PATH: &str = "/readyz";
/// The path of the status in JSON.
pub const STATUS_PATH: &str = "/status.json";

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const EXPOSITION: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The worker that is published.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) reader: StatusReader,
    pub(crate) metrics: Option<PrometheusHandle>,
    /// From which standstill on the worker counts as dead.
    pub(crate) standstill: Duration,
}

/// Returns the routes for this worker.
pub(crate) fn routes(published: Published) -> Router {
    Router::new()
        .route("/", get(index))
        .route(METRICS_PATH, get(metrics))
        .route(LIVENESS_PATH, get(alive))
        .route(READINESS_PATH, get(ready))
        .route(STATUS_PATH, get(status))
        .fallback(unknown)
        .layer(from_fn(without_body))
        .with_state(Arc::new(published))
}

/// Refuses a request that brings a body, and marks every answer as one that is not to be kept.
async fn without_body(request: Request, next: Next) -> Response<Body> {
    let mut answer = if has_body(request.headers()) {
        text(StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body")
    } else {
        next.run(request).await
    };
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH);
    length.is_some_and(|length| length != "0") || headers.contains_key(TRANSFER_ENCODING)
}

async fn index() -> Response<Body> {
    let paths = [METRICS_PATH, LIVENESS_PATH, READINESS_PATH, STATUS_PATH];
    text(StatusCode::OK, paths.join("\n"))
}

async fn unknown() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "there is nothing here: / lists the paths")
}

async fn metrics(State(published): State<Arc<Published>>) -> Response<Body> {
    match &published.metrics {
        Some(metrics) => answer(StatusCode::OK, EXPOSITION, metrics.render()),
        None => text(
            StatusCode::NOT_FOUND,
            "this server was given no exporter of metrics",
        ),
    }
}

async fn alive(State(published): State<Arc<Published>>) -> Response<Body> {
    judged(liveness(&published.reader.status(), published.standstill))
}

async fn ready(State(published): State<Arc<Published>>) -> Response<Body> {
    judged(readiness(&published.reader.status()))
}

async fn status(State(published): State<Arc<Published>>) -> Response<Body> {
    match serde_json::to_string(&published.reader.status()) {
        Ok(status) => answer(StatusCode::OK, JSON, status),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn judged(verdict: Verdict) -> Response<Body> {
    let code = match verdict.is_good {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(code, verdict.reason)
}

fn text(code: StatusCode, words: impl Into<String>) -> Response<Body> {
    answer(code, TEXT, words.into() + "\n")
}

fn answer(code: StatusCode, content_type: HeaderValue, body: String) -> Response<Body> {
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
