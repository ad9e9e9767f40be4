use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcl_core::clock::{Clock, TokioClock};
use kcl_core::types::Timestamp;

use super::parts::Pace;
use super::settings::{StreamMode, StreamSettings};
use super::state::State;
use super::{MemoryStream, Shared};

/// Makes a [`MemoryStream`]; every setting has a default.
#[derive(Debug, Clone)]
pub struct MemoryStreamBuilder {
    name: String,
    shards: u32,
    clock: Option<Arc<dyn Clock>>,
    service_time: Option<Timestamp>,
    offset_millis: i64,
    latency: Duration,
    pace: Pace,
    reads_per_second: Option<u32>,
    iterator_lifetime: Duration,
    listing_page: usize,
    settings: StreamSettings,
}

impl MemoryStream {
    /// Makes a stream with this name.
    #[must_use]
    pub fn builder(name: impl Into<String>) -> MemoryStreamBuilder {
        MemoryStreamBuilder::new(name.into())
    }
}

impl MemoryStreamBuilder {
    fn new(name: String) -> Self {
        Self {
            name,
            shards: 1,
            clock: None,
            service_time: None,
            offset_millis: 0,
            latency: Duration::ZERO,
            pace: Pace::default(),
            reads_per_second: None,
            iterator_lifetime: Duration::from_secs(300),
            listing_page: 1000,
            settings: StreamSettings::default(),
        }
    }

    /// How many shards the stream begins with. Default: 1, which is also what 0 means.
    #[must_use]
    pub fn shards(mut self, count: u32) -> Self {
        self.shards = count;
        self
    }

    /// The clock that the stream lives by. Default: a [`TokioClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The service's time at the creation of the stream; from there it follows the clock's monotonic time.
    /// Default: the clock's wall time. A fixed value makes arrival times the same in every run.
    #[must_use]
    pub fn service_time(mut self, at: Timestamp) -> Self {
        self.service_time = Some(at);
        self
    }

    /// How far the service's clock is ahead of the clock's wall time, in milliseconds; negative when it is behind. Default: 0.
    #[must_use]
    pub fn service_time_offset_millis(mut self, ahead: i64) -> Self {
        self.offset_millis = ahead;
        self
    }

    /// How long each request, and each answer to a read, is on its way. Default: 0, which still lets other tasks run.
    #[must_use]
    pub fn latency(mut self, one_way: Duration) -> Self {
        self.latency = one_way;
        self
    }

    /// The wait that [`Fetch::wait`](kcl_core::source::Fetch::wait) asks for. Default: see [`Pace`].
    #[must_use]
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// How many reads per second each shard allows, over all readers. Default: no limit; Kinesis allows
    /// [five](https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html).
    #[must_use]
    pub fn reads_per_second(mut self, most: u32) -> Self {
        self.reads_per_second = Some(most);
        self
    }

    /// How long an iterator lives without being used. Default: 300 s, as in
    /// [Kinesis](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetShardIterator.html).
    #[must_use]
    pub fn iterator_lifetime(mut self, lifetime: Duration) -> Self {
        self.iterator_lifetime = lifetime;
        self
    }

    /// How many shards one page of a listing holds. Default: 1000, as in Kinesis; 0 means 1.
    #[must_use]
    pub fn listing_page(mut self, shards: usize) -> Self {
        self.listing_page = shards.max(1);
        self
    }

    /// After how long records are removed, and closed shards with their last record. Default: never, only
    /// [`trim`](MemoryStream::trim) removes records. Kinesis allows 24 hours to 365 days.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = Some(retention);
        self
    }

    /// Sets the owner of the number of shards. Default: provisioned. See [`StreamMode`].
    #[must_use]
    pub fn mode(mut self, mode: StreamMode) -> Self {
        self.settings.mode = mode;
        self
    }

    /// The stream.
    #[must_use]
    pub fn build(self) -> MemoryStream {
        let clock = self.clock.unwrap_or_else(|| Arc::new(TokioClock::new()));
        let start = self.service_time.unwrap_or_else(|| clock.wall());
        let start = Timestamp::from_millis(start.as_millis().saturating_add(self.offset_millis));
        let state = State::new(
            self.shards,
            start,
            self.pace,
            self.reads_per_second,
            self.iterator_lifetime,
            self.settings,
        );
        MemoryStream {
            shared: Arc::new(Shared {
                name: self.name,
                service_start: (clock.now(), start),
                clock,
                latency: self.latency,
                listing_page: self.listing_page,
                state: Mutex::new(state),
            }),
        }
    }
}
