//! A look at whether a future is ready, before waiting for something else beside it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Polls the future once. Returns its output if it is ready; if not, the task is woken for it as usual, and must poll it again.
pub(crate) async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match Pin::new(&mut *future).poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
