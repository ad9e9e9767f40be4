use std::time::Duration;

use kcl_core::lease_store::LeaderLock;

use super::{DecodeError, Decoded, Item, n, optional_parsed, optional_text, parse, put, put_some, s, text};
use crate::attr;

/// Reads the lock row of the DynamoDB lock client.
pub(crate) fn decode_lock(item: &Item) -> Decoded<LeaderLock> {
    // The lock client stores the duration as a text of decimal milliseconds.
    let millis = parse(attr::LOCK_DURATION, text(item, attr::LOCK_DURATION)?)?;
    let version = text(item, attr::LOCK_VERSION)?;
    if version.is_empty() {
        return Err(DecodeError::Value(attr::LOCK_VERSION, "is empty".to_owned()));
    }
    Ok(LeaderLock {
        owner: parse(attr::LOCK_OWNER, text(item, attr::LOCK_OWNER)?)?,
        duration: Duration::from_millis(millis),
        version: version.to_owned(),
        released: optional_text(item, attr::LOCK_RELEASED)? == Some("1"),
        standby: optional_parsed(item, attr::LOCK_DEPUTY)?,
    })
}

/// The whole lock row: each hold replaces it, as the lock client does.
pub(crate) fn encode_lock(lock: &LeaderLock) -> Item {
    let mut item = Item::new();
    put(&mut item, attr::KEY, s(attr::LEADER_KEY));
    put(&mut item, attr::ENTITY_TYPE, s(attr::LEADER_ENTITY));
    put(&mut item, attr::LOCK_OWNER, s(&lock.owner));
    put(&mut item, attr::LOCK_DURATION, s(lock.duration.as_millis()));
    put(&mut item, attr::LOCK_VERSION, s(&lock.version));
    put(&mut item, attr::LOCK_IS_OURS, n(1));
    put_some(&mut item, attr::LOCK_RELEASED, lock.released.then(|| s("1")));
    put_some(&mut item, attr::LOCK_DEPUTY, lock.standby.as_ref().map(s));
    item
}
