//! Whether a table equals the stream: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::processor::FencingToken;
use kcl_core::types::{LeaseKey, RecordPosition, ShardId};
use kcl_testkit::invariant::{DeliveryLog, Process};

use super::database::Order;
use super::producer::OrderPut;

/// Checks that each record that was put is in the table once and unchanged, those of a shard in order, and those of a child after all of
/// its parents. Returns how many ownerships have written rows.
///
/// # Errors
///
/// The first difference, in words.
pub(super) fn equals_stream(
    puts: &[OrderPut],
    children: &BTreeMap<ShardId, BTreeSet<ShardId>>,
    orders: &[Order],
) -> Result<u64, String> {
    let mut log = DeliveryLog::default();
    for (child, parents) in children {
        log.open(
            &LeaseKey::single_stream(child),
            parents.iter().map(LeaseKey::single_stream),
        );
    }
    let mut items = BTreeMap::new();
    for put in puts {
        let shard = LeaseKey::single_stream(&put.shard);
        log.put(&shard, &put.position);
        items.insert((shard, put.position.clone()), &put.item);
    }
    let mut tokens = BTreeMap::new();
    for order in orders {
        let (shard, position, token) = parsed(order)?;
        let process = Process::from(order.worker.as_str());
        match tokens.insert(shard.clone(), token) {
            Some(last) if last > token => return Err(format!("a former owner has written {order:?}")),
            Some(last) if last == token => {}
            _ => log.begin(&process, &shard, Some(token), None),
        }
        log.deliver(&process, &shard, &position, Duration::ZERO);
        if items.get(&(shard, position)) != Some(&&order.item) {
            return Err(format!("the stream has no such record: {order:?}"));
        }
    }
    let tally = log.verdict().map_err(|violation| violation.to_string())?;
    if tally.redelivered > 0 {
        return Err(format!("{} records are in the table twice", tally.redelivered));
    }
    if orders.len() != puts.len() {
        return Err(format!("{} rows of {} records", orders.len(), puts.len()));
    }
    Ok(tally.ownerships)
}

fn parsed(order: &Order) -> Result<(LeaseKey, RecordPosition, FencingToken), String> {
    let strange = |error: &dyn std::fmt::Display| format!("{order:?}: {error}");
    let position = RecordPosition {
        sequence: order.sequence.parse().map_err(|error| strange(&error))?,
        sub_sequence: u64::try_from(order.sub_sequence).map_err(|error| strange(&error))?,
    };
    let shard = LeaseKey::new(&order.shard).map_err(|error| strange(&error))?;
    let token = u64::try_from(order.token).map_err(|error| strange(&error))?;
    Ok((shard, position, FencingToken::new(token)))
}

#[cfg(test)]
mod tests {
    use kcl_core::types::SequenceNumber;

    use super::*;

    fn shard(name: &str) -> ShardId {
        ShardId::new(name).unwrap()
    }

    fn put(of: &str, number: u64) -> OrderPut {
        OrderPut {
            shard: shard(of),
            position: RecordPosition::plain(SequenceNumber::from(u128::from(number))),
            item: format!("order {number}"),
        }
    }

    fn order(of: &str, number: u64, token: i64) -> Order {
        Order {
            shard: of.to_owned(),
            sequence: number.to_string(),
            sub_sequence: 0,
            item: format!("order {number}"),
            token,
            worker: format!("worker of {token}"),
        }
    }

    /// Two owners of the parent, then one of its child.
    fn sound() -> (Vec<OrderPut>, BTreeMap<ShardId, BTreeSet<ShardId>>, Vec<Order>) {
        (
            vec![put("p", 1), put("p", 2), put("q", 7)],
            BTreeMap::from([(shard("q"), BTreeSet::from([shard("p")]))]),
            vec![order("p", 1, 3), order("p", 2, 5), order("q", 7, 1)],
        )
    }

    fn verdict(change: impl FnOnce(&mut Vec<Order>)) -> Result<u64, String> {
        let (puts, children, mut orders) = sound();
        change(&mut orders);
        equals_stream(&puts, &children, &orders)
    }

    #[test]
    fn each_record_once_in_order_is_equal() {
        assert_eq!(verdict(|_| {}), Ok(3));
    }

    #[test]
    fn each_difference_from_stream_is_found() {
        assert!(verdict(|orders| drop(orders.pop())).is_err(), "one is lost");
        assert!(
            verdict(|orders| orders.insert(2, order("p", 2, 6))).is_err(),
            "one is there twice"
        );
        assert!(
            verdict(|orders| orders.push(order("q", 8, 1))).is_err(),
            "one too many"
        );
        assert!(
            verdict(|orders| orders[0].item = "order 9".to_owned()).is_err(),
            "one is another"
        );
        assert!(verdict(|orders| orders.swap(0, 1)).is_err(), "out of order");
        assert!(
            verdict(|orders| orders.rotate_right(1)).is_err(),
            "a child before its parent"
        );
    }

    #[test]
    fn row_of_late_owner_is_found() {
        let late = verdict(|orders| {
            orders[0].token = 6;
            orders[1].token = 5;
        });
        assert!(late.is_err(), "{late:?}");
    }
}
