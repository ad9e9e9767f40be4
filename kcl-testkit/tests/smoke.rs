//! A first look at a whole fleet in memory.
use kcl_core::settings::Settings;
use kcl_core::time::{Clock, ClockExt, TokioClock};
use kcl_core::worker::Worker;
use kcl_lease_memory::MemoryLeaseStore;
use kcl_testkit::MemoryStream;
use kcl_testkit::processors::Journal;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn three_workers_process_everything() {
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_test_writer()
        .try_init();
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let stream = MemoryStream::new("trucks", 4, Arc::clone(&clock));
    let store = MemoryLeaseStore::new();
    let journal = Journal::new(Arc::clone(&clock));
    for n in 0..100 {
        stream.put(format!("t{n}"), format!("p{n}")).unwrap();
    }
    let begun = clock.now();
    let mut handles = Vec::new();
    for w in 1..=3 {
        let settings = Settings {
            failover_time: Duration::from_secs(2),
            ..Settings::default()
        };
        let worker = Worker::builder("app")
            .worker_id(format!("w{w}"))
            .stream(stream.clone())
            .leases(store.clone())
            .processor(journal.clone())
            .settings(settings)
            .clock(Arc::clone(&clock))
            .build()
            .unwrap();
        handles.push(worker.start());
    }
    while journal.processed().len() < 100 {
        clock.sleep(Duration::from_millis(10)).await;
        assert!(
            clock.now().saturating_since(begun) < Duration::from_secs(20),
            "{:#?}",
            handles.iter().map(|h| h.status()).collect::<Vec<_>>()
        );
    }
    println!("processed after {:?}", clock.now().saturating_since(begun));
    clock.sleep(Duration::from_secs(5)).await;
    for h in &handles {
        println!("{:#?}", h.status());
    }
    for h in handles {
        h.drain();
        println!("{:?}", h.stopped().await);
    }
}
