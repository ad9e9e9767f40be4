use std::time::Duration;

use kcl_core::lease_store::LeaderLock;

use super::{DecodeError, Decoded, Item, n, optional_parsed, optional_text, parse, put, put_some, s, text};
use crate::attributes;

/// Reads the lock row of the DynamoDB lock client.
pub(crate) fn decode_lock(item: &Item) -> Decoded<LeaderLock> {
    // The lock client stores the duration as a text of decimal milliseconds.
    let millis = parse(attributes::LOCK_DURATION, text(item, attributes::LOCK_DURATION)?)?;
    let version = text(item, attributes::LOCK_VERSION)?;
    if version.is_empty() {
        return Err(DecodeError::Value(
            attributes::LOCK_VERSION,
            "is empty".to_owned(),
        ));
    }
    Ok(LeaderLock {
        owner: parse(attributes::LOCK_OWNER, text(item, attributes::LOCK_OWNER)?)?,
        duration: Duration::from_millis(millis),
        version: version.to_owned(),
        released: optional_text(item, attributes::LOCK_RELEASED)? == Some("1"),
        standby: optional_parsed(item, attributes::LOCK_DEPUTY)?,
    })
}

/// The whole lock row: each hold replaces it, as the lock client does.
pub(crate) fn encode_lock(lock: &LeaderLock) -> Item {
    let mut item = Item::new();
    put(&mut item, attributes::KEY, s(attributes::LEADER_KEY));
    put(&mut item, attributes::ENTITY_TYPE, s(attributes::LEADER_ENTITY));
    put(&mut item, attributes::LOCK_OWNER, s(&lock.owner));
    put(&mut item, attributes::LOCK_DURATION, s(lock.duration.as_millis()));
    put(&mut item, attributes::LOCK_VERSION, s(&lock.version));
    put(&mut item, attributes::LOCK_IS_OURS, n(1));
    put_some(
        &mut item,
        attributes::LOCK_RELEASED,
        lock.released.then(|| s("1")),
    );
    put_some(&mut item, attributes::LOCK_DEPUTY, lock.standby.as_ref().map(s));
    item
}
