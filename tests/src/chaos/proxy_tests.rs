//! Each fault does what it says, to a plain client.

use kcl_core::clock::{Clock as _, Elapsed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const SOON: Duration = Duration::from_secs(30);
/// An answer that has not come by then does not come.
const A_WHILE: Duration = Duration::from_millis(300);

/// A server that answers every request with its body, and notes what has arrived.
struct Echo {
    endpoint: String,
    arrived: Arc<Mutex<Vec<String>>>,
    scope: TaskScope,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.scope.kill();
    }
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (arrived, scope) = (Arc::new(Mutex::new(Vec::new())), TaskScope::new());
        let (notes, inner) = (Arc::clone(&arrived), scope.clone());
        scope.spawn("echo", TaskPolicy::Job, async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let notes = Arc::clone(&notes);
                inner.spawn("connection", TaskPolicy::Job, async move {
                    let answer = service_fn(|request: Request<Incoming>| {
                        let notes = Arc::clone(&notes);
                        async move {
                            let body = request.into_body().collect().await?.to_bytes();
                            lock(&notes).push(String::from_utf8_lossy(&body).into_owned());
                            Ok::<_, hyper::Error>(Response::new(Full::new(body)))
                        }
                    });
                    let connection = server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(tcp), answer).await;
                });
            }
        });
        Self {
            endpoint,
            arrived,
            scope,
        }
    }

    fn arrived(&self) -> Vec<String> {
        lock(&self.arrived).clone()
    }
}

/// A proxy before an echo, a client, and what the tap was shown.
struct Scene {
    proxy: Proxy,
    echo: Echo,
    tapped: Arc<Mutex<Vec<Bytes>>>,
    clock: TokioClock,
}

#[derive(Debug)]
enum Failure {
    /// No answer within [`A_WHILE`].
    Silence,
    /// The connection ended.
    Broken,
}

impl Scene {
    async fn of(service: Service) -> Self {
        let echo = Echo::start().await;
        let tapped = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&tapped);
        let tap: Tap = Arc::new(move |_: &str, _: bool, body: &Bytes| lock(&notes).push(body.clone()));
        let proxy = Proxy::start(service, &echo.endpoint, Rng::from_seed(1), tap);
        Self {
            proxy: proxy.await.unwrap(),
            echo,
            tapped,
            clock: TokioClock::new(),
        }
    }

    async fn with(fault: NetworkFault) -> Self {
        let scene = Self::of(Service::Dynamo).await;
        scene.proxy.disturb(Some(Disturbance::always(fault)));
        scene
    }

    async fn sent(&self, body: &str) -> Result<(u16, Bytes), Failure> {
        self.sent_within(A_WHILE, body).await
    }

    async fn sent_within(&self, limit: Duration, body: &str) -> Result<(u16, Bytes), Failure> {
        let authority = self.proxy.endpoint().trim_start_matches("http://");
        let exchange = async {
            let tcp = TcpStream::connect(authority).await.map_err(|_| Failure::Broken)?;
            let connected = client::conn::http1::handshake(TokioIo::new(tcp)).await;
            let (mut sender, connection) = connected.map_err(|_| Failure::Broken)?;
            let request = Request::post("/")
                .header("host", authority)
                .header("content-type", "application/x-amz-json-1.0")
                .header("x-amz-target", "DynamoDB_20120810.UpdateItem")
                .body(Full::new(Bytes::from(body.to_owned())))
                .unwrap();
            let answered = async {
                let answer = sender.send_request(request).await.map_err(|_| Failure::Broken)?;
                let status = answer.status().as_u16();
                let body = answer.into_body().collect().await.map_err(|_| Failure::Broken)?;
                Ok((status, body.to_bytes()))
            };
            tokio::select! {
                biased;
                answer = answered => answer,
                _ = connection => Err(Failure::Broken),
            }
        };
        let outcome = self.clock.timeout(limit, exchange).await;
        outcome.unwrap_or_else(|Elapsed(_)| Err(Failure::Silence))
    }

    async fn until_arrived(&self, bodies: &[&str]) {
        crate::wait::eventually(SOON, async || {
            let arrived = self.echo.arrived();
            let there = bodies.iter().all(|body| arrived.iter().any(|one| one == body));
            if there {
                Ok(())
            } else {
                Err(format!("{arrived:?}"))
            }
        })
        .await;
    }
}

#[tokio::test]
async fn without_fault_everything_passes_and_tap_sees_it() {
    let scene = Scene::of(Service::Kinesis).await;
    let answer = scene.sent_within(SOON, "hello").await;
    assert!(
        matches!(&answer, Ok((200, body)) if body == "hello"),
        "{answer:?}"
    );
    assert_eq!(*lock(&scene.tapped), ["hello"]);
    let counts = Counts {
        requests: 1,
        disturbed: 0,
    };
    assert_eq!(scene.proxy.counts(), counts);
}

#[tokio::test]
async fn added_latency_stays_within_its_limit() {
    let most = Duration::from_millis(400);
    let scene = Scene::with(NetworkFault::Latency(most)).await;
    let before = scene.clock.now();
    let answer = scene.sent_within(SOON, "slow").await;
    assert!(matches!(&answer, Ok((200, body)) if body == "slow"), "{answer:?}");
    assert!(scene.clock.now().saturating_since(before) >= most / 2);
}

#[tokio::test]
async fn late_request_arrives_after_its_client_gave_up() {
    let scene = Scene::with(NetworkFault::Latency(Duration::from_secs(6))).await;
    let answer = scene.sent("late").await;
    assert!(matches!(answer, Err(Failure::Silence)), "{answer:?}");
    assert_eq!(scene.echo.arrived(), Vec::<String>::new());
    scene.until_arrived(&["late"]).await;
}

#[tokio::test]
async fn black_hole_takes_request_and_says_nothing() {
    let scene = Scene::with(NetworkFault::BlackHole).await;
    let answer = scene.sent("gone").await;
    assert!(matches!(answer, Err(Failure::Silence)), "{answer:?}");
    assert_eq!(scene.echo.arrived(), Vec::<String>::new());
    // Not even later: what it has swallowed is gone.
    scene.proxy.disturb(None);
    assert!(scene.sent_within(SOON, "next").await.is_ok());
    assert_eq!(scene.echo.arrived(), ["next"]);
}

#[tokio::test]
async fn a_lost_reply_comes_after_the_effect() {
    let scene = Scene::with(NetworkFault::LostReply).await;
    let (mut silent, mut broken) = (0, 0);
    for number in 0..8 {
        match scene.sent(&number.to_string()).await {
            Err(Failure::Silence) => silent += 1,
            Err(Failure::Broken) => broken += 1,
            Ok(answer) => panic!("{answer:?}"),
        }
    }
    assert!(silent > 0 && broken > 0, "{silent} silent, {broken} broken");
    scene
        .until_arrived(&["0", "1", "2", "3", "4", "5", "6", "7"])
        .await;
    assert_eq!(lock(&scene.tapped).len(), 8, "the tap sees what is lost");
}

#[tokio::test]
async fn reset_is_no_end_and_passes_nothing_on() {
    let scene = Scene::with(NetworkFault::Reset).await;
    let authority = scene.proxy.endpoint().trim_start_matches("http://");
    let mut tcp = TcpStream::connect(authority).await.unwrap();
    tcp.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi")
        .await
        .unwrap();
    let read = tcp.read(&mut [0; 10]).await;
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let answer = scene.sent_within(SOON, "more").await;
    assert!(matches!(answer, Err(Failure::Broken)), "{answer:?}");
    assert_eq!(scene.echo.arrived(), Vec::<String>::new());
}

#[tokio::test]
async fn throttle_and_failed_server_answer_instead_of_server() {
    let scene = Scene::with(NetworkFault::Throttle).await;
    let (status, body) = scene.sent_within(SOON, "much").await.unwrap();
    let said = String::from_utf8_lossy(&body).into_owned();
    assert!(
        status == 400 && said.contains("ProvisionedThroughputExceeded"),
        "{said}"
    );

    scene
        .proxy
        .disturb(Some(Disturbance::always(NetworkFault::ServerError)));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..16 {
        seen.insert(scene.sent_within(SOON, "sick").await.unwrap().0);
    }
    assert_eq!(seen, [500, 503].into());
    assert_eq!(scene.echo.arrived(), Vec::<String>::new());
}

#[tokio::test]
async fn one_in_n_requests_is_met() {
    let scene = Scene::of(Service::Dynamo).await;
    let some = Disturbance {
        fault: NetworkFault::Throttle,
        one_in: 3,
    };
    scene.proxy.disturb(Some(some));
    let mut refused = 0;
    for _ in 0..60 {
        refused += u64::from(scene.sent_within(SOON, "some").await.unwrap().0 == 400);
    }
    assert!((5..=40).contains(&refused), "{refused} of 60");
    let counts = Counts {
        requests: 60,
        disturbed: refused,
    };
    assert_eq!(scene.proxy.counts(), counts);
}

#[tokio::test]
async fn partition_passes_nothing_and_some_comes_late() {
    let scene = Scene::with(NetworkFault::Partition).await;
    let bodies: Vec<String> = (0..8).map(|number| number.to_string()).collect();
    for body in &bodies {
        let answer = scene.sent(body).await;
        assert!(matches!(answer, Err(Failure::Silence)), "{answer:?}");
    }
    assert_eq!(scene.echo.arrived(), Vec::<String>::new());
    scene.proxy.disturb(None);
    let answer = scene.sent_within(SOON, "healed").await;
    assert!(answer.is_ok(), "{answer:?}");
    crate::wait::eventually(SOON, async || {
        let late = scene.echo.arrived().len() - 1;
        if (1..8).contains(&late) {
            Ok(())
        } else {
            Err(format!("{late} of 8 came late"))
        }
    })
    .await;
}

#[tokio::test]
async fn answer_on_its_way_does_not_pass_partition() {
    let scene = Scene::with(NetworkFault::Latency(Duration::from_secs(2))).await;
    let waiting = scene.sent_within(Duration::from_secs(5), "caught");
    let parting = async {
        scene.until_arrived(&["caught"]).await;
        scene
            .proxy
            .disturb(Some(Disturbance::always(NetworkFault::Partition)));
    };
    let (answer, ()) = tokio::join!(biased; waiting, parting);
    assert!(matches!(answer, Err(Failure::Silence)), "{answer:?}");
}
