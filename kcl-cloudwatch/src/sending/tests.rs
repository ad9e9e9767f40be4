use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use kcl_core::clock::TokioClock;
use metrics::{CounterFn as _, HistogramFn as _};

use super::*;
use crate::chunks::MOST_DATA;
use crate::names::DatumValue;
use crate::taken::SeriesKey;

/// A service that takes what it is not scripted to refuse.
#[derive(Debug, Default)]
struct Service {
    script: Mutex<Vec<Result<(), PutFailure>>>,
    calls: AtomicUsize,
    taken: Mutex<Vec<Datum>>,
    /// It refuses calls with a metric of this name.
    refused: Option<&'static str>,
}

#[async_trait]
impl PutMetrics for Service {
    async fn put(&self, data: &[Datum], _: Timestamp) -> Result<(), PutFailure> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.script.lock().unwrap().pop().unwrap_or(Ok(()))?;
        assert!(
            data.iter().all(|datum| crate::validity::fault(datum).is_none()),
            "an invalid datum was sent"
        );
        if data.iter().any(|datum| Some(datum.name.as_str()) == self.refused) {
            return Err(PutFailure::Invalid("InvalidParameterValue".to_owned()));
        }
        self.taken.lock().unwrap().extend(data.iter().cloned());
        Ok(())
    }
}

impl Service {
    /// The sums of all that was taken, by name.
    fn sums(&self) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for datum in self.taken.lock().unwrap().iter() {
            let sum = match datum.value {
                DatumValue::One(value) => value,
                DatumValue::Many(values) => values.sum,
            };
            *sums.entry(datum.name.clone()).or_default() += sum;
        }
        sums
    }
}

fn again() -> Result<(), PutFailure> {
    Err(PutFailure::TryAgain("Throttling".to_owned()))
}

struct Bench {
    service: Arc<Service>,
    aggregates: Arc<Aggregates>,
    stop: CancellationToken,
    dropped: Arc<AtomicU64>,
    sending: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
}

fn bench(script: Vec<Result<(), PutFailure>>) -> Bench {
    bench_of(Service {
        script: Mutex::new(script),
        ..Service::default()
    })
}

fn bench_of(service: Service) -> Bench {
    let service = Arc::new(service);
    let aggregates = Arc::new(Aggregates::default());
    let stop = CancellationToken::new();
    let dropped = Arc::new(AtomicU64::new(0));
    let sender = Sender {
        aggregates: Arc::clone(&aggregates),
        shards: Arc::default(),
        clock: Arc::new(TokioClock::new()),
        sink: Arc::clone(&service) as Arc<_>,
        interval: Duration::from_secs(60),
        sampler: ShardSampler::default(),
        dropped: Arc::clone(&dropped),
        faults: Dropped::default(),
    };
    Bench {
        service,
        aggregates,
        stop: stop.clone(),
        dropped,
        sending: Box::pin(sender.run(stop)),
    }
}

fn key(name: &str) -> SeriesKey {
    SeriesKey {
        name: name.to_owned(),
        labels: Vec::new(),
    }
}

impl Bench {
    /// Lets so many seconds pass.
    async fn pass(&mut self, seconds: u64) {
        let clock = TokioClock::new();
        tokio::select! {
            biased;
            () = &mut self.sending => panic!("it ended"),
            () = clock.sleep_until(clock.now() + Duration::from_secs(seconds)) => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn throttles_lose_no_counter() {
    let mut bench = bench(vec![again(), again(), again()]);
    let orders = bench.aggregates.counter(key("orders_total")).unwrap();
    let calls = bench.aggregates.histogram(key("call_seconds")).unwrap();
    for _ in 0..70 {
        orders.increment(10);
        calls.record(0.5);
        bench.pass(1).await;
    }
    // The first try after a minute, others 1, 2 and 4 seconds later.
    assert_eq!(bench.service.calls.load(Ordering::Relaxed), 4);
    bench.stop.cancel();
    bench.sending.await;
    assert_eq!(
        bench.service.sums(),
        BTreeMap::from([
            ("orders_total".to_owned(), 700.0),
            ("call_seconds".to_owned(), 35.0)
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn stop_tries_to_send_and_ends_in_time() {
    let bench = bench(vec![again(), again(), again(), again()]);
    bench
        .aggregates
        .counter(key("orders_total"))
        .unwrap()
        .increment(1);
    bench.stop.cancel();
    let clock = TokioClock::new();
    let begun = clock.now();
    bench.sending.await;
    assert_eq!(bench.service.calls.load(Ordering::Relaxed), 3);
    assert_eq!(clock.now().saturating_since(begun), Duration::from_secs(3));
    assert!(bench.service.sums().is_empty());
}

#[tokio::test(start_paused = true)]
async fn refused_datum_is_dropped_alone() {
    let mut bench = bench_of(Service {
        refused: Some("c0500"),
        ..Service::default()
    });
    for number in 0..MOST_DATA {
        let counter = bench.aggregates.counter(key(&format!("c{number:04}"))).unwrap();
        counter.increment(1);
    }
    bench.pass(61).await;
    assert_eq!(bench.service.sums().len(), MOST_DATA - 1);
    assert_eq!(bench.dropped.load(Ordering::Relaxed), 1);
    let calls = bench.service.calls.load(Ordering::Relaxed);
    assert!(calls <= 21, "{calls}");
    bench.stop.cancel();
    bench.sending.await;
}

#[tokio::test(start_paused = true)]
async fn service_that_refuses_all_is_asked_boundedly() {
    let refusals = (0..5000).map(|_| Err(PutFailure::Invalid("InvalidParameterValue".to_owned())));
    let mut bench = bench(refusals.collect());
    for number in 0..MOST_DATA {
        let counter = bench.aggregates.counter(key(&format!("c{number:04}"))).unwrap();
        counter.increment(1);
    }
    bench.pass(61).await;
    let calls = bench.service.calls.load(Ordering::Relaxed);
    assert!(calls <= 2 * MOST_SPLITS as usize + 1, "{calls}");
    assert_eq!(bench.dropped.load(Ordering::Relaxed), MOST_DATA as u64);
    bench.stop.cancel();
    bench.sending.await;
}

#[tokio::test(start_paused = true)]
async fn invalid_datum_is_never_sent() {
    let mut bench = bench(Vec::new());
    // Java measures it in milliseconds, which makes it too large.
    let behind = bench
        .aggregates
        .histogram(key(kcl_core::metrics::PROCESS_SECONDS))
        .unwrap();
    behind.record(f64::MAX);
    behind.record(f64::MAX);
    bench
        .aggregates
        .counter(key("orders_total"))
        .unwrap()
        .increment(1);
    bench.pass(61).await;
    assert_eq!(
        bench.service.sums(),
        BTreeMap::from([("orders_total".to_owned(), 1.0)])
    );
    assert_eq!(bench.dropped.load(Ordering::Relaxed), 1);
    bench.stop.cancel();
    bench.sending.await;
}

#[tokio::test(start_paused = true)]
async fn calls_are_few() {
    let mut bench = bench(Vec::new());
    // An hour of a worker with the default metrics.
    for minute in 0..60 {
        for number in 0..15 {
            bench
                .aggregates
                .counter(key(&format!("c{number}")))
                .unwrap()
                .increment(minute + 1);
        }
        bench.pass(60).await;
    }
    bench.pass(1).await;
    let (calls, data) = (
        bench.service.calls.load(Ordering::Relaxed),
        bench.service.taken.lock().unwrap().len(),
    );
    println!("{calls} calls for {data} data");
    assert_eq!((calls, data), (60, 60 * 15));
    assert!(calls * 10 <= data, "one for each datum would be {data}");
}
