use std::collections::BTreeSet;
use std::sync::Once;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use kcl_core::lease_store::{FinishedAhead, Lease, PendingCheckpoint, ShardReport, WriteStamp};
use kcl_core::types::{HashKeyRange, LeaseKey, Position, ShardId, StreamIdentity, Timestamp};

use super::orders::{self, lease_orders_value};
use super::{
    DecodeError, Decoded, Item, incarnation, n, number, optional_number, optional_parsed, optional_text,
    parse, put, put_some, s, text,
};
use crate::attributes;

/// Reads a lease row. Attributes that are not known are left where they are: in the table.
pub(crate) fn decode_lease(item: &Item) -> Decoded<Lease> {
    let key: LeaseKey = parse(attributes::KEY, text(item, attributes::KEY)?)?;
    let stream = optional_parsed(item, attributes::STREAM)?;
    let shard = match optional_parsed(item, attributes::SHARD)? {
        Some(shard) => shard,
        None if stream.is_some() => return Err(DecodeError::Missing(attributes::SHARD)),
        None => parse(attributes::KEY, key.as_str())?,
    };
    let checkpoint_owner = optional_parsed(item, attributes::CHECKPOINT_OWNER)?;
    // A Java worker that ends a handoff leaves our mark behind; without a handoff it means nothing.
    let handoff_stamp = match checkpoint_owner {
        Some(_) => incarnation(item, attributes::HANDOFF_INCARNATION)?,
        None => None,
    };
    Ok(Lease {
        key,
        shard,
        stream,
        owner: optional_parsed(item, attributes::OWNER)?,
        checkpoint_owner,
        counter: counter(item)?,
        owner_switches: switches(item)?,
        checkpoint: position(item, attributes::CHECKPOINT, attributes::SUB_SEQUENCE)?
            .ok_or(DecodeError::Missing(attributes::CHECKPOINT))?,
        pending: pending(item)?,
        finished_ahead: finished_ahead(item),
        parents: shard_set(item, attributes::PARENTS)?,
        children: shard_set(item, attributes::CHILDREN)?,
        hash_range: hash_range(item)?,
        throughput: optional_number(item, attributes::THROUGHPUT)?,
        stamp: stamp(item)?,
        handoff_stamp,
        pinned_start: optional_number(item, attributes::PINNED_START)?.map(Timestamp::from_millis),
        latest_at: optional_number(item, attributes::LATEST_AT)?.map(Timestamp::from_millis),
        failover: optional_number(item, attributes::OWNER_FAILOVER_MILLIS)?.map(Duration::from_millis),
        identity: identity(item)?,
        reset_at: optional_number(item, attributes::RESET_AT)?.map(Timestamp::from_millis),
        report: report(item),
        orders: orders::lease_orders(item)?,
        answer: orders::answer(item)?,
    })
}

/// The counter, unless it is one that no worker can count on from.
fn counter(item: &Item) -> Decoded<u64> {
    let counter = number(item, attributes::COUNTER)?;
    if counter <= Lease::LARGEST_COUNTER {
        return Ok(counter);
    }
    let problem = format!(
        "{counter} is beyond the largest counter, {}",
        Lease::LARGEST_COUNTER
    );
    Err(DecodeError::Value(attributes::COUNTER, problem))
}

/// How often the owner changed. DynamoDB itself adds to it, without our limit: what is larger than fits is shown as the largest that does.
fn switches(item: &Item) -> Decoded<u64> {
    let wrong_type = |_| DecodeError::Type(attributes::OWNER_SWITCHES, "N");
    let digits = item
        .get(attributes::OWNER_SWITCHES)
        .map(AttributeValue::as_n)
        .transpose();
    match digits.map_err(wrong_type)? {
        None => Ok(0),
        Some(digits) if digits.len() > 19 && digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            Ok(digits.parse().unwrap_or(u64::MAX))
        }
        Some(digits) => parse(attributes::OWNER_SWITCHES, digits),
    }
}

fn position(item: &Item, checkpoint: &'static str, sub_sequence: &'static str) -> Decoded<Option<Position>> {
    let sub_sequence = optional_number(item, sub_sequence)?.unwrap_or(0);
    let bad = |error: kcl_core::types::InvalidPosition| DecodeError::Value(checkpoint, error.to_string());
    optional_text(item, checkpoint)?
        .map(|text| Position::parse(text, sub_sequence).map_err(bad))
        .transpose()
}

fn pending(item: &Item) -> Decoded<Option<PendingCheckpoint>> {
    let Some(position) = position(item, attributes::PENDING, attributes::PENDING_SUB_SEQUENCE)? else {
        return Ok(None);
    };
    let state = item
        .get(attributes::PENDING_STATE)
        .map(AttributeValue::as_b)
        .transpose()
        .map_err(|_| DecodeError::Type(attributes::PENDING_STATE, "B"))?;
    Ok(Some(PendingCheckpoint {
        position,
        state: state.map(|blob| Bytes::copy_from_slice(blob.as_ref())),
    }))
}

/// The report of the owner. It is for people: one that cannot be read is left aside.
fn report(item: &Item) -> Option<Box<ShardReport>> {
    let text = item.get(attributes::REPORT)?.as_s().ok()?;
    text.parse().ok().map(Box::new)
}

/// The report of the owner, as an attribute.
pub(crate) fn report_value(report: &ShardReport) -> AttributeValue {
    s(report)
}

/// The records that are finished ahead of the checkpoint. A value that cannot be read costs no more than their delivery, so it is ignored.
fn finished_ahead(item: &Item) -> Option<FinishedAhead> {
    static SAID: Once = Once::new();
    let value = item.get(attributes::FINISHED_AHEAD)?;
    let bytes = value
        .as_b()
        .map_err(|_| DecodeError::Type(attributes::FINISHED_AHEAD, "B").to_string());
    let decoded =
        bytes.and_then(|blob| FinishedAhead::decode(blob.as_ref()).map_err(|error| error.to_string()));
    match decoded {
        Ok(ahead) => Some(ahead),
        Err(problem) => {
            SAID.call_once(|| {
                tracing::warn!(
                    problem,
                    "ignoring what a lease says is finished ahead of its checkpoint; this is logged once"
                )
            });
            None
        }
    }
}

fn shard_set(item: &Item, name: &'static str) -> Decoded<BTreeSet<ShardId>> {
    let Some(value) = item.get(name) else {
        return Ok(BTreeSet::new());
    };
    let texts = value.as_ss().map_err(|_| DecodeError::Type(name, "SS"))?;
    texts.iter().map(|text| parse(name, text)).collect()
}

fn hash_range(item: &Item) -> Decoded<Option<HashKeyRange>> {
    let ends = (
        optional_text(item, attributes::HASH_START)?,
        optional_text(item, attributes::HASH_END)?,
    );
    let (Some(start), Some(end)) = ends else {
        return Ok(None);
    };
    HashKeyRange::parse(start, end)
        .map(Some)
        .map_err(|error| DecodeError::Value(attributes::HASH_START, error.to_string()))
}

fn stamp(item: &Item) -> Decoded<Option<WriteStamp>> {
    let parts = (
        incarnation(item, attributes::STAMP_INCARNATION)?,
        optional_number(item, attributes::STAMP_COUNTER)?,
    );
    Ok(match parts {
        (Some(incarnation), Some(counter)) => Some(WriteStamp { incarnation, counter }),
        _ => None,
    })
}

fn identity(item: &Item) -> Decoded<Option<StreamIdentity>> {
    let Some(arn) = optional_text(item, attributes::STREAM_ARN)? else {
        return Ok(None);
    };
    Ok(Some(StreamIdentity {
        name: text(item, attributes::STREAM_NAME)?.to_owned(),
        arn: arn.to_owned(),
        created: Timestamp::from_millis(number(item, attributes::STREAM_CREATED)?),
    }))
}

/// The whole row of a new lease. Only here is `entityType` written, as the Java KCL does.
pub(crate) fn creation_item(lease: &Lease) -> Item {
    let mut item = lease_attributes(lease);
    put(&mut item, attributes::ENTITY_TYPE, s(attributes::LEASE_ENTITY));
    item
}

/// Every attribute of the lease that is known here, and no other.
pub(crate) fn lease_attributes(lease: &Lease) -> Item {
    let mut item = Item::new();
    let row = &mut item;
    put(row, attributes::KEY, s(&lease.key));
    put_some(row, attributes::STREAM, lease.stream.as_ref().map(s));
    put_some(
        row,
        attributes::SHARD,
        lease.stream.as_ref().map(|_| s(&lease.shard)),
    );
    put_some(row, attributes::OWNER, lease.owner.as_ref().map(s));
    put_some(
        row,
        attributes::CHECKPOINT_OWNER,
        lease.checkpoint_owner.as_ref().map(s),
    );
    put(row, attributes::COUNTER, n(lease.counter));
    put(row, attributes::OWNER_SWITCHES, n(lease.owner_switches));
    put(row, attributes::CHECKPOINT, s(lease.checkpoint.checkpoint_text()));
    put(row, attributes::SUB_SEQUENCE, n(lease.checkpoint.sub_sequence()));
    if let Some(pending) = &lease.pending {
        put(row, attributes::PENDING, s(pending.position.checkpoint_text()));
        put(
            row,
            attributes::PENDING_SUB_SEQUENCE,
            n(pending.position.sub_sequence()),
        );
        put_some(row, attributes::PENDING_STATE, state_value(pending));
    }
    put_some(
        row,
        attributes::FINISHED_AHEAD,
        lease.finished_ahead.as_ref().map(finished_ahead_value),
    );
    put_some(row, attributes::PARENTS, string_set(&lease.parents));
    put_some(row, attributes::CHILDREN, string_set(&lease.children));
    if let Some(range) = &lease.hash_range {
        put(row, attributes::HASH_START, s(range.start()));
        put(row, attributes::HASH_END, s(range.end()));
    }
    put_some(
        row,
        attributes::THROUGHPUT,
        lease.throughput.map(|kib| n(throughput_text(kib))),
    );
    if let Some(stamp) = &lease.stamp {
        put(row, attributes::STAMP_INCARNATION, s(stamp.incarnation));
        put(row, attributes::STAMP_COUNTER, n(stamp.counter));
    }
    put_some(row, attributes::HANDOFF_INCARNATION, lease.handoff_stamp.map(s));
    let pinned = lease.pinned_start.map(|start| n(start.as_millis()));
    put_some(row, attributes::PINNED_START, pinned);
    let latest_at = lease.latest_at.map(|time| n(time.as_millis()));
    put_some(row, attributes::LATEST_AT, latest_at);
    let failover = lease.failover.map(|failover| n(failover.as_millis()));
    put_some(row, attributes::OWNER_FAILOVER_MILLIS, failover);
    if let Some(identity) = &lease.identity {
        put(row, attributes::STREAM_ARN, s(&identity.arn));
        put(row, attributes::STREAM_NAME, s(&identity.name));
        put(row, attributes::STREAM_CREATED, n(identity.created.as_millis()));
    }
    let reset_at = lease.reset_at.map(|time| n(time.as_millis()));
    put_some(row, attributes::RESET_AT, reset_at);
    put_some(row, attributes::REPORT, lease.report.as_deref().map(report_value));
    if let Some(orders) = &lease.orders {
        put(row, attributes::ORDERS_REVISION, n(orders.revision));
        put(row, attributes::ORDERS, lease_orders_value(orders));
    }
    if let Some(answer) = &lease.answer {
        put(row, attributes::ORDERS_ANSWERED, n(answer.revision));
        put_some(row, attributes::ORDERS_REFUSED, answer.refused.as_ref().map(s));
    }
    item
}

/// The records that are finished ahead of the checkpoint.
pub(crate) fn finished_ahead_value(ahead: &FinishedAhead) -> AttributeValue {
    AttributeValue::B(Blob::new(ahead.encode()))
}

/// The data that the application stored with a prepared checkpoint.
pub(crate) fn state_value(pending: &PendingCheckpoint) -> Option<AttributeValue> {
    let state = pending.state.as_ref()?;
    Some(AttributeValue::B(Blob::new(state.as_ref())))
}

/// A set of shard ids; `None` for the empty set, which DynamoDB cannot store.
pub(crate) fn string_set<T: ToString>(values: &BTreeSet<T>) -> Option<AttributeValue> {
    let texts = values.iter().map(ToString::to_string).collect::<Vec<_>>();
    (!texts.is_empty()).then_some(AttributeValue::Ss(texts))
}

/// A throughput with at most six decimals, as the Java KCL rounds it.
///
/// A moving average that fades would otherwise become a number too small for DynamoDB, which refuses the whole write.
pub(crate) fn throughput_text(kib_per_second: f64) -> String {
    const LARGEST: f64 = 1e15;
    let bounded = if kib_per_second.is_finite() {
        kib_per_second.clamp(0.0, LARGEST)
    } else {
        0.0
    };
    let text = format!("{bounded:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
