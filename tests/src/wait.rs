//! Waiting for conditions: tests never sleep and hope.

use std::fmt::Display;
use std::time::Duration;

use kcl_core::clock::{Clock, ClockExt, TokioClock};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Asks `attempt` again and again until it succeeds, and returns what it found.
///
/// It needs a runtime whose time is not paused: the conditions are about other processes.
///
/// # Panics
///
/// When `limit` has passed without success; the message says what the last attempt found instead.
///
/// # Cancel safety
///
/// Dropping the future drops the attempt that is running.
pub async fn eventually<T, E: Display>(limit: Duration, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let clock = TokioClock::new();
    let deadline = clock.now() + limit;
    loop {
        match attempt().await {
            Ok(found) => return found,
            Err(instead) => assert!(clock.now() < deadline, "not within {limit:?}: {instead}"),
        }
        clock.sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_is_asked_until_it_holds() {
        let mut asked = 0;
        let found = eventually(Duration::from_secs(10), async || {
            asked += 1;
            if asked < 3 { Err("not yet") } else { Ok(asked) }
        })
        .await;
        assert_eq!(found, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "not within 100ms: still dark")]
    async fn condition_that_never_holds_says_what_was_seen() {
        eventually::<(), _>(Duration::from_millis(100), async || Err("still dark")).await;
    }
}
