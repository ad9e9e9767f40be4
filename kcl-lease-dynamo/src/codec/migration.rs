use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use kcl_core::types::{ApplicationName, Timestamp, WorkerId};

use super::{Item, n, optional_text, put, s};
use crate::attributes;

/// The content of the row of the client version; a text that is no version when it says nothing.
pub(crate) fn client_version(item: &Item) -> &str {
    optional_text(item, attributes::CLIENT_VERSION)
        .ok()
        .flatten()
        .unwrap_or("nothing readable")
}

/// The application that the table was made for, if one of our workers marked it.
pub(crate) fn application(item: &Item) -> Option<&str> {
    optional_text(item, attributes::APPLICATION).ok().flatten()
}

/// The content of the row of the table migration.
pub(crate) fn table_migration(item: &Item) -> Option<&str> {
    optional_text(item, attributes::TABLE_MIGRATION).ok().flatten()
}

/// The Java workers' rows that a start has watched standing still.
pub(crate) fn observed_java_rows(item: &Item) -> BTreeSet<String> {
    let texts = item
        .get(attributes::OBSERVED_JAVA_ROWS)
        .and_then(|value| value.as_ss().ok());
    texts.into_iter().flatten().cloned().collect()
}

/// The row with which a Java worker of 3.x marks a new application: in use by 3.x only, with one entry of history. The
/// application's name is ours.
pub(crate) fn client_version_item(application: &ApplicationName, worker: &WorkerId, now: Timestamp) -> Item {
    let state = |version: &str| {
        let mut state = Item::new();
        put(&mut state, attributes::CLIENT_VERSION, s(version));
        put(&mut state, attributes::MODIFIED_BY, s(worker));
        put(&mut state, attributes::MODIFIED_MILLIS, n(now.as_millis()));
        state
    };
    let first = AttributeValue::M(state(attributes::CLIENT_VERSION_INIT).into_iter().collect());
    let mut item = state(attributes::CLIENT_VERSION_3X);
    put(&mut item, attributes::KEY, s(attributes::CLIENT_VERSION_KEY));
    put(
        &mut item,
        attributes::ENTITY_TYPE,
        s(attributes::CLIENT_VERSION_ENTITY),
    );
    put(&mut item, attributes::HISTORY, AttributeValue::L(vec![first]));
    put(&mut item, attributes::APPLICATION, s(application));
    item
}
