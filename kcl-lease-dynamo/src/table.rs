//! The table: describing, creating, and refusing one that is not meant for us.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, IndexStatus, KeySchemaElement, KeyType,
    Projection, ProjectionType, ScalarAttributeType, TableDescription, TableStatus,
};
use kcl_core::lease::{StoreError, StoreErrorKind};

use crate::attr;

/// What is known of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Whether it can be read and written.
    pub(crate) usable: bool,
    /// The status in the service's words.
    pub(crate) status: String,
    /// Whether the owner index can be asked.
    pub(crate) index_active: bool,
    /// What the key is, in words, if it is not what a lease table needs.
    wrong_key: Option<String>,
}

impl Table {
    /// What a description says.
    pub(crate) fn of(description: &TableDescription) -> Self {
        let status = description.table_status();
        let indexes = description.global_secondary_indexes();
        let owner_index = indexes
            .iter()
            .find(|index| index.index_name() == Some(attr::OWNER_INDEX));
        Self {
            usable: matches!(status, Some(TableStatus::Active | TableStatus::Updating)),
            status: status.map_or("UNKNOWN", TableStatus::as_str).to_owned(),
            index_active: owner_index.is_some_and(|index| index.index_status() == Some(&IndexStatus::Active)),
            wrong_key: wrong_key(description),
        }
    }

    /// A table that can be used, but may not be described.
    pub(crate) fn undescribed() -> Self {
        Self {
            usable: true,
            status: "unknown, because dynamodb:DescribeTable is not granted".to_owned(),
            index_active: false,
            wrong_key: None,
        }
    }

    /// Refuses a table with another key than ours.
    pub(crate) fn check_key(&self, table: &str) -> Result<(), StoreError> {
        let Some(found) = &self.wrong_key else {
            return Ok(());
        };
        let message = format!(
            "table {table} is not a lease table: its key is {found}, and a lease table's is the partition key \
             {} of type S alone; give the store the name of another table, or of one that does not exist yet",
            attr::KEY
        );
        Err(StoreError::definite(StoreErrorKind::Foreign, message))
    }
}

fn wrong_key(description: &TableDescription) -> Option<String> {
    let definitions = description.attribute_definitions();
    let kind_of = |name: &str| {
        let definition = definitions
            .iter()
            .find(|definition| definition.attribute_name() == name);
        definition.map_or("?", |definition| definition.attribute_type().as_str())
    };
    let key = description.key_schema();
    let is_ours = |element: &KeySchemaElement| {
        element.attribute_name() == attr::KEY
            && *element.key_type() == KeyType::Hash
            && kind_of(attr::KEY) == "S"
    };
    if key.len() == 1 && key.iter().all(is_ours) {
        return None;
    }
    let parts = key.iter().map(|element| {
        let name = element.attribute_name();
        format!("{} {name} of type {}", element.key_type().as_str(), kind_of(name))
    });
    Some(parts.collect::<Vec<_>>().join(" and "))
}

/// The attributes that are keys of the table or of its index.
pub(crate) fn attribute_definitions() -> Result<Vec<AttributeDefinition>, StoreError> {
    [attr::KEY, attr::OWNER]
        .into_iter()
        .map(|name| {
            AttributeDefinition::builder()
                .attribute_name(name)
                .attribute_type(ScalarAttributeType::S)
                .build()
                .map_err(invalid)
        })
        .collect()
}

/// The key of the table.
pub(crate) fn table_key() -> Result<Vec<KeySchemaElement>, StoreError> {
    Ok(vec![key_element(attr::KEY, KeyType::Hash)?])
}

/// The index by owner, as the Java KCL defines it; created with the table so that nobody ever waits for a backfill.
pub(crate) fn owner_index() -> Result<GlobalSecondaryIndex, StoreError> {
    GlobalSecondaryIndex::builder()
        .index_name(attr::OWNER_INDEX)
        .key_schema(key_element(attr::OWNER, KeyType::Hash)?)
        .key_schema(key_element(attr::KEY, KeyType::Range)?)
        .projection(
            Projection::builder()
                .projection_type(ProjectionType::KeysOnly)
                .build(),
        )
        .build()
        .map_err(invalid)
}

/// Nobody can say in advance how many shards a stream will have.
pub(crate) const BILLING: BillingMode = BillingMode::PayPerRequest;

fn key_element(name: &str, kind: KeyType) -> Result<KeySchemaElement, StoreError> {
    KeySchemaElement::builder()
        .attribute_name(name)
        .key_type(kind)
        .build()
        .map_err(invalid)
}

/// The SDK's builders refuse what lacks a required part; ours never do.
fn invalid(error: aws_sdk_dynamodb::error::BuildError) -> StoreError {
    StoreError::definite(StoreErrorKind::Invalid, "a table definition lacks a part").with_source(error)
}
