//! Connections that are slow, and answers that stop in the middle.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::source::{Arrival, FetchLimit, SourceErrorKind, StartPosition};
use serde_json::Value;

use crate::server::{Answer, Server, iterator, next, records, slow_records};

const SECOND: Duration = Duration::from_secs(1);

/// The limits of the requests for records.
fn limits(server: &Server) -> Vec<u64> {
    let asked = server.asked().into_iter();
    asked
        .filter_map(|(_, input)| input.get("Limit").and_then(Value::as_u64))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn slow_connection_delivers_large_answer() {
    // Ten MiB at half a MiB a second, where a request may take ten seconds.
    let server = Server::with([iterator("i0"), slow_records(&[1, 2, 3], "i1", 20, 20)]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let clock = TokioClock::new();
    let fetch = next(&mut reader).await.unwrap();
    assert_eq!(fetch.records.len(), 3);
    let took = clock.now().since_origin();
    assert!((19 * SECOND..=21 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn fewer_records_are_asked_for_after_timeout() {
    let stops = || slow_records(&[1, 2], "i1", 4, 2);
    let server = Server::with([iterator("i0"), stops(), stops(), Answer::Silence]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let clock = TokioClock::new();
    let failed = next(&mut reader).await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Unavailable);
    assert_eq!(
        clock.now().since_origin(),
        12 * SECOND,
        "two pieces, then silence"
    );
    let text = failed.to_string();
    assert!(text.contains("fewer records are asked for next"), "{text}");
    assert!(
        text.contains(" bytes of the answer came, and no more within 10s"),
        "{text}"
    );
    for _ in 0..2 {
        next(&mut reader).await.unwrap_err();
    }
    server.then([records(&[1], "i1"), records(&[2], "i2"), records(&[3], "i3")]);
    for _ in 0..3 {
        assert_eq!(next(&mut reader).await.unwrap().records.len(), 1);
    }
    assert_eq!(limits(&server), [100, 25, 6, 1, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn answer_that_drips_for_ever_is_given_up() {
    let many: Vec<_> = (1..=100).collect();
    let server = Server::with([iterator("i0"), slow_records(&many, "i1", 1000, 1000)]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let clock = TokioClock::new();
    let read = clock.timeout(300 * SECOND, next(&mut reader)).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), SourceErrorKind::Unavailable);
    assert_eq!(clock.now().since_origin(), 241 * SECOND);
}

/// Has room after half a minute, and counts the pieces.
#[derive(Default)]
struct Later(Mutex<(Vec<u64>, u32)>);

#[async_trait]
impl Arrival for Later {
    async fn announced(&self, bytes: u64, records: Option<usize>) {
        assert_eq!(records, None);
        self.0.lock().unwrap().0.push(bytes);
        TokioClock::new().sleep(30 * SECOND).await;
    }

    fn progressed(&self) {
        self.0.lock().unwrap().1 += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn large_answer_waits_for_room_before_its_read() {
    let many: Vec<_> = (1..=100).collect();
    let small = slow_records(&[1], "i1", 1, 1);
    let server = Server::with([iterator("i0"), small, slow_records(&many, "i2", 4, 4)]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let clock = TokioClock::new();
    let later = Later::default();
    let limit = FetchLimit { records: 100 };
    let fetch = reader.next_announced(limit, &later).await.unwrap();
    assert_eq!((fetch.records.len(), clock.now().since_origin()), (1, SECOND));
    let fetch = reader.next_announced(limit, &later).await.unwrap();
    assert_eq!(fetch.records.len(), 99, "the first was delivered before");
    let (announced, pieces) = later.0.lock().unwrap().clone();
    assert_eq!(
        announced,
        [fetch.bytes as u64],
        "of the small answer nothing was said"
    );
    assert_eq!(pieces, 5);
    // The first piece came while there was no room.
    assert_eq!(clock.now().since_origin(), 34 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn answer_without_end_is_given_up() {
    let server = Server::with([iterator("i0"), Answer::Flood(200), Answer::Flood(200)]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let failed = next(&mut reader).await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Unavailable, "{failed}");
    assert!(failed.to_string().contains("too large"), "{failed}");
}
