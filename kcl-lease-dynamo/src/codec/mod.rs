//! Rows of the table to values and back, byte-compatible with the Java KCL 3.5.

mod lease;
mod lock;
mod migration;
mod orders;
mod worker;

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use kcl_core::lease_store::Undecodable;
use kcl_core::types::Incarnation;

use crate::attributes;

pub(crate) use lease::{
    creation_item, decode_lease, finished_ahead_value, report_value, state_value, string_set, throughput_text,
};
pub(crate) use lock::{decode_lock, encode_lock};
pub(crate) use migration::{
    application, client_version, client_version_item, observed_java_rows, table_migration,
};
pub(crate) use orders::{lease_orders_value, worker_orders_value};
pub(crate) use worker::{decode_worker, worker_attributes};

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod written_rows;

/// One row: attribute names in order, so that expressions and errors come out the same each time.
pub(crate) type Item = BTreeMap<String, AttributeValue>;

/// The kind of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowKind {
    Lease,
    Worker,
    Lock,
    /// A migration state, a stream, or something that only a later version knows.
    Other,
}

/// Classifies a row without reading the rest.
///
/// Rows of before KCL 3.5 have no `entityType`: they are leases, but for those whose key is a reserved word.
pub(crate) fn kind(item: &Item) -> RowKind {
    match optional_text(item, attributes::ENTITY_TYPE) {
        Ok(Some(attributes::LEASE_ENTITY)) => RowKind::Lease,
        Ok(Some(attributes::WORKER_ENTITY)) => RowKind::Worker,
        Ok(Some(attributes::LEADER_ENTITY)) => RowKind::Lock,
        Ok(Some(_)) | Err(_) => RowKind::Other,
        Ok(None) => match key_of(item) {
            attributes::LEADER_KEY => RowKind::Lock,
            attributes::CLIENT_VERSION_KEY | attributes::TABLE_MIGRATION_KEY => RowKind::Other,
            _ => RowKind::Lease,
        },
    }
}

/// The key of a row, or an empty text when it has none of the right type.
pub(crate) fn key_of(item: &Item) -> &str {
    optional_text(item, attributes::KEY)
        .ok()
        .flatten()
        .unwrap_or_default()
}

/// Why a row could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("attribute {0} is missing")]
    Missing(&'static str),
    #[error("attribute {0} is not of type {1}")]
    Type(&'static str, &'static str),
    #[error("attribute {0}: {1}")]
    Value(&'static str, String),
}

impl DecodeError {
    /// The error as a scan reports it.
    pub(crate) fn of_row(&self, item: &Item) -> Undecodable {
        Undecodable {
            key: key_of(item).to_owned(),
            problem: self.to_string(),
        }
    }
}

type Decoded<T> = Result<T, DecodeError>;

fn optional_text<'a>(item: &'a Item, name: &'static str) -> Decoded<Option<&'a str>> {
    let wrong_type = |_| DecodeError::Type(name, "S");
    let value = item.get(name).map(AttributeValue::as_s).transpose();
    Ok(value.map_err(wrong_type)?.map(String::as_str))
}

/// A text that the row must have.
fn text<'a>(item: &'a Item, name: &'static str) -> Decoded<&'a str> {
    optional_text(item, name)?.ok_or(DecodeError::Missing(name))
}

fn parse<T>(name: &'static str, text: &str) -> Decoded<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse()
        .map_err(|error: T::Err| DecodeError::Value(name, error.to_string()))
}

fn optional_parsed<T>(item: &Item, name: &'static str) -> Decoded<Option<T>>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    optional_text(item, name)?
        .map(|text| parse(name, text))
        .transpose()
}

fn optional_number<T>(item: &Item, name: &'static str) -> Decoded<Option<T>>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let wrong_type = |_| DecodeError::Type(name, "N");
    let digits = item.get(name).map(AttributeValue::as_n).transpose();
    digits
        .map_err(wrong_type)?
        .map(|digits| parse(name, digits))
        .transpose()
}

/// A number that the row must have.
fn number<T>(item: &Item, name: &'static str) -> Decoded<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    optional_number(item, name)?.ok_or(DecodeError::Missing(name))
}

/// An attribute of type S.
pub(crate) fn s(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

/// An attribute of type N.
pub(crate) fn n(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(crate) fn put(item: &mut Item, name: &str, value: AttributeValue) {
    item.insert(name.to_owned(), value);
}

fn put_some(item: &mut Item, name: &str, value: Option<AttributeValue>) {
    if let Some(value) = value {
        put(item, name, value);
    }
}

fn incarnation(item: &Item, name: &'static str) -> Decoded<Option<Incarnation>> {
    optional_parsed(item, name)
}
