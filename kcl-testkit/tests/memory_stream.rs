//! The stream in memory against the suite for all sources, at once and over a slow network.

use std::time::Duration;

use kcl_testkit::{MemoryStream, stream_source_suite};

mod at_once {
    use super::*;

    async fn stream() -> MemoryStream {
        MemoryStream::builder("suite").shards(2).build()
    }

    stream_source_suite!(
        #[tokio::test(start_paused = true)]
        stream
    );
}

mod over_a_slow_network_with_small_pages_throttles_and_short_iterators {
    use super::*;

    async fn stream() -> MemoryStream {
        MemoryStream::builder("suite")
            .shards(2)
            .latency(Duration::from_millis(5))
            .listing_page(1)
            .reads_per_second(5)
            .iterator_lifetime(Duration::from_millis(150))
            .build()
    }

    stream_source_suite!(
        #[tokio::test(start_paused = true)]
        stream
    );
}
