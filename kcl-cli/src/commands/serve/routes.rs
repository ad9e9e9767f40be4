//! The paths of the dashboard, and the answer on each.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse as _;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use futures_util::stream;
use kcl_core::clock::{ClockExt as _, TokioClock};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::board::{Board, Shown};
use super::gate::{Gate, NO_ORDERS, Refusal};
use super::request::{OrderRequest, Orders};
use crate::commands::fleet::why_documents;
use crate::failure::Exit;

/// The browsers that are sent states at a time.
const MOST_BROWSERS: usize = 32;
/// The largest body of a request, in bytes.
const LARGEST_BODY: usize = 8 * 1024;
/// The time for the body of a request.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// The page may run nothing and load nothing that is not served here, and stands in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The files of the page.
const FILES: [(&str, &str, &str); 7] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/dashboard.css", CSS, include_str!("page/dashboard.css")),
    ("/dashboard.js", SCRIPT, include_str!("page/dashboard.js")),
    ("/chart.js", SCRIPT, include_str!("page/chart.js")),
    ("/tables.js", SCRIPT, include_str!("page/tables.js")),
    ("/panel.js", SCRIPT, include_str!("page/panel.js")),
    ("/text.js", SCRIPT, include_str!("page/text.js")),
];

/// The state of the server.
pub(crate) struct Dashboard {
    boards: Vec<Arc<Board>>,
    gate: Gate,
    interval: Duration,
    orders: Arc<dyn Orders>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

/// The settings that the page needs.
#[derive(Debug, Serialize)]
struct SettingsDocument<'a> {
    applications: Vec<&'a str>,
    interval_ms: u64,
    /// The token that orders need; `null` where there are none.
    token: Option<&'a str>,
    /// Why there are no orders.
    no_orders: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct RefusalDocument<'a> {
    message: &'a str,
}

impl Dashboard {
    pub(crate) fn new(
        boards: Vec<Arc<Board>>,
        gate: Gate,
        interval: Duration,
        orders: Arc<dyn Orders>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            boards,
            gate,
            interval,
            orders,
            places: Arc::new(Semaphore::new(MOST_BROWSERS)),
            stop,
        }
    }

    fn board(&self, application: &str) -> Result<&Arc<Board>, Refusal> {
        let board = self.boards.iter().find(|board| board.application == application);
        board.ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("this dashboard does not serve {application}"),
            )
        })
    }
}

/// Returns the routes.
pub(crate) fn routes(dashboard: Dashboard) -> Router {
    let dashboard = Arc::new(dashboard);
    let mut router = Router::new();
    for (path, kind, content) in FILES {
        router = router.route(path, get(async move || answer(StatusCode::OK, kind, content)));
    }
    router
        .route("/api/settings", get(settings))
        .route("/api/{application}/events", get(events))
        .route("/api/{application}/shards/{lease}", get(why))
        .route("/api/{application}/orders", post(order))
        .fallback(async || {
            answer(
                StatusCode::NOT_FOUND,
                TEXT,
                "there is nothing here: the page is at /\n",
            )
        })
        .layer(from_fn_with_state(Arc::clone(&dashboard), guarded))
        .with_state(dashboard)
}

/// Serves a request that came by a name of this server, and marks the answer.
async fn guarded(State(dashboard): State<Arc<Dashboard>>, request: Request, next: Next) -> Response<Body> {
    let mut answer = match dashboard.gate.check_host(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refuse(&refusal),
    };
    let headers: [(HeaderName, &'static str); 6] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

async fn settings(State(dashboard): State<Arc<Dashboard>>) -> Response<Body> {
    let document = SettingsDocument {
        applications: dashboard
            .boards
            .iter()
            .map(|board| board.application.as_str())
            .collect(),
        interval_ms: u64::try_from(dashboard.interval.as_millis()).unwrap_or(u64::MAX),
        token: dashboard.gate.token(),
        no_orders: (!dashboard.gate.allows_orders).then_some(NO_ORDERS),
    };
    json(StatusCode::OK, &document)
}

/// How a shard came to its state.
async fn why(
    State(dashboard): State<Arc<Dashboard>>,
    Path((application, lease)): Path<(String, String)>,
) -> Response<Body> {
    let board = match dashboard.board(&application) {
        Ok(board) => board,
        Err(refusal) => return refuse(&refusal),
    };
    let fleet = board.fleet();
    let shards = fleet
        .iter()
        .flat_map(|fleet| fleet.shards.iter().map(move |shard| (fleet, shard)));
    let mut found = shards.filter(|(_, shard)| shard.lease == lease);
    match found.next() {
        Some((fleet, shard)) => json(StatusCode::OK, &why_documents(fleet, &[shard])[0]),
        None => refuse(&Refusal::new(
            StatusCode::NOT_FOUND,
            "the table has no such lease any more",
        )),
    }
}

/// The states of an application, the current one first.
async fn events(State(dashboard): State<Arc<Dashboard>>, Path(application): Path<String>) -> Response<Body> {
    let board = match dashboard.board(&application) {
        Ok(board) => board,
        Err(refusal) => return refuse(&refusal),
    };
    let Ok(place) = Arc::clone(&dashboard.places).try_acquire_owned() else {
        let reason = format!("{MOST_BROWSERS} browsers watch already: close one");
        return refuse(&Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason));
    };
    let watcher = Watcher {
        shown: board.watch(),
        is_first: true,
        stop: dashboard.stop.clone(),
        _place: place,
    };
    Sse::new(stream::unfold(watcher, Watcher::next)).into_response()
}

/// A browser that watches.
struct Watcher {
    shown: watch::Receiver<Shown>,
    is_first: bool,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// The newest state, once it is another than the last that was sent. The stream ends with the server.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if !self.is_first {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return None,
                    changed = self.shown.changed() => changed.ok()?,
                }
            }
            self.is_first = false;
            let (event, looks) = {
                let shown = self.shown.borrow_and_update();
                (shown.event(), shown.looks)
            };
            if let Some((name, data)) = event {
                let event = Event::default().event(name).id(looks.to_string()).data(data);
                return Some((Ok(event), self));
            }
        }
    }
}

/// Gives an order.
async fn order(
    State(dashboard): State<Arc<Dashboard>>,
    Path(application): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    let given = take_order(&dashboard, &application, &headers, body).await;
    given.unwrap_or_else(|refusal| refuse(&refusal))
}

async fn take_order(
    dashboard: &Dashboard,
    application: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refusal> {
    dashboard.gate.check_order(headers)?;
    let board = dashboard.board(application)?;
    let body = TokioClock::new()
        .timeout(BODY_WITHIN, to_bytes(body, LARGEST_BODY))
        .await;
    let body =
        body.map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the order did not come in time"))?;
    let body = body.map_err(|_| {
        let reason = format!("an order has at most {LARGEST_BODY} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
    })?;
    let request =
        OrderRequest::parse(&body).map_err(|reason| Refusal::new(StatusCode::BAD_REQUEST, reason))?;
    let given = dashboard.orders.give(application, request).await;
    board.look_now();
    match given {
        Ok(results) => Ok(json(StatusCode::OK, &results)),
        Err(failure) => {
            let status = match failure.exit {
                Exit::Usage => StatusCode::BAD_REQUEST,
                Exit::NotFound => StatusCode::NOT_FOUND,
                Exit::Fine | Exit::Found => StatusCode::CONFLICT,
                Exit::NoAccess | Exit::NoAnswer => StatusCode::BAD_GATEWAY,
            };
            Err(Refusal::new(status, failure.to_string()))
        }
    }
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    json(
        refusal.status,
        &RefusalDocument {
            message: &refusal.reason,
        },
    )
}

fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    match serde_json::to_string(document) {
        Ok(text) => answer(status, JSON, text),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

fn answer(status: StatusCode, kind: &'static str, content: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(content.into());
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
