//! Watches the rows that Java workers left behind: does one of them still move?

use std::future::Future;
use std::time::Duration;

use kcl_core::clock::{Clock, Moment};
use kcl_core::lease_store::{StoreError, StoreErrorKind};

use crate::ownership_check::JavaRows;

/// How long leases are watched where there are no rows of workers. A Java worker renews every third of its failover time: this notices
/// failover times of up to a minute, and the default is 10 s (`failoverTimeMillis`).
const LEASE_WATCH: Duration = Duration::from_secs(20);

/// How long rows of workers and leaders are watched. A Java worker writes its row every 30 s (`workerMetricsReporterFreqInMillis`), and
/// the leader its lock as often (`dynamoDbLockBasedLeaderHeartbeatPeriodInMillis`).
pub(crate) const WORKER_WATCH: Duration = Duration::from_secs(35);

/// How long after the first look the second comes, and how long after each other the rest: a live worker that owns a lease shows itself
/// within the first.
const FIRST_INTERVAL: Duration = Duration::from_secs(4);
const INTERVAL: Duration = Duration::from_secs(8);

/// For how long these rows have to be watched.
pub(crate) fn watch_duration(rows: &JavaRows, asked: Option<Duration>) -> Duration {
    let usual = match (rows.has_worker_rows(), rows.is_empty()) {
        (_, true) => return Duration::ZERO,
        (true, false) => WORKER_WATCH,
        (false, false) => LEASE_WATCH,
    };
    asked.unwrap_or(usual)
}

/// Looks again until `long` has passed. Returns what moved, in words, as soon as something did.
pub(crate) async fn watch_until_still<F: Future<Output = Result<JavaRows, StoreError>>>(
    clock: &dyn Clock,
    long: Duration,
    deadline: Moment,
    first: JavaRows,
    look: impl Fn() -> F,
) -> Result<Option<String>, StoreError> {
    let began = clock.now();
    let end = began + long;
    if end > deadline {
        return Err(too_little_time(long, deadline.saturating_since(began)));
    }
    tracing::info!(
        seconds = long.as_secs(),
        "watching the rows that Java workers left, for a worker that is still alive"
    );
    let mut next = began + FIRST_INTERVAL.min(long);
    loop {
        clock.sleep_until(next).await;
        let is_last = next >= end;
        match look().await {
            Ok(seen) => {
                if let Some(moved) = first.first_change(&seen) {
                    return Ok(Some(moved));
                }
                if is_last {
                    return Ok(None);
                }
            }
            // Looks between the first and the last only find a live worker sooner.
            Err(error) if is_last || !is_passing(&error) => return Err(error),
            Err(_) => {}
        }
        next = (next + INTERVAL).min(end);
    }
}

fn is_passing(error: &StoreError) -> bool {
    matches!(
        error.kind(),
        StoreErrorKind::Throttled | StoreErrorKind::Unavailable
    )
}

fn too_little_time(long: Duration, left: Duration) -> StoreError {
    let message = format!(
        "a Java application worked on this table, and a start watches for {} s whether one of its workers is still alive; this start \
         has {} s left: raise StartSettings::timeout (\"timeout\" of \"start\" in a settings file) to {} s or more",
        long.as_secs(),
        left.as_secs(),
        long.as_secs() + 25
    );
    StoreError::definite(StoreErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use kcl_core::clock::BoxFuture;
    use kcl_core::types::Timestamp;

    use super::*;

    /// Time that passes when it is waited for.
    #[derive(Debug)]
    struct Leaping(Arc<Mutex<Moment>>);

    fn leaping() -> Leaping {
        Leaping(Arc::new(Mutex::new(Moment::ZERO)))
    }

    impl Clock for Leaping {
        fn now(&self) -> Moment {
            *self.0.lock().unwrap()
        }

        fn wall(&self) -> Timestamp {
            Timestamp::from_millis(0)
        }

        fn sleep_until(&self, deadline: Moment) -> BoxFuture<'static, ()> {
            let time = Arc::clone(&self.0);
            Box::pin(async move {
                let mut now = time.lock().unwrap();
                *now = deadline.max(*now);
            })
        }
    }

    fn rows(worker: i64, lease: i64) -> JavaRows {
        JavaRows::for_tests(&[("w1", worker)], &[("shardId-1", lease)])
    }

    /// Looks at rows that follow from the seconds since the first look.
    async fn watched(rows: impl Fn(u64) -> JavaRows) -> (Option<String>, u64) {
        let clock = leaping();
        let began = clock.now();
        let seconds = || clock.now().saturating_since(began).as_secs();
        let first = rows(0);
        let long = watch_duration(&first, None);
        let deadline = began + Duration::from_secs(60);
        let found = watch_until_still(&clock, long, deadline, first, || async { Ok(rows(seconds())) }).await;
        (found.unwrap(), seconds())
    }

    #[tokio::test]
    async fn rows_that_stand_still_are_watched_once_through() {
        assert_eq!(watched(|_| rows(5, 7)).await, (None, 35));
        let leases = |_| JavaRows::for_tests(&[], &[("shardId-1", 7)]);
        assert_eq!(watched(leases).await, (None, 20));
    }

    #[tokio::test]
    async fn renewals_of_live_worker_are_seen_at_once() {
        let renewed = |second| rows(5, 7 + i64::try_from(second / 3).unwrap());
        let (found, seconds) = watched(renewed).await;
        assert_eq!(seconds, 4);
        assert_eq!(
            found.unwrap(),
            "lease shardId-1 was written by a Java worker a moment ago"
        );
    }

    #[tokio::test]
    async fn idle_worker_is_seen_by_its_next_report() {
        // It wrote just before the first look.
        let reported = |second| rows(i64::try_from(second / 30).unwrap() * 30, 7);
        let (found, seconds) = watched(reported).await;
        assert_eq!(
            (found.unwrap().as_str(), seconds),
            (
                "the row of worker w1 was written by a Java worker a moment ago",
                35
            )
        );
    }

    #[tokio::test]
    async fn worker_that_appears_while_watching_is_seen() {
        let appears = |second| match second {
            0..=10 => rows(5, 7),
            _ => JavaRows::for_tests(&[("w1", 5), ("w2", 11)], &[("shardId-1", 7)]),
        };
        let (found, seconds) = watched(appears).await;
        assert!(found.unwrap().contains("w2"));
        assert_eq!(seconds, 12);
    }

    #[tokio::test]
    async fn looks_that_fail_in_between_are_no_end() {
        let clock = leaping();
        let looks = AtomicU64::new(0);
        let look = || async {
            match looks.fetch_add(1, Ordering::Relaxed) {
                4 => Ok(rows(5, 7)),
                _ => Err(StoreError::definite(StoreErrorKind::Throttled, "slow down")),
            }
        };
        let deadline = clock.now() + Duration::from_secs(60);
        let outcome = watch_until_still(&clock, WORKER_WATCH, deadline, rows(5, 7), look).await;
        assert_eq!(outcome.unwrap(), None);
    }

    #[tokio::test]
    async fn start_with_too_little_time_names_the_setting() {
        let clock = leaping();
        let deadline = clock.now() + Duration::from_secs(20);
        let outcome = watch_until_still(&clock, WORKER_WATCH, deadline, rows(5, 7), || async {
            Ok(rows(5, 7))
        });
        let refusal = outcome.await.unwrap_err();
        assert_eq!(refusal.kind(), StoreErrorKind::Invalid);
        assert!(
            refusal.to_string().contains("raise StartSettings::timeout"),
            "{refusal}"
        );
    }

    #[test]
    fn nothing_left_behind_is_watched_for_no_time() {
        assert_eq!(watch_duration(&JavaRows::default(), None), Duration::ZERO);
        let asked = Duration::from_secs(90);
        assert_eq!(watch_duration(&JavaRows::default(), Some(asked)), Duration::ZERO);
        assert_eq!(watch_duration(&rows(1, 1), Some(asked)), asked);
    }
}
