//! Sends dead letters to the sink.

use std::time::Duration;

use crate::dead_letter::DeadLetter;
use crate::error::Causes;
use crate::ownership::Ownership;
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::ClockExt as _;
use crate::runtime::log_once::LogOnce;
use crate::runtime::task_scope::caught;

/// How long a sink may take for one letter.
pub(crate) const SEND_DEADLINE: Duration = Duration::from_secs(30);
const SEND_AGAIN: Duration = Duration::from_millis(200);
const LONGEST_SEND_AGAIN: Duration = Duration::from_secs(30);

/// Sends the letter until the sink has acknowledged it, however long that takes.
pub(crate) async fn send_letter(own: &Ownership, letter: &DeadLetter) {
    let clock = &own.worker.clock;
    let Some(sink) = &own.worker.dead_letters else {
        tracing::error!(
            "the error policy sends dead letters and there is no sink: give the worker one by .dead_letters(…). Holding the record"
        );
        return std::future::pending().await;
    };
    let mut failures = Backoff::new(SEND_AGAIN, LONGEST_SEND_AGAIN);
    let mut problem = LogOnce::default();
    loop {
        let sending = clock.timeout(SEND_DEADLINE, caught(async { sink.send(letter).await }));
        let why = match sending.await {
            Ok(Ok(Ok(()))) => {
                problem.log_end("dead letter not accepted");
                return;
            }
            Ok(Ok(Err(error))) => Causes(&error).to_string(),
            Ok(Err(panic)) => format!("the sink panicked: {panic}"),
            Err(elapsed) => elapsed.to_string(),
        };
        own.worker.metrics.dead_letter_failed();
        problem.warn("dead letter not accepted; holding the shard", why);
        clock.sleep(failures.failed()).await;
    }
}
