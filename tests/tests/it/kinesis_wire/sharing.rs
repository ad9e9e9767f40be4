//! Two applications that poll the same shard, whose limits Kinesis sets for both together.

use std::time::Duration;

use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::source::{FetchLimit, RecordStream, SourceErrorKind, StartPosition};
use kinesis_local::WireOptions;

use crate::kinesis_wire::served::{Read, Served};

/// The reads that were answered and those that were refused.
#[derive(Debug, Default, Clone, Copy)]
struct Reads {
    answered: u32,
    refused: u32,
}

/// Reads record by record at the pace that the source gives, as long as the test lasts.
async fn read_on(mut reader: Box<dyn RecordStream>, clock: TokioClock) -> Reads {
    let mut reads = Reads::default();
    let until = clock.now() + Duration::from_secs(10);
    while clock.now() < until {
        let begun = clock.now();
        match reader.next(FetchLimit { records: 1 }).await {
            Ok(fetch) => {
                reads.answered += 1;
                clock.sleep_until(begun + fetch.wait).await;
            }
            Err(error) => {
                assert_eq!(error.kind(), SourceErrorKind::Throttled, "{error}");
                reads.refused += 1;
                clock.sleep(Duration::from_millis(200)).await;
            }
        }
    }
    reads
}

#[tokio::test]
async fn two_lagging_applications_share_a_shard() {
    let served = Served::new(1, WireOptions::default(), Read::Cbor).await;
    for number in 0..200 {
        served.put(&format!("{number}"));
    }
    let start = StartPosition::TrimHorizon;
    let (one, other) = (served.open(start.clone()).await, served.open(start).await);
    let (one, other) = tokio::join!(read_on(one, served.clock), read_on(other, served.clock));
    println!("{one:?}, {other:?}");
    let answered = one.answered + other.answered;
    // Ten seconds of five reads.
    assert!(answered >= 25, "the shard is used: {one:?}, {other:?}");
    assert!(
        one.answered.min(other.answered) * 4 >= answered,
        "{one:?}, {other:?}"
    );
    assert!(
        (one.refused + other.refused) * 2 <= answered,
        "{one:?}, {other:?}"
    );
}
