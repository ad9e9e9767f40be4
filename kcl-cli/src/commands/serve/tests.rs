use super::*;

use std::net::SocketAddr;
use std::sync::Mutex;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::commands::orders::{self, OrderResult};
use crate::samples;
use request::{OrderRequest, Orders};

/// Keeps what it was asked to order, and orders nothing.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<OrderRequest>>);

impl Orders for Notes {
    fn give(&self, _: &str, request: OrderRequest) -> BoxFuture<'static, Result<Vec<OrderResult>, Failure>> {
        self.0.lock().unwrap().push(request);
        async { Ok(vec![orders::sample()]) }.boxed()
    }
}

/// A dashboard of the sample fleet on a free port.
struct Served {
    address: SocketAddr,
    board: Arc<Board>,
    notes: Arc<Notes>,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    #[expect(
        clippy::disallowed_methods,
        reason = "the server of a test ends with its runtime"
    )]
    async fn start(allows_orders: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Gate::new(address.ip(), &[], allows_orders, [7; 16]);
        let (board, notes) = (Arc::new(Board::new("truck-tracker")), Arc::new(Notes::default()));
        let stop = CancellationToken::new();
        let dashboard = Dashboard::new(
            vec![Arc::clone(&board)],
            gate,
            Duration::from_secs(2),
            notes.clone(),
            stop.clone(),
        );
        let limits = ServerLimits {
            connections: CONNECTIONS,
            head: HEAD_WITHIN,
            connection: CONNECTION_WITHIN,
        };
        let server = tokio::spawn(serve_connections(
            listener,
            routes(dashboard),
            limits,
            stop.clone(),
        ));
        Self {
            address,
            board,
            notes,
            stop,
            server,
        }
    }

    async fn connect(&self, request: &str) -> TcpStream {
        let mut tcp = TcpStream::connect(self.address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        tcp
    }

    /// The whole answer to a request.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        if headers.iter().all(|(name, _)| *name != "host") {
            head += &format!("host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut tcp = self.connect(&format!("{head}\r\n{body}")).await;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn order(&self, headers: &[(&str, &str)], body: &str) -> String {
        self.ask("POST", "/api/truck-tracker/orders", headers, body).await
    }

    fn ordered(&self) -> usize {
        self.notes.0.lock().unwrap().len()
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

/// Reads a stream until it contains the text.
async fn read_until(tcp: &mut TcpStream, text: &str) -> String {
    let (mut all, mut chunk) = (String::new(), [0; 4096]);
    while !all.contains(text) {
        let read = tcp.read(&mut chunk).await.unwrap();
        assert!(read > 0, "the stream ended: {all}");
        all += std::str::from_utf8(&chunk[..read]).unwrap();
    }
    all
}

const PAUSE: &str = r#"{"order":"pause","lease":"shardId-000000000000","reason":"the database is down"}"#;
const TOKEN: &str = "07070707070707070707070707070707";

#[tokio::test]
async fn every_answer_carries_the_policy() {
    let served = Served::start(false).await;
    for path in [
        "/",
        "/dashboard.js",
        "/dashboard.css",
        "/api/settings",
        "/nothing",
    ] {
        let answer = served.ask("GET", path, &[], "").await;
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.contains(header), "{path} lacks {header}: {answer}");
        }
    }
    let page = served.ask("GET", "/", &[], "").await;
    assert!(
        status(&page) == "200" && page.contains("text/html") && !page.contains("https://"),
        "{page}"
    );
    assert_eq!(status(&served.ask("GET", "/nothing", &[], "").await), "404");
}

#[tokio::test]
async fn unknown_host_is_refused_on_every_path() {
    let served = Served::start(true).await;
    for path in ["/", "/api/settings", "/api/truck-tracker/events"] {
        let answer = served.ask("GET", path, &[("host", "evil.example")], "").await;
        assert!(
            status(&answer) == "403" && answer.contains("--allow-host"),
            "{answer}"
        );
        assert!(!answer.contains(TOKEN), "{answer}");
    }
    let answer = served
        .ask("GET", "/api/settings", &[("host", "localhost:1")], "")
        .await;
    assert!(status(&answer) == "200" && answer.contains(TOKEN), "{answer}");
}

#[tokio::test]
async fn no_order_is_given_unless_allowed() {
    let served = Served::start(false).await;
    let headers = [("content-type", "application/json"), ("x-kcl-token", TOKEN)];
    let answer = served.order(&headers, PAUSE).await;
    assert!(
        status(&answer) == "403" && answer.contains("--allow-orders"),
        "{answer}"
    );
    let settings = served.ask("GET", "/api/settings", &[], "").await;
    assert!(
        settings.contains("\"token\":null") && settings.contains("--allow-orders"),
        "{settings}"
    );
    assert_eq!(served.ordered(), 0);
}

#[tokio::test]
async fn order_of_another_site_is_refused() {
    let served = Served::start(true).await;
    let origin = format!("http://{}", served.address);
    let good = [
        ("content-type", "application/json"),
        ("x-kcl-token", TOKEN),
        ("origin", origin.as_str()),
        ("sec-fetch-site", "same-origin"),
    ];
    for (index, value) in [
        (0, "text/plain"),
        (1, "00000000000000000000000000000000"),
        (2, "http://evil.example"),
        (3, "cross-site"),
    ] {
        let mut headers = good;
        headers[index].1 = value;
        let answer = served.order(&headers, PAUSE).await;
        assert!(matches!(status(&answer), "403" | "415"), "{answer}");
    }
    let preflight = served
        .ask("OPTIONS", "/api/truck-tracker/orders", &good[2..3], "")
        .await;
    assert!(!preflight.contains("access-control-allow"), "{preflight}");
    assert_eq!(served.ordered(), 0);
    let answer = served.order(&good, PAUSE).await;
    assert!(
        status(&answer) == "200" && answer.contains("\"answer\":\"planned\""),
        "{answer}"
    );
    assert_eq!(served.ordered(), 1);
}

#[tokio::test]
async fn large_or_broken_order_is_refused() {
    let served = Served::start(true).await;
    let headers = [("content-type", "application/json"), ("x-kcl-token", TOKEN)];
    let large = served.order(&headers, &"x".repeat(9 * 1024)).await;
    assert_eq!(status(&large), "413", "{large}");
    for body in ["{", r#"{"order":"reset","lease":"a","reason":"b"}"#] {
        assert_eq!(status(&served.order(&headers, body).await), "400", "{body}");
    }
    let other = served.ask("POST", "/api/other/orders", &headers, PAUSE).await;
    assert_eq!(status(&other), "404", "{other}");
    assert_eq!(served.ordered(), 0);
}

#[tokio::test]
async fn browser_gets_known_state_then_changes() {
    let served = Served::start(false).await;
    served.board.show(Ok(samples::fleet()));
    let request = format!(
        "GET /api/truck-tracker/events HTTP/1.1\r\nhost: {}\r\n\r\n",
        served.address
    );
    let mut browser = served.connect(&request).await;
    let first = read_until(&mut browser, "\n\n").await;
    assert!(
        first.contains("text/event-stream") && first.contains("event: fleet"),
        "{first}"
    );
    served
        .board
        .show(Err(Failure::new(Exit::NoAnswer, "the table is away")));
    let second = read_until(&mut browser, "last_look_ms").await;
    assert!(
        second.contains("event: problem") && second.contains("the table is away"),
        "{second}"
    );
    let why = served
        .ask("GET", "/api/truck-tracker/shards/shardId-000000000000", &[], "")
        .await;
    assert!(status(&why) == "200" && why.contains("worker-1 has it"), "{why}");
    let none = served.ask("GET", "/api/truck-tracker/shards/none", &[], "").await;
    assert_eq!(status(&none), "404");
    served.stop.cancel();
    served.server.await.unwrap();
}

#[tokio::test]
async fn browsers_are_bounded_and_make_room() {
    let served = Served::start(false).await;
    served.board.show(Ok(samples::fleet()));
    let request = format!(
        "GET /api/truck-tracker/events HTTP/1.1\r\nhost: {}\r\n\r\n",
        served.address
    );
    let mut browsers = Vec::new();
    for _ in 0..32 {
        let mut browser = served.connect(&request).await;
        read_until(&mut browser, "event: fleet").await;
        browsers.push(browser);
    }
    let further = served.ask("GET", "/api/truck-tracker/events", &[], "").await;
    assert!(
        status(&further) == "503" && further.contains("close one"),
        "{further}"
    );
    browsers.clear();
    loop {
        let mut browser = served.connect(&request).await;
        let answer = read_until(&mut browser, "\r\n\r\n").await;
        if status(&answer) == "200" {
            break;
        }
    }
}
