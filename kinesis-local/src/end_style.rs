//! How servers show that a shard has ended: as Kinesis does, and as others do.

use std::time::Duration;

use kcl_core::types::SequenceNumber;
use kcl_lease_memory::memory_stream::ShardSnapshot;
use kcl_lease_memory::server::Page;

use super::shapes::{children, millis};
use super::value::{Map, Value};

/// How the server shows the end of a shard, for tests of readers that must come past each of them.
///
/// Every style but that of Kinesis is what one version of another server does.
///
/// ```
/// use kinesis_local::{EndStyle, WireOptions};
///
/// let options = WireOptions { end_style: EndStyle::Ferrokinesis, ..WireOptions::unlimited() };
/// # assert_ne!(options, WireOptions::unlimited());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EndStyle {
    /// The last answer or event names the children, and no place to go on.
    #[default]
    Kinesis,
    /// As LocalStack 4.14.0. GetRecords as Kinesis, with an iterator that is null. Events name no children, their continuation is `0` until a record has come, and after the
    /// last record the body breaks off, in every subscription.
    LocalStack,
    /// As ferrokinesis 0.7.0. The last answer of GetRecords has neither an iterator nor children, and none says how far behind it is. The last
    /// event names the children beside a place to go on.
    Ferrokinesis,
    /// As kinesis-mock 0.6.2. GetRecords as Kinesis, with an iterator that is null. Events name no children, and a subscription to a closed shard goes on without records.
    KinesisMock,
    /// As ministack 1.5.33. A closed shard is not listed and not known, and its unread records are gone with it. The last event of a
    /// subscription that was open names the children beside a place to go on.
    Ministack,
}

/// The action after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// The next one.
    More,
    /// The end of the body.
    End,
    /// Nothing: the body breaks off.
    Break,
}

impl EndStyle {
    /// Whether no client can ask for a closed shard.
    pub(super) fn forgets_closed(self) -> bool {
        self == Self::Ministack
    }

    /// Whether the shard exists for clients.
    pub(super) fn knows(self, shard: &ShardSnapshot) -> bool {
        let is_gone = self.forgets_closed() && shard.shard.closed;
        !is_gone && !shard.forgotten
    }

    /// An answer of GetRecords, with the iterator to go on with if there is one.
    pub(super) fn answer(self, page: Page, next: Option<String>) -> Map {
        let names = self != Self::Ferrokinesis;
        let children = page.end.as_ref().filter(|_| names).map(children);
        let says_null = matches!(self, Self::KinesisMock | Self::LocalStack);
        let next = match next {
            Some(next) => Some(Value::from(next)),
            None => says_null.then_some(Value::Null),
        };
        Map::new()
            .with("Records", Value::Records(page.records))
            .with_some("NextShardIterator", next)
            .with("MillisBehindLatest", self.millis_behind(page.behind))
            .with_some("ChildShards", children)
    }

    fn millis_behind(self, behind: Duration) -> i64 {
        match self == Self::Ferrokinesis {
            true => 0,
            false => millis(behind),
        }
    }

    /// Whether a subscription ends with its shard.
    pub(super) fn ends_subscription(self) -> bool {
        self != Self::KinesisMock
    }

    /// An event, and what follows it. `after` is the last record that the subscription has brought before.
    pub(super) fn event(self, page: Page, after: Option<&SequenceNumber>) -> (Map, Follows) {
        let has_ended = page.end.is_some();
        let has_brought = after.is_some() || !page.records.is_empty();
        let (names, goes_on, follows) = match self {
            Self::Kinesis => (true, !has_ended, Follows::End),
            Self::LocalStack => (false, true, Follows::Break),
            Self::Ferrokinesis | Self::Ministack => (true, true, Follows::End),
            Self::KinesisMock => (false, true, Follows::More),
        };
        let number = if self == Self::LocalStack && !has_brought {
            "0"
        } else {
            page.continuation.as_str()
        };
        let number = goes_on.then(|| number.to_owned());
        let children = page.end.as_ref().filter(|_| names).map(children);
        let event = Map::new()
            .with("Records", Value::Records(page.records))
            .with_some("ContinuationSequenceNumber", number)
            .with("MillisBehindLatest", self.millis_behind(page.behind))
            .with_some("ChildShards", children);
        (event, if has_ended { follows } else { Follows::More })
    }
}
