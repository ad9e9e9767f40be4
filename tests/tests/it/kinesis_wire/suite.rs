//! The conformance suite of stream sources, in each way of reading.

use std::collections::BTreeMap;
use std::time::Duration;

use kinesis_local::{WireLimits, WireOptions};

use crate::kinesis_wire::served::{Read, Served};

/// The cases open a shard again and again, which is what the limits of subscriptions are against, and wait for several lives of iterators and
/// subscriptions.
fn options() -> WireOptions {
    WireOptions {
        resubscribe_after: Duration::from_millis(300),
        iterator_lifetime: Duration::from_secs(2),
        subscription_lifetime: Duration::from_secs(2),
        heartbeat: Duration::from_millis(300),
        limits: WireLimits {
            calls_per_second: BTreeMap::new(),
            ..WireLimits::default()
        },
        ..WireOptions::default()
    }
}

/// Makes one test of all cases, in one way of reading. They run side by side: nearly all of their time is waiting.
macro_rules! all_cases {
    ($read:expr, $($case:ident)*) => {
        #[tokio::test]
        async fn every_case_holds() {
            tokio::join!($(Box::pin(async {
                let served = super::Served::new(2, super::options(), $read).await;
                kcl_testkit::source_suite::$case(&served).await;
            })),*);
        }
    };
}

mod polling_in_cbor {
    macro_rules! cases {
        ($($case:ident)*) => { all_cases!(super::Read::Cbor, $($case)*); };
    }
    kcl_testkit::stream_source_suite!(each cases!);
}

mod polling_in_json {
    macro_rules! cases {
        ($($case:ident)*) => { all_cases!(super::Read::Json, $($case)*); };
    }
    kcl_testkit::stream_source_suite!(each cases!);
}

mod fan_out {
    macro_rules! cases {
        ($($case:ident)*) => { all_cases!(super::Read::FanOut, $($case)*); };
    }
    kcl_testkit::stream_source_suite!(each cases!);
}
