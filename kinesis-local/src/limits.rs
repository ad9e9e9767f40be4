//! The limits per second of each caller. Time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::types::ShardId;

use super::Operation;
use super::error::ServiceError;
use super::options::WireLimits;

const SECOND: Duration = Duration::from_secs(1);

/// Amounts that count for a while.
#[derive(Debug, Default)]
struct Window {
    /// When each amount stops counting.
    counted: VecDeque<(Moment, u64)>,
}

impl Window {
    fn sum(&mut self, now: Moment) -> u64 {
        self.counted.retain(|(until, _)| *until > now);
        self.counted.iter().map(|(_, amount)| amount).sum()
    }

    fn add(&mut self, amount: u64, until: Moment) {
        self.counted.push_back((until, amount));
    }

    /// Counts one for a second, unless that makes more than `most`.
    fn admit(&mut self, most: u32, now: Moment) -> bool {
        let admitted = self.sum(now) < u64::from(most);
        if admitted {
            self.add(1, now + SECOND);
        }
        admitted
    }
}

/// The traffic of a shard: calls or records, and bytes.
#[derive(Debug, Default)]
struct Moved {
    count: Window,
    bytes: Window,
}

/// Counts what was done lately.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    calls: BTreeMap<(Operation, String), Window>,
    reads: BTreeMap<String, Moved>,
    writes: BTreeMap<String, Moved>,
}

impl Limiter {
    /// Admits a call of an operation that is limited by its rate, within this scope.
    pub(super) fn call(
        &mut self,
        operation: Operation,
        scope: &str,
        most: Option<u32>,
        now: Moment,
    ) -> Result<(), ServiceError> {
        let Some(most) = most else { return Ok(()) };
        let window = self.calls.entry((operation, scope.to_owned())).or_default();
        if window.admit(most, now) {
            return Ok(());
        }
        let message = format!("Rate exceeded for {operation}: {most} calls per second");
        Err(ServiceError::throttled(operation, message))
    }

    /// Admits a read of a shard; [`brought`](Self::brought) says later what it brought.
    pub(super) fn read(&mut self, shard: &str, limits: &WireLimits, now: Moment) -> Result<(), ServiceError> {
        let moved = self.reads.entry(shard.to_owned()).or_default();
        if let Some(rate) = limits.read_bytes_per_second
            && moved.bytes.sum(now) >= rate
        {
            return Err(exceeded(shard, &format!("{rate} bytes read")));
        }
        match limits.reads_per_second {
            Some(most) if !moved.count.admit(most, now) => Err(exceeded(shard, &format!("{most} reads"))),
            _ => Ok(()),
        }
    }

    /// Notes the bytes that a read brought: they count for a second, or for as many as the rate allows bytes for.
    pub(super) fn brought(&mut self, shard: &str, bytes: u64, limits: &WireLimits, now: Moment) {
        if let (Some(rate), true) = (limits.read_bytes_per_second, bytes > 0) {
            let paid = Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1));
            let moved = self.reads.entry(shard.to_owned()).or_default();
            moved.bytes.add(bytes, now + paid.max(SECOND));
        }
    }

    /// Admits a record of this size.
    pub(super) fn write(
        &mut self,
        shard: &str,
        bytes: u64,
        limits: &WireLimits,
        now: Moment,
    ) -> Result<(), ServiceError> {
        let moved = self.writes.entry(shard.to_owned()).or_default();
        if let Some(rate) = limits.write_bytes_per_second {
            let written = moved.bytes.sum(now);
            // A record that is larger than the rate is taken by a shard that has rested, which pays for it afterwards.
            if written + bytes > rate && (written > 0 || bytes <= rate) {
                return Err(exceeded(shard, &format!("{rate} bytes written")));
            }
        }
        if let Some(most) = limits.writes_per_second
            && !moved.count.admit(most, now)
        {
            return Err(exceeded(shard, &format!("{most} records written")));
        }
        if let Some(rate) = limits.write_bytes_per_second {
            let paid = Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1));
            moved.bytes.add(bytes, now + paid.max(SECOND));
        }
        Ok(())
    }
}

fn exceeded(shard: &str, what: &str) -> ServiceError {
    ServiceError::throughput(format!("Rate exceeded for {shard}: {what} per second"))
}

/// The name of a shard among those of all streams, to count by.
pub(super) fn counted(stream: &str, shard: &ShardId) -> String {
    format!("{stream}/{shard}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn sixth_read_of_a_second_is_refused() {
        let (mut limiter, limits) = (Limiter::default(), WireLimits::default());
        for millis in 0..5 {
            limiter.read("s/1", &limits, at(millis)).unwrap();
        }
        let refused = limiter.read("s/1", &limits, at(999)).unwrap_err();
        assert_eq!(refused.code, "ProvisionedThroughputExceededException");
        limiter.read("s/2", &limits, at(999)).unwrap();
        limiter.read("s/1", &limits, at(1000)).unwrap();
    }

    #[test]
    fn ten_mebibytes_are_paid_for_by_five_seconds() {
        let (mut limiter, limits) = (Limiter::default(), WireLimits::default());
        limiter.read("s/1", &limits, at(0)).unwrap();
        limiter.brought("s/1", 10 * MIB, &limits, at(0));
        assert!(limiter.read("s/1", &limits, at(4999)).is_err());
        limiter.read("s/1", &limits, at(5000)).unwrap();
    }

    #[test]
    fn reader_within_two_mebibytes_is_never_refused() {
        let (mut limiter, limits) = (Limiter::default(), WireLimits::default());
        for step in 0..50 {
            limiter.read("s/1", &limits, at(step * 200)).unwrap();
            limiter.brought("s/1", 2 * MIB / 5, &limits, at(step * 200));
        }
    }

    #[test]
    fn shard_takes_mebibyte_and_thousand_records_second() {
        let (mut limiter, limits) = (Limiter::default(), WireLimits::default());
        limiter.write("s/1", MIB, &limits, at(0)).unwrap();
        assert!(limiter.write("s/1", 1, &limits, at(999)).is_err());
        for _ in 0..1000 {
            limiter.write("s/1", 1, &limits, at(1000)).unwrap();
        }
        assert!(limiter.write("s/1", 1, &limits, at(1999)).is_err());
    }

    #[test]
    fn a_large_record_is_paid_for_afterwards() {
        let (mut limiter, limits) = (Limiter::default(), WireLimits::default());
        limiter.write("s/1", 10 * MIB, &limits, at(0)).unwrap();
        assert!(limiter.write("s/1", 1, &limits, at(9_999)).is_err());
        limiter.write("s/1", 1, &limits, at(10_000)).unwrap();
        assert!(limiter.write("s/1", 10 * MIB, &limits, at(10_001)).is_err());
    }

    #[test]
    fn calls_are_limited_within_their_scope() {
        let mut limiter = Limiter::default();
        let mut call = |scope, millis| limiter.call(Operation::ListShards, scope, Some(1), at(millis));
        call("a", 0).unwrap();
        assert_eq!(call("a", 999).unwrap_err().code, "LimitExceededException");
        call("b", 999).unwrap();
        call("a", 1000).unwrap();
    }
}
