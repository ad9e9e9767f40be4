//! ListShards: pages and filters.

use kcl_core::clock::Moment;
use kcl_core::source::StreamSource as _;
use kcl_core::types::Timestamp;
use kcl_lease_memory::memory_stream::ShardSnapshot;

use crate::error::ServiceError;
use crate::shapes::shard_map;
use crate::shared::Shared;
use crate::token::NextToken;
use crate::value::{Answer, Map};

/// Which shards to list, as the
/// [API reference](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ShardFilter.html) lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    All,
    AfterShardId(String),
    AtTrimHorizon,
    AtLatest,
    AtTimestamp(Timestamp),
    FromTimestamp(Timestamp),
}

impl Filter {
    fn of(request: &Map) -> Result<Self, ServiceError> {
        let Some(filter) = request.map("ShardFilter")? else {
            return Ok(Self::All);
        };
        let time = || {
            filter
                .time("Timestamp")?
                .ok_or_else(|| ServiceError::invalid("this filter needs a Timestamp"))
        };
        let kind = filter.needed_text("Type")?;
        let needs = |name| match name {
            "ShardId" => kind == "AFTER_SHARD_ID",
            _ => matches!(kind, "AT_TIMESTAMP" | "FROM_TIMESTAMP"),
        };
        for other in ["ShardId", "Timestamp"] {
            if filter.has(other) && !needs(other) {
                return Err(ServiceError::invalid(format!(
                    "The shard filter {kind} does not take a {other}."
                )));
            }
        }
        match kind {
            "AFTER_SHARD_ID" => Ok(Self::AfterShardId(filter.shard("ShardId")?.to_string())),
            "AT_TRIM_HORIZON" => Ok(Self::AtTrimHorizon),
            "FROM_TRIM_HORIZON" => Ok(Self::All),
            "AT_LATEST" => Ok(Self::AtLatest),
            "AT_TIMESTAMP" => Ok(Self::AtTimestamp(time()?)),
            "FROM_TIMESTAMP" => Ok(Self::FromTimestamp(time()?)),
            other => Err(ServiceError::validation(format!(
                "{other:?} is not a kind of shard filter"
            ))),
        }
    }

    /// As the token of the next page carries it.
    fn encode(&self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::AfterShardId(id) => format!("after {id}"),
            Self::AtTrimHorizon => "horizon".to_owned(),
            Self::AtLatest => "latest".to_owned(),
            Self::AtTimestamp(time) => format!("at {}", time.as_millis()),
            Self::FromTimestamp(time) => format!("from {}", time.as_millis()),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let time = |millis: &str| Some(Timestamp::from_millis(millis.parse().ok()?));
        Some(match text.split_once(' ') {
            None if text == "all" => Self::All,
            None if text == "horizon" => Self::AtTrimHorizon,
            None if text == "latest" => Self::AtLatest,
            Some(("after", id)) => Self::AfterShardId(id.to_owned()),
            Some(("at", millis)) => Self::AtTimestamp(time(millis)?),
            Some(("from", millis)) => Self::FromTimestamp(time(millis)?),
            _ => return None,
        })
    }

    /// Whether the shard is listed; `all` are the shards that retention has left.
    fn lists(&self, shard: &ShardSnapshot, all: &[&ShardSnapshot]) -> bool {
        let open_at = |time: Timestamp| {
            // Of a shard and its children, opened in the millisecond in which it was closed, the shard is listed: it may hold
            // records of that millisecond.
            let begun = shard.opened_at < time || (shard.opened_at == time && shard.shard.parents.is_empty());
            begun && shard.closed_at.is_none_or(|closed| closed >= time)
        };
        match self {
            Self::All => true,
            Self::AfterShardId(id) => shard.shard.id.as_str() > id.as_str(),
            Self::AtTrimHorizon => !has_parent_in(shard, all),
            Self::AtLatest => !shard.shard.closed,
            Self::AtTimestamp(time) => {
                // Before the stream's first shards there was nothing; they stand for that time.
                let first = all.iter().map(|shard| shard.opened_at).min();
                open_at((*time).max(first.unwrap_or(*time)))
            }
            Self::FromTimestamp(time) => shard.closed_at.is_none_or(|closed| closed >= *time),
        }
    }
}

fn has_parent_in(shard: &ShardSnapshot, all: &[&ShardSnapshot]) -> bool {
    let parents = &shard.shard.parents;
    all.iter().any(|other| parents.contains(&other.shard.id))
}

pub(super) fn list_shards(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let most = request.page_size("MaxResults", 1000)?;
    let token = checked_token(request, shared, now)?;
    let mut streams = shared.streams();
    let (entry, filter, after) = match token {
        Some(token) => {
            let filter = Filter::decode(&token.filter);
            let filter = filter.ok_or_else(|| ServiceError::invalid("NextToken is not one of ListShards"))?;
            (streams.named(&token.stream)?, filter, Some(token.last))
        }
        None => {
            let after = request.text("ExclusiveStartShardId")?.map(str::to_owned);
            (streams.readable(request, now)?, Filter::of(request)?, after)
        }
    };
    let created = entry.identity()?.created;
    if let Some(wanted) = request.time("StreamCreationTimestamp")? {
        // The time may have gone through a protocol that carries whole seconds.
        if wanted.as_secs() != created.as_secs() {
            return Err(ServiceError::not_found(
                "there is no stream of this name with this creation time",
            ));
        }
    }
    let snapshot = entry.stream.shards_snapshot();
    let style = shared.options.end_style;
    let all: Vec<&ShardSnapshot> = snapshot.iter().filter(|shard| style.knows(shard)).collect();
    let mut rest = all.iter().copied().filter(|shard| {
        let id = shard.shard.id.as_str();
        after.as_deref().is_none_or(|after| id > after) && filter.lists(shard, &all)
    });
    let page: Vec<&ShardSnapshot> = rest.by_ref().take(most).collect();
    let last = page.last().filter(|_| rest.next().is_some());
    let next = last.map(|last| {
        let token = NextToken {
            stream: entry.stream.name().to_owned(),
            filter: filter.encode(),
            last: last.shard.id.to_string(),
            minted: now,
        };
        token.encode()
    });
    let shards: Vec<Map> = page.into_iter().map(shard_map).collect();
    Ok(Map::new().with("Shards", shards).with_some("NextToken", next))
}

/// The token of a page, which says everything that the first call said.
fn checked_token(request: &Map, shared: &Shared, now: Moment) -> Result<Option<NextToken>, ServiceError> {
    let token = shared.next_token(request, now)?;
    let others = [
        "StreamName",
        "StreamARN",
        "StreamCreationTimestamp",
        "ExclusiveStartShardId",
        "ShardFilter",
    ];
    match others.iter().find(|other| request.has(other)) {
        Some(other) if token.is_some() => Err(ServiceError::invalid(format!(
            "NextToken and {other} cannot be provided together."
        ))),
        _ => Ok(token),
    }
}
