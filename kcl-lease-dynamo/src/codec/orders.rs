//! The orders of operators, as one attribute of a lease or worker row, and their revision as another, on which a write is conditioned.

use std::num::NonZeroU32;
use std::sync::Once;

use aws_sdk_dynamodb::types::AttributeValue;
use kcl_core::lease_store::{GivenOrder, LeaseOrders, OrderAnswer, ResetPosition, WorkerOrders};
use kcl_core::types::{Position, Rate, Timestamp};

use super::{
    DecodeError, Decoded, Item, n, number, optional_number, optional_parsed, optional_text, put, put_some, s,
    text,
};
use crate::attributes;

/// The names inside of the attribute.
const PAUSED: &str = "paused";
const HOLD: &str = "hold";
const LIMIT_RECORDS: &str = "limitRecords";
const LIMIT_KIB: &str = "limitKiB";
const PINNED: &str = "pinned";
const SKIP: &str = "skip";
const SKIP_SUB_SEQUENCE: &str = "skipSubSequence";
const EXCLUDED: &str = "excluded";
const DRAINED: &str = "drained";
const HISTORY: &str = "history";
const REVISION: &str = "revision";
const AT_MILLIS: &str = "atMillis";
const AUTHOR: &str = "author";
const REASON: &str = "reason";
const ORDER: &str = "order";
const BEFORE: &str = "before";
const BEFORE_SUB_SEQUENCE: &str = "beforeSubSequence";
const BEFORE_MILLIS: &str = "beforeMillis";

/// The orders of a lease.
pub(crate) fn lease_orders_value(orders: &LeaseOrders) -> AttributeValue {
    let mut item = Item::new();
    put_flag(&mut item, PAUSED, orders.paused);
    put_some(&mut item, HOLD, orders.hold.map(n));
    let limit = orders.limit.unwrap_or_default();
    put_some(&mut item, LIMIT_RECORDS, limit.records.map(n));
    put_some(&mut item, LIMIT_KIB, limit.kib.map(n));
    put_some(&mut item, PINNED, orders.pinned.as_ref().map(s));
    if let Some(skip) = &orders.skip {
        put(&mut item, SKIP, s(&skip.sequence));
        put(&mut item, SKIP_SUB_SEQUENCE, n(skip.sub_sequence));
    }
    put_history(&mut item, &orders.history);
    map(item)
}

/// The orders of a worker.
pub(crate) fn worker_orders_value(orders: &WorkerOrders) -> AttributeValue {
    let mut item = Item::new();
    put_flag(&mut item, EXCLUDED, orders.excluded);
    put_flag(&mut item, DRAINED, orders.drained);
    put_history(&mut item, &orders.history);
    map(item)
}

fn put_flag(item: &mut Item, name: &str, flag: bool) {
    put_some(item, name, flag.then_some(AttributeValue::Bool(true)));
}

fn put_history(item: &mut Item, history: &[GivenOrder]) {
    put(
        item,
        HISTORY,
        AttributeValue::L(history.iter().map(given_value).collect()),
    );
}

fn given_value(given: &GivenOrder) -> AttributeValue {
    let mut item = Item::new();
    put(&mut item, REVISION, n(given.revision));
    put(&mut item, AT_MILLIS, n(given.at.as_millis()));
    put(&mut item, AUTHOR, s(&given.author));
    put_some(&mut item, REASON, given.reason.as_ref().map(s));
    put(&mut item, ORDER, s(&given.order));
    if let Some(before) = &given.before {
        let (position, time) = before.checkpoint();
        put(&mut item, BEFORE, s(position.checkpoint_text()));
        put(&mut item, BEFORE_SUB_SEQUENCE, n(position.sub_sequence()));
        put_some(&mut item, BEFORE_MILLIS, time.map(|time| n(time.as_millis())));
    }
    map(item)
}

fn map(item: Item) -> AttributeValue {
    AttributeValue::M(item.into_iter().collect())
}

/// The orders of a lease row. Where a part cannot be read, which was written by hand or by a later version, the rest is: the lease is not lost for
/// it, and the next order replaces it. A pause that cannot be read counts.
pub(super) fn lease_orders(item: &Item) -> Decoded<Option<Box<LeaseOrders>>> {
    let Some(revision) = optional_number(item, attributes::ORDERS_REVISION)? else {
        return Ok(None);
    };
    let orders = match item.get(attributes::ORDERS) {
        None => LeaseOrders::default(),
        Some(value) => match inner(value, attributes::ORDERS) {
            Ok(item) => lease_orders_of(&item),
            Err(problem) => {
                let paused = left_aside(Err(problem)).unwrap_or(true);
                LeaseOrders {
                    paused,
                    ..LeaseOrders::default()
                }
            }
        },
    };
    Ok(Some(Box::new(LeaseOrders { revision, ..orders })))
}

/// The orders of a worker row, as [`lease_orders`].
pub(super) fn worker_orders(item: &Item) -> Decoded<Option<Box<WorkerOrders>>> {
    let Some(revision) = optional_number(item, attributes::ORDERS_REVISION)? else {
        return Ok(None);
    };
    let map = item
        .get(attributes::ORDERS)
        .and_then(|value| left_aside(inner(value, attributes::ORDERS)));
    let orders = map.map_or_else(WorkerOrders::default, |item| WorkerOrders {
        revision,
        excluded: left_aside(flag(&item, EXCLUDED)).unwrap_or(false),
        drained: left_aside(flag(&item, DRAINED)).unwrap_or(false),
        history: left_aside(history(&item)).unwrap_or_default(),
    });
    Ok(Some(Box::new(WorkerOrders { revision, ..orders })))
}

/// The answer to the orders of a lease row.
pub(super) fn answer(item: &Item) -> Decoded<Option<OrderAnswer>> {
    let Some(revision) = optional_number(item, attributes::ORDERS_ANSWERED)? else {
        return Ok(None);
    };
    let refused = optional_text(item, attributes::ORDERS_REFUSED)?.map(str::to_owned);
    Ok(Some(OrderAnswer { revision, refused }))
}

/// The value, unless it cannot be read.
fn left_aside<T>(decoded: Decoded<T>) -> Option<T> {
    static SAID: Once = Once::new();
    decoded
        .map_err(|problem| {
            SAID.call_once(|| {
                tracing::warn!(%problem, "leaving aside a part of the orders in a row; this is logged once");
            });
        })
        .ok()
}

fn inner(value: &AttributeValue, name: &'static str) -> Decoded<Item> {
    let map = value.as_m().map_err(|_| DecodeError::Type(name, "M"))?;
    Ok(map
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect())
}

fn lease_orders_of(item: &Item) -> LeaseOrders {
    let number = |name| left_aside(optional_number::<NonZeroU32>(item, name)).flatten();
    let limit = Rate {
        records: number(LIMIT_RECORDS),
        kib: number(LIMIT_KIB),
    };
    let skip = left_aside(position(item, SKIP, SKIP_SUB_SEQUENCE)).flatten();
    let hold = left_aside(optional_number(item, HOLD));
    LeaseOrders {
        revision: 0,
        paused: left_aside(flag(item, PAUSED)).unwrap_or(true) || hold.is_none(),
        hold: hold.flatten(),
        limit: (limit != Rate::default()).then_some(limit),
        pinned: left_aside(optional_parsed(item, PINNED)).flatten(),
        skip: skip.as_ref().and_then(Position::record).cloned(),
        history: left_aside(history(item)).unwrap_or_default(),
    }
}

fn flag(item: &Item, name: &'static str) -> Decoded<bool> {
    let value = item.get(name).map(AttributeValue::as_bool).transpose();
    value
        .map(|flag| flag.copied().unwrap_or(false))
        .map_err(|_| DecodeError::Type(name, "BOOL"))
}

fn history(item: &Item) -> Decoded<Vec<GivenOrder>> {
    let Some(value) = item.get(HISTORY) else {
        return Ok(Vec::new());
    };
    let entries = value.as_l().map_err(|_| DecodeError::Type(HISTORY, "L"))?;
    // A row written by hand may have more.
    let surplus = entries.len().saturating_sub(LeaseOrders::MOST_KEPT);
    entries[surplus..].iter().map(given).collect()
}

fn given(value: &AttributeValue) -> Decoded<GivenOrder> {
    let item = inner(value, HISTORY)?;
    Ok(GivenOrder {
        revision: number(&item, REVISION)?,
        at: Timestamp::from_millis(number(&item, AT_MILLIS)?),
        author: text(&item, AUTHOR)?.to_owned(),
        reason: optional_text(&item, REASON)?.map(str::to_owned),
        order: text(&item, ORDER)?.to_owned(),
        before: before(&item)?,
    })
}

/// The place from which a shard was read before a reset.
fn before(item: &Item) -> Decoded<Option<ResetPosition>> {
    let time = optional_number(item, BEFORE_MILLIS)?.map(Timestamp::from_millis);
    Ok(
        position(item, BEFORE, BEFORE_SUB_SEQUENCE)?.map(|position| match position {
            Position::Record(record) => ResetPosition::After(record),
            Position::ShardEnd => ResetPosition::ShardEnd,
            Position::AtTimestamp | Position::TrimHorizon | Position::Latest => {
                time.map_or(ResetPosition::TrimHorizon, ResetPosition::AtTimestamp)
            }
        }),
    )
}

fn position(item: &Item, name: &'static str, sub_sequence: &'static str) -> Decoded<Option<Position>> {
    let sub_sequence = optional_number(item, sub_sequence)?.unwrap_or(0);
    let bad = |error: kcl_core::types::InvalidPosition| DecodeError::Value(name, error.to_string());
    optional_text(item, name)?
        .map(|text| Position::parse(text, sub_sequence).map_err(bad))
        .transpose()
}
