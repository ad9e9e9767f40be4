//! The lease table, read as anybody may read it: without our own crates.

use std::collections::BTreeMap;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;

/// The owner of each lease of a single-stream application, by shard. Rows of workers and of the leader are left out.
///
/// # Errors
///
/// The table cannot be read.
pub async fn owners(config: &SdkConfig, table: &str) -> Result<BTreeMap<String, Option<String>>, String> {
    let client = Client::new(config);
    let mut pages = client
        .scan()
        .table_name(table)
        .consistent_read(true)
        .into_paginator()
        .items()
        .send();
    let mut owners = BTreeMap::new();
    while let Some(item) = pages.next().await {
        let item = item.map_err(|error| format!("{table}: {error:?}"))?;
        let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned();
        match text("leaseKey") {
            Some(key) if key.starts_with("shardId-") => owners.insert(key, text("leaseOwner")),
            _ => None,
        };
    }
    Ok(owners)
}

/// The worker that holds the leader's lock, if somebody does.
///
/// # Errors
///
/// The table cannot be read.
pub async fn leader(config: &SdkConfig, table: &str) -> Result<Option<String>, String> {
    let key = AttributeValue::S("Leader".to_owned());
    let lock = Client::new(config)
        .get_item()
        .table_name(table)
        .key("leaseKey", key)
        .consistent_read(true)
        .send()
        .await;
    let lock = lock.map_err(|error| format!("{table}: {error:?}"))?;
    Ok(lock
        .item()
        .and_then(|item| item.get("ownerName"))
        .and_then(|owner| owner.as_s().ok())
        .cloned())
}
