use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Runs the jobs, at most `limit` of them at a time, and returns their outputs in the order in which they ended.
///
/// # Cancel safety
///
/// Dropping the future drops the jobs that are under way; those not started never are.
pub(crate) async fn at_most<F: Future>(limit: usize, jobs: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting = jobs.into_iter().fuse();
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let mut outputs = Vec::new();
    poll_fn(|context| {
        loop {
            running.extend(waiting.by_ref().take(limit.max(1) - running.len()).map(Box::pin));
            if running.is_empty() {
                return Poll::Ready(());
            }
            let still_running = running.len();
            running.retain_mut(|job| match job.as_mut().poll(context) {
                Poll::Ready(output) => {
                    outputs.push(output);
                    false
                }
                Poll::Pending => true,
            });
            if running.len() == still_running {
                return Poll::Pending;
            }
        }
    })
    .await;
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock::{ClockExt, TokioClock};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn no_more_jobs_than_the_limit_run_at_a_time_and_all_are_done() {
        let (clock, running, most) = (TokioClock::new(), AtomicUsize::new(0), AtomicUsize::new(0));
        let job = |n: u64| {
            let (clock, running, most) = (&clock, &running, &most);
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                clock.sleep(Duration::from_millis(100 - n)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                n
            }
        };
        let mut done = at_most(3, (0..10).map(job)).await;
        done.sort_unstable();
        assert_eq!(done, (0..10).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 3);
        assert!(at_most(3, (0..0).map(job)).await.is_empty());
    }
}
