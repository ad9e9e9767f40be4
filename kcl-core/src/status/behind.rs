use std::time::Duration;

use crate::runtime::clock::Moment;

/// How far behind the newest record of a shard something was at some moment. Until the next answer it grows with time, so that a
/// shard that is stuck looks late, and not quiet.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::status::Behind;
/// use kinesis_client::clock::Moment;
///
/// let minute = Duration::from_secs(60);
/// let told = Behind::new(minute, Moment::ZERO);
/// assert_eq!(told.at(Moment::ZERO + 9 * minute), 10 * minute);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    by: Duration,
    told: Moment,
}

impl Behind {
    /// So far behind as was reported at that moment of the worker's clock.
    pub const fn new(by: Duration, told: Moment) -> Self {
        Self { by, told }
    }

    /// When it was reported to be at the newest record; `None` if it was not.
    pub(crate) fn caught_up(&self) -> Option<Moment> {
        self.by.is_zero().then_some(self.told)
    }

    /// How far behind that is at `now`: the report, and the time since.
    pub fn at(&self, now: Moment) -> Duration {
        self.by.saturating_add(now.saturating_since(self.told))
    }
}
