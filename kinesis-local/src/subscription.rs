//! A subscription from its first event to its end.

use std::time::Duration;

use kcl_core::clock::{ClockExt as _, Moment};
use kcl_core::source::FetchLimit;
use kcl_core::types::SequenceNumber;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::body::{BrokenOff, Piece};
use super::end_style::Follows;
use super::error::ServiceError;
use super::operations::{Opened, Source, reading};
use super::protocol::{Protocol, events};
use super::shared::Shared;

/// The most bytes that one event brings, unless a single record has more.
const EVENT_BYTES: usize = 1024 * 1024;
/// The most records that one event brings.
const EVENT_RECORDS: u32 = 10_000;

/// The server's end of a subscription.
pub(super) struct Pump {
    pub(super) shared: Shared,
    pub(super) opened: Opened,
    pub(super) protocol: Protocol,
    pub(super) events: mpsc::Sender<Piece>,
    /// Makes it silent while its connection stays open.
    pub(super) frozen: CancellationToken,
}

/// Why a subscription ends.
enum End {
    /// The shard or the time is over, or nobody listens.
    Quiet,
    /// The client receives an event.
    Failed(ServiceError),
    /// The body breaks off.
    Broken,
    /// Nothing is said any more, and the stream stays open.
    Silent,
}

impl Pump {
    /// Sends events until the end.
    pub(super) async fn run(self, silent: bool) {
        let Self {
            shared,
            opened,
            protocol,
            events: sender,
            frozen,
        } = self;
        let Opened { ended, source } = opened;
        let deadline = shared.clock.now() + shared.options.subscription_lifetime;
        let end = tokio::select! {
            biased;
            () = sender.closed() => End::Quiet,
            () = frozen.cancelled() => End::Silent,
            error = ending(ended) => End::Failed(error),
            () = shared.clock.sleep_until(deadline) => End::Quiet,
            end = push(&shared, &source, protocol, &sender, silent) => end,
        };
        match end {
            End::Quiet => {}
            End::Failed(error) => {
                let frame = events::exception(&error, protocol);
                // Whoever does not read his events does not read this one either.
                let _ = shared.clock.timeout(LAST_WORD, sender.send(Ok(frame))).await;
            }
            End::Broken => {
                // A client that is gone sees nothing.
                let _ = sender.send(Err(BrokenOff)).await;
            }
            End::Silent => sender.closed().await,
        }
    }
}

/// How long the last frame of a failed subscription may wait for its reader.
const LAST_WORD: Duration = Duration::from_secs(5);

async fn ending(ended: oneshot::Receiver<ServiceError>) -> ServiceError {
    match ended.await {
        Ok(error) => error,
        Err(_) => ServiceError::not_found("the consumer was deregistered"),
    }
}

/// Sends events until the shard is at its end or cannot be read.
async fn push(
    shared: &Shared,
    source: &Source,
    protocol: Protocol,
    sender: &mpsc::Sender<Piece>,
    silent: bool,
) -> End {
    if sender.send(Ok(events::initial_response(protocol))).await.is_err() {
        return End::Quiet;
    }
    if silent {
        return End::Silent;
    }
    let limit = FetchLimit {
        records: EVENT_RECORDS,
    };
    let style = shared.options.end_style;
    let mut brought: Option<SequenceNumber> = None;
    let mut place = source.place;
    let mut heartbeat_due = Moment::ZERO;
    loop {
        let page = match source.stream.read_place(&source.shard, place, limit, EVENT_BYTES) {
            Ok(page) => page,
            Err(error) => return End::Failed(error.into()),
        };
        place = page.next;
        let bytes = reading::size(&page.records);
        let now = shared.clock.now();
        let last = page.records.last().map(|record| record.sequence_number().clone());
        let ends = page.end.is_some() && style.ends_subscription();
        if ends || last.is_some() || now >= heartbeat_due {
            heartbeat_due = now + shared.options.heartbeat;
            let (event, follows) = style.event(page, brought.as_ref());
            let frame = events::event("SubscribeToShardEvent", protocol, &event);
            if sender.send(Ok(frame)).await.is_err() {
                return End::Quiet;
            }
            match follows {
                Follows::More => {}
                Follows::End => return End::Quiet,
                Follows::Break => return End::Broken,
            }
            brought = last.or(brought);
        }
        let rate = shared.options.limits.subscription_bytes_per_second;
        let paid = rate.map_or(Duration::ZERO, |rate| {
            Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1))
        });
        let until = now + paid.max(shared.options.push_interval);
        shared.clock.sleep_until(until).await;
    }
}
