//! The state that all connections share: the streams, the counters, and the switches of a test.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kcl_core::clock::{Clock, Moment};
use kcl_core::internals::TaskScope;
use kcl_core::source::StreamSource as _;
use kcl_core::types::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Operation;
use super::error::ServiceError;
use super::faults::WireFaults;
use super::headers::RequestIds;
use super::limits::Limiter;
use super::options::{WireLimits, WireOptions};
use super::requests::WireRequests;
use super::streams::Streams;
use super::token::NextToken;
use super::value::Map;

/// How long a commitment lasts at least.
const COMMITTED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// The state that all connections share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) options: Arc<WireOptions>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) scope: TaskScope,
    pub(super) faults: WireFaults,
    pub(super) requests: WireRequests,
    pub(super) request_ids: RequestIds,
    /// How many calls changed something.
    pub(super) changes: Arc<AtomicU64>,
    /// Held while the data file is written: two at once would write into one file.
    saving: Arc<Mutex<()>>,
    streams: Arc<Mutex<Streams>>,
    limiter: Arc<Mutex<Limiter>>,
    commitment: Arc<Mutex<Option<Commitment>>>,
    /// Cancelled, and replaced, to reset the connections that there are.
    pub(super) connections: Switch,
    /// Cancelled, and replaced, to silence the subscriptions that there are.
    pub(super) subscriptions: Switch,
}

/// Notifies all that hold one of its tokens, and none of those who come later.
#[derive(Debug, Clone, Default)]
pub(super) struct Switch(Arc<Mutex<CancellationToken>>);

impl Switch {
    pub(super) fn throw(&self) {
        std::mem::take(&mut *self.lock()).cancel();
    }

    pub(super) fn token(&self) -> CancellationToken {
        self.lock().child_token()
    }

    fn lock(&self) -> MutexGuard<'_, CancellationToken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn new(options: WireOptions, clock: Arc<dyn Clock>, streams: Streams) -> Self {
        Self {
            options: Arc::new(options),
            request_ids: RequestIds::new(clock.wall()),
            changes: Arc::default(),
            saving: Arc::default(),
            clock,
            scope: TaskScope::new(),
            faults: WireFaults::default(),
            requests: WireRequests::default(),
            streams: Arc::new(Mutex::new(streams)),
            limiter: Arc::default(),
            commitment: Arc::default(),
            connections: Switch::default(),
            subscriptions: Switch::default(),
        }
    }

    pub(super) fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others from writing the data file meanwhile.
    pub(super) fn saving(&self) -> MutexGuard<'_, ()> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rises with everything that is to be saved.
    pub(super) fn version(&self) -> (u64, u64) {
        let ticks = self.streams().iter().map(|(_, entry)| entry.stream.ticks()).sum();
        (self.changes.load(Ordering::Relaxed), ticks)
    }

    /// Counts a call of an operation that is limited by its rate, or refuses it.
    pub(super) fn admit(&self, operation: Operation, request: &Map, now: Moment) -> Result<(), ServiceError> {
        let most = self.options.limits.calls_per_second.get(&operation).copied();
        // That the consumer has a subscription already is said before that it asks too often.
        if most.is_none() || operation == Operation::SubscribeToShard {
            return Ok(());
        }
        let scope = if operation.is_limited_per_stream() {
            self.stream_of(request)
        } else {
            String::new()
        };
        self.limiter().call(operation, &scope, most, now)
    }

    /// The token that a request goes on with, if it was made here and has not expired.
    pub(super) fn next_token(&self, request: &Map, now: Moment) -> Result<Option<NextToken>, ServiceError> {
        let Some(text) = request.text("NextToken")? else {
            return Ok(None);
        };
        let token = NextToken::decode(text)
            .ok_or_else(|| ServiceError::invalid("NextToken is not one that this service made"))?;
        if now.saturating_since(token.minted) > self.options.token_lifetime {
            return Err(ServiceError::expired_token("NextToken has expired"));
        }
        Ok(Some(token))
    }

    /// As [`next_token`](Self::next_token), of the listing with this name.
    pub(super) fn page_token(
        &self,
        request: &Map,
        listing: &str,
        now: Moment,
    ) -> Result<Option<NextToken>, ServiceError> {
        match self.next_token(request, now)? {
            Some(token) if token.filter != listing => Err(ServiceError::invalid(format!(
                "NextToken is not one of the listing of {listing}"
            ))),
            token => Ok(token),
        }
    }

    /// The limits for consumers, which are higher for an account that has committed itself.
    pub(super) fn consumer_limits(&self) -> WireLimits {
        let limits = &self.options.limits;
        let committed = self.commitment().is_some();
        WireLimits {
            consumers: limits
                .consumers
                .map(|most| if committed { most.max(50) } else { most }),
            ..limits.clone()
        }
    }

    /// The account's commitment to a minimum throughput.
    pub(super) fn commitment(&self) -> MutexGuard<'_, Option<Commitment>> {
        self.commitment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the stream that a request is about, or nothing. A page is asked for by its token alone.
    fn stream_of(&self, request: &Map) -> String {
        let text = |name| request.text(name).ok().flatten();
        if let Some(token) = text("NextToken").and_then(NextToken::decode) {
            return token.stream;
        }
        let mut streams = self.streams();
        let entry = streams.of(request);
        entry.map_or_else(|_| String::new(), |entry| entry.stream.name().to_owned())
    }
}

/// The account's commitment to a minimum throughput.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commitment {
    pub(crate) started: Timestamp,
    /// Whether it ends as soon as it may.
    pub(crate) ends: bool,
}

impl Commitment {
    pub(super) fn earliest_end(self) -> Timestamp {
        self.started.plus(COMMITTED_FOR)
    }
}
