use std::num::NonZeroU32;
use std::time::Duration;

/// The most that is read per second, on average. The shards of the scope that it is set for share it.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::num::NonZeroU32;
/// use kinesis_client::Rate;
///
/// let gentle = Rate { records: NonZeroU32::new(100), ..Rate::default() };
/// assert_eq!(gentle.kib, None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// The most records per second, as Kinesis counts them: an aggregated record is one. No limit by default.
    pub records: Option<NonZeroU32>,
    /// The most KiB per second of payloads and partition keys. No limit by default.
    pub kib: Option<NonZeroU32>,
}

impl Rate {
    /// How long this much takes at this rate.
    pub(crate) fn time_for(&self, records: usize, bytes: usize) -> Duration {
        let at = |amount: usize, per_second: Option<NonZeroU32>, unit: u64| match per_second {
            None => Duration::ZERO,
            Some(rate) => {
                let nanos = (amount as u128 * 1_000_000_000) / (u128::from(rate.get()) * u128::from(unit));
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        };
        at(records, self.records, 1).max(at(bytes, self.kib, 1024))
    }
}
