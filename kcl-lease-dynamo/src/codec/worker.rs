use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use kcl_core::lease_store::WorkerRow;
use kcl_core::types::Timestamp;

use super::{
    Decoded, Item, incarnation, n, number, optional_number, optional_text, orders, parse, put, put_some, s,
    text,
};
use crate::attributes;

/// Reads a worker row, ours or a Java worker's.
pub(crate) fn decode_worker(item: &Item) -> Decoded<WorkerRow> {
    let secs: i64 = number(item, attributes::UPDATED_SECS)?;
    let from_secs = Timestamp::from_millis(secs.saturating_mul(1000));
    let exact = optional_number(item, attributes::UPDATED_MILLIS)?.map(Timestamp::from_millis);
    Ok(WorkerRow {
        id: parse(attributes::KEY, text(item, attributes::KEY)?)?,
        incarnation: incarnation(item, attributes::WORKER_INCARNATION)?,
        touches: optional_number(item, attributes::TOUCHES)?.unwrap_or(0),
        failover: optional_number(item, attributes::FAILOVER_MILLIS)?.map(Duration::from_millis),
        max_leases: optional_number(item, attributes::MAX_LEASES)?,
        max_throughput: optional_number(item, attributes::MAX_THROUGHPUT)?,
        // Java knows nothing of the exact time and leaves it standing.
        updated: exact.filter(|exact| exact.as_secs() == secs).unwrap_or(from_secs),
        started: optional_number(item, attributes::STARTED_MILLIS)?.map(Timestamp::from_millis),
        version: optional_text(item, attributes::VERSION)?.map(str::to_owned),
        orders: orders::worker_orders(item)?,
    })
}

/// The attributes that a worker writes into its row: everything but the key and the orders of operators.
///
/// `sts` and `opr` are empty maps, which is how a Java worker without a metric source writes them: the Java leader then
/// spreads leases by throughput. `sup` = 1, as of `slu`, says that we skip rows that are not leases, and we do: it counts where a
/// Java fleet moves its three tables into one, and such a fleet's table is refused until it has.
pub(crate) fn worker_attributes(row: &WorkerRow) -> Item {
    let mut item = Item::new();
    let secs = row.updated.as_secs();
    put(&mut item, attributes::ENTITY_TYPE, s(attributes::WORKER_ENTITY));
    put(&mut item, attributes::UPDATED_SECS, n(secs));
    put(&mut item, attributes::UPDATED_MILLIS, n(row.updated.as_millis()));
    put(
        &mut item,
        attributes::METRICS,
        AttributeValue::M(Default::default()),
    );
    put(
        &mut item,
        attributes::OPERATING_RANGE,
        AttributeValue::M(Default::default()),
    );
    put(&mut item, attributes::SUPPORT, n(1));
    put(&mut item, attributes::SUPPORT_UPDATED_SECS, n(secs));
    put(&mut item, attributes::TOUCHES, n(row.touches));
    put_some(&mut item, attributes::WORKER_INCARNATION, row.incarnation.map(s));
    let failover = row.failover.map(|failover| n(failover.as_millis()));
    put_some(&mut item, attributes::FAILOVER_MILLIS, failover);
    let started = row.started.map(|started| n(started.as_millis()));
    put_some(&mut item, attributes::STARTED_MILLIS, started);
    put_some(&mut item, attributes::VERSION, row.version.as_ref().map(s));
    put_some(&mut item, attributes::MAX_LEASES, row.max_leases.map(n));
    put_some(&mut item, attributes::MAX_THROUGHPUT, row.max_throughput.map(n));
    item
}
