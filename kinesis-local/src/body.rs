//! The bodies of answers: whole, cut off, or a stream of events.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// A frame of a subscription, or that the body breaks off where the next would be.
pub(super) type Piece = Result<Bytes, BrokenOff>;

/// The body breaks off, and nothing follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body breaks off")]
pub(super) struct BrokenOff;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum AnswerBody {
    /// All there is.
    Whole(Option<Bytes>),
    /// This many bytes, and then nothing for ever; so long it claims to be.
    CutOff(Option<Bytes>, u64),
    /// Whatever comes, until the sender is dropped, and whether something has come since the connection could write.
    Events(mpsc::Receiver<Piece>, bool),
}

impl AnswerBody {
    /// The frames that are sent, each in a piece of its own: not every client takes a piece apart.
    pub(super) fn events(frames: mpsc::Receiver<Piece>) -> Self {
        Self::Events(frames, false)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::CutOff(bytes, _) => match bytes.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Poll::Pending,
            },
            Self::Events(_, written @ true) => {
                // The connection writes what it has before it asks again.
                *written = false;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Events(events, written) => {
                let event = ready!(events.poll_recv(context));
                *written = true;
                Poll::Ready(event.map(|event| event.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, length)),
            Self::CutOff(_, length) => SizeHint::with_exact(*length),
            Self::Events(..) => SizeHint::default(),
        }
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn two_frames_are_written_one_after_the_other() {
        let (sender, receiver) = mpsc::channel(2);
        for frame in ["one", "two"] {
            sender.try_send(Ok(Bytes::from(frame))).unwrap();
        }
        let mut body = AnswerBody::events(receiver);
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = || match Pin::new(&mut body).poll_frame(&mut context) {
            Poll::Ready(frame) => frame.unwrap().unwrap().into_data().unwrap(),
            Poll::Pending => Bytes::new(),
        };
        assert_eq!([poll(), poll(), poll()], ["one", "", "two"]);
    }
}
