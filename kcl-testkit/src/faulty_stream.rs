//! A source that fails when a test says so.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{Clock, ClockExt as _};
use kcl_core::source::{
    Arrival, ChildShard, Fetch, FetchLimit, PageToken, RecordStream, ShardEnd, ShardFilter, ShardPage,
    SourceError, SourceErrorKind, StartPosition, StreamDescription, StreamSource,
};
use kcl_core::types::{HashKeyRange, ShardId, StreamIdentity};

/// The calls of a source and of its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamCall {
    /// [`StreamSource::identity`].
    Identity,
    /// [`StreamSource::shards`].
    Shards,
    /// [`StreamSource::open`].
    Open,
    /// [`RecordStream::next`].
    Next,
}

/// A fault of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFault {
    /// The call fails with this kind and reaches nobody.
    Fail(SourceErrorKind),
    /// The source does its work and the answer is lost: the caller sees
    /// [`Unavailable`](SourceErrorKind::Unavailable). Records of a lost answer come again with the next fetch.
    LoseReply,
    /// There is never an answer. Only dropping the future ends the call.
    Hang,
    /// The call reaches the source this much later.
    Delay(Duration),
    /// The call panics, as a bug of the source's would.
    Panic,
    /// The answer is incomplete, implausible or contradicts the listing about the end of the shard. Only [`Next`](StreamCall::Next) has one.
    End(EndFault),
}

/// An error in an answer about the end of a shard. Each is one that some server, or some answer of one, was seen to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndFault {
    /// It claims the end and shows neither records nor children, whatever the shard holds: GetRecords without iterator and children.
    Claimed,
    /// It shows the end with children of another shard.
    Strangers,
    /// It shows one child of two.
    Half,
    /// It shows the end without its children.
    WithoutChildren,
    /// It goes on as if there was no end. A reader of [`open_closed`](StreamSource::open_closed) shows the end without children.
    Withheld,
    /// It names the children beside a place to go on, and never ends. A reader of [`open_closed`](StreamSource::open_closed) shows the end
    /// without children.
    NamedBeside,
}

/// Which calls a fault strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFaultRule {
    call: StreamCall,
    fault: StreamFault,
    shard: Option<ShardId>,
    left: Option<u32>,
}

impl StreamFaultRule {
    /// The fault strikes every such call until the rules are [cleared](StreamFaults::clear).
    #[must_use]
    pub fn every(call: StreamCall, fault: StreamFault) -> Self {
        Self {
            call,
            fault,
            shard: None,
            left: None,
        }
    }

    /// The fault strikes the next `times` such calls.
    #[must_use]
    pub fn next(times: u32, call: StreamCall, fault: StreamFault) -> Self {
        Self {
            left: Some(times),
            ..Self::every(call, fault)
        }
    }

    /// The fault strikes only calls about this shard: [`Open`](StreamCall::Open) and [`Next`](StreamCall::Next).
    #[must_use]
    pub fn on_shard(mut self, shard: ShardId) -> Self {
        self.shard = Some(shard);
        self
    }

    fn strikes(&self, call: StreamCall, shard: Option<&ShardId>) -> bool {
        self.call == call
            && self.left != Some(0)
            && self.shard.as_ref().is_none_or(|only| shard == Some(only))
    }
}

/// The switch of a [`FaultyStream`]. Clones share it; it works while readers are open.
#[derive(Debug, Clone, Default)]
pub struct StreamFaults {
    shared: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<StreamFaultRule>,
    calls: BTreeMap<StreamCall, u64>,
    struck: BTreeMap<StreamCall, u64>,
}

impl StreamFaults {
    /// Adds a rule. Of several rules that fit a call the oldest strikes.
    pub fn add(&self, rule: StreamFaultRule) {
        self.lock().rules.push(rule);
    }

    /// Takes all rules away: the source works again. A call that hangs goes on hanging.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// How many such calls were made, struck or not.
    #[must_use]
    pub fn calls(&self, call: StreamCall) -> u64 {
        self.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// How many such calls a fault has struck.
    #[must_use]
    pub fn struck(&self, call: StreamCall) -> u64 {
        self.lock().struck.get(&call).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call and says what goes wrong with it.
    fn strike(&self, call: StreamCall, shard: Option<&ShardId>) -> Option<StreamFault> {
        let mut script = self.lock();
        *script.calls.entry(call).or_default() += 1;
        let rule = script.rules.iter_mut().find(|rule| rule.strikes(call, shard))?;
        if let Some(left) = &mut rule.left {
            *left -= 1;
        }
        let fault = rule.fault;
        script.rules.retain(|rule| rule.left != Some(0));
        *script.struck.entry(call).or_default() += 1;
        Some(fault)
    }
}

/// Any source, with faults.
///
/// ```
/// use std::sync::Arc;
/// use kcl_core::source::{SourceErrorKind, StreamSource};
/// use kcl_core::clock::TokioClock;
/// use kcl_lease_memory::MemoryStream;
/// use kcl_testkit::faulty_stream::{FaultyStream, StreamCall, StreamFault, StreamFaultRule};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let stream = FaultyStream::new(MemoryStream::builder("trucks").build(), Arc::new(TokioClock::new()));
/// let outage = StreamFault::Fail(SourceErrorKind::Unavailable);
/// stream.faults().add(StreamFaultRule::next(1, StreamCall::Identity, outage));
/// assert!(stream.identity().await.is_err());
/// assert!(stream.identity().await.is_ok());
/// assert_eq!(stream.faults().calls(StreamCall::Identity), 2);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FaultyStream<S> {
    inner: S,
    link: StreamLink,
}

/// The path between a caller and the source.
#[derive(Debug, Clone)]
struct StreamLink {
    faults: StreamFaults,
    clock: Arc<dyn Clock>,
}

/// The fate of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Arrives,
    IsLost,
    Errs(EndFault),
}

impl StreamLink {
    /// The way to the source. It may end in an error, in a panic, or never.
    #[expect(clippy::panic, reason = "this is what a test asked for")]
    async fn cross(&self, call: StreamCall, shard: Option<&ShardId>) -> Result<Reply, SourceError> {
        match self.faults.strike(call, shard) {
            None => Ok(Reply::Arrives),
            Some(StreamFault::LoseReply) => Ok(Reply::IsLost),
            Some(StreamFault::End(fault)) => Ok(Reply::Errs(fault)),
            Some(StreamFault::Fail(kind)) => {
                Err(SourceError::new(kind, format!("{call:?} was made to fail")))
            }
            Some(StreamFault::Panic) => panic!("{call:?} was made to panic"),
            Some(StreamFault::Hang) => std::future::pending().await,
            Some(StreamFault::Delay(delay)) => {
                self.clock.sleep(delay).await;
                Ok(Reply::Arrives)
            }
        }
    }
}

impl StreamLink {
    fn reader(
        &self,
        shard: &ShardId,
        inner: Box<dyn RecordStream>,
        of_closed: bool,
    ) -> Box<dyn RecordStream> {
        Box::new(FaultyRecords {
            inner,
            shard: shard.clone(),
            link: self.clone(),
            of_closed,
            lost: None,
        })
    }
}

fn lost(call: StreamCall) -> SourceError {
    SourceError::new(
        SourceErrorKind::Unavailable,
        format!("the answer to {call:?} was lost"),
    )
}

impl Reply {
    fn deliver<T>(self, call: StreamCall, answer: Result<T, SourceError>) -> Result<T, SourceError> {
        match self {
            Self::Arrives | Self::Errs(_) => answer,
            Self::IsLost => Err(lost(call)),
        }
    }
}

impl<S> FaultyStream<S> {
    /// The source, without faults so far; delays go by this clock.
    pub fn new(inner: S, clock: Arc<dyn Clock>) -> Self {
        let faults = StreamFaults::default();
        Self {
            inner,
            link: StreamLink { faults, clock },
        }
    }

    /// The switch for the faults of this source and of every reader that it opens.
    pub fn faults(&self) -> &StreamFaults {
        &self.link.faults
    }

    /// The source behind the faults.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: StreamSource> StreamSource for FaultyStream<S> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn identity(&self) -> Result<StreamIdentity, SourceError> {
        let reply = self.link.cross(StreamCall::Identity, None).await?;
        reply.deliver(StreamCall::Identity, self.inner.identity().await)
    }

    fn description(&self) -> StreamDescription {
        self.inner.description()
    }

    async fn shards(&self, filter: ShardFilter, page: Option<PageToken>) -> Result<ShardPage, SourceError> {
        let reply = self.link.cross(StreamCall::Shards, None).await?;
        reply.deliver(StreamCall::Shards, self.inner.shards(filter, page).await)
    }

    async fn open(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        let reply = self.link.cross(StreamCall::Open, Some(shard)).await?;
        let opened = reply.deliver(StreamCall::Open, self.inner.open(shard, start).await)?;
        Ok(self.link.reader(shard, opened, false))
    }

    async fn open_closed(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        let reply = self.link.cross(StreamCall::Open, Some(shard)).await?;
        let opened = self.inner.open_closed(shard, start).await;
        let opened = reply.deliver(StreamCall::Open, opened)?;
        Ok(self.link.reader(shard, opened, true))
    }
}

/// How long a reader that brings nothing asks to wait.
const IDLE: Duration = Duration::from_millis(200);

/// A child of another shard, for all hash keys.
fn stranger() -> ChildShard {
    #[expect(clippy::expect_used, reason = "the ids are valid")]
    let id = |id: &str| ShardId::new(id).expect("a valid id");
    ChildShard {
        id: id("shardId-000000999999"),
        parents: [id("shardId-000000999998")].into(),
        hash_range: HashKeyRange::WHOLE,
    }
}

struct FaultyRecords {
    inner: Box<dyn RecordStream>,
    shard: ShardId,
    link: StreamLink,
    /// Whether it is a reader of [`StreamSource::open_closed`].
    of_closed: bool,
    /// The answer of the source that the caller has not received.
    lost: Option<Fetch>,
}

impl FaultyRecords {
    /// The answer with this mistake about the end of the shard.
    fn mistaken(&self, mut fetch: Fetch, fault: EndFault) -> Fetch {
        let Some(mut end) = fetch.end.take() else {
            return fetch;
        };
        let hides = !self.of_closed;
        match fault {
            EndFault::Withheld if hides => fetch.wait = fetch.wait.max(IDLE),
            EndFault::NamedBeside if hides => {
                fetch.children = end.children;
                fetch.wait = fetch.wait.max(IDLE);
            }
            EndFault::Half => {
                end.children.truncate(1);
                fetch.end = Some(end);
            }
            EndFault::Claimed
            | EndFault::Strangers
            | EndFault::WithoutChildren
            | EndFault::Withheld
            | EndFault::NamedBeside => fetch.end = Some(ShardEnd::default()),
        }
        fetch
    }

    /// Returns what a source would answer that goes on from the last fetch received: the lost one, as far as the limit allows.
    fn repeat(&mut self, limit: FetchLimit) -> Option<Fetch> {
        let mut fetch = self.lost.take()?;
        let most = limit.records.max(1) as usize;
        if fetch.records.len() > most {
            let rest = fetch.records.split_off(most);
            self.lost = Some(Fetch {
                records: rest,
                bytes: fetch.bytes,
                kept: fetch.kept,
                behind: fetch.behind,
                wait: fetch.wait,
                end: fetch.end.take(),
                children: std::mem::take(&mut fetch.children),
                lost_place: None,
            });
            fetch.wait = Duration::ZERO;
        }
        Some(fetch)
    }
}

impl fmt::Debug for FaultyRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyRecords")
            .field("inner", &self.inner)
            .field("faults", &self.link.faults)
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RecordStream for FaultyRecords {
    async fn next(&mut self, limit: FetchLimit) -> Result<Fetch, SourceError> {
        self.next_announced(limit, &()).await
    }

    async fn next_announced(
        &mut self,
        limit: FetchLimit,
        arrival: &dyn Arrival,
    ) -> Result<Fetch, SourceError> {
        let reply = self.link.cross(StreamCall::Next, Some(&self.shard)).await?;
        if let Reply::Errs(EndFault::Claimed | EndFault::Strangers) = reply {
            let is_claim = reply == Reply::Errs(EndFault::Claimed);
            let children = if is_claim { Vec::new() } else { vec![stranger()] };
            return Ok(Fetch {
                end: Some(ShardEnd { children }),
                wait: IDLE,
                ..Fetch::default()
            });
        }
        if self.lost.is_none() {
            let fetch = self.inner.next_announced(limit, arrival).await?;
            match reply {
                Reply::Arrives => return Ok(fetch),
                Reply::Errs(fault) => return Ok(self.mistaken(fetch, fault)),
                Reply::IsLost => self.lost = Some(fetch),
            }
        }
        match reply {
            Reply::Arrives | Reply::Errs(_) => self.repeat(limit).ok_or_else(|| lost(StreamCall::Next)),
            Reply::IsLost => Err(lost(StreamCall::Next)),
        }
    }

    fn pause(&mut self) {
        self.inner.pause();
    }
}
