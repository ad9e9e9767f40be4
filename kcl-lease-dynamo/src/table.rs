//! The table: describing, creating, and refusing one that is not meant for us.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, CreateGlobalSecondaryIndexAction, GlobalSecondaryIndex,
    GlobalSecondaryIndexUpdate, IndexStatus, KeySchemaElement, KeyType, Projection, ProjectionType,
    ProvisionedThroughput, ScalarAttributeType, TableDescription, TableStatus, Tag,
};
use kcl_core::lease_store::{StoreError, StoreErrorKind};

use crate::attributes;
use crate::options::{Billing, TableOptions};

/// The known facts about a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableState {
    /// Whether it can be read and written.
    pub(crate) usable: bool,
    /// The status in the service's words.
    pub(crate) status: String,
    /// The owner index.
    pub(crate) index: OwnerIndexStatus,
    /// The facts beyond that; `None` where the table may not be described.
    pub(crate) features: Option<TableSettings>,
    /// The key, in words.
    key: Option<String>,
}

/// The properties of a table that options can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableSettings {
    pub(crate) arn: Option<String>,
    pub(crate) billing: Billing,
    pub(crate) deletion_protection: bool,
}

/// How the owner index stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnerIndexStatus {
    Missing,
    /// It is being filled or removed.
    Building,
    Active,
    /// An index of the name has other keys than ours.
    WrongKeys,
    /// The table may not be described; whoever asks the index will see.
    Unknown,
}

impl OwnerIndexStatus {
    /// Whether asking it is worth a try.
    pub(crate) fn may_be_queried(self) -> bool {
        matches!(self, Self::Active | Self::Unknown)
    }

    fn of(description: &TableDescription) -> Self {
        let indexes = description.global_secondary_indexes();
        let found = indexes
            .iter()
            .find(|index| index.index_name() == Some(attributes::OWNER_INDEX));
        let Some(index) = found else {
            return Self::Missing;
        };
        let key = index.key_schema();
        let key = key
            .iter()
            .map(|element| (element.attribute_name(), element.key_type()));
        if key.collect::<Vec<_>>()
            != [
                (attributes::OWNER, &KeyType::Hash),
                (attributes::KEY, &KeyType::Range),
            ]
        {
            return Self::WrongKeys;
        }
        match index.index_status() {
            Some(&IndexStatus::Active) => Self::Active,
            _ => Self::Building,
        }
    }
}

impl TableState {
    /// The content of a description.
    pub(crate) fn of(description: &TableDescription) -> Self {
        let status = description.table_status();
        Self {
            usable: matches!(status, Some(TableStatus::Active | TableStatus::Updating)),
            status: status.map_or("UNKNOWN", TableStatus::as_str).to_owned(),
            index: OwnerIndexStatus::of(description),
            features: Some(TableSettings {
                arn: description.table_arn().map(str::to_owned),
                billing: billing(description),
                deletion_protection: description.deletion_protection_enabled().unwrap_or(false),
            }),
            key: Some(key(description)),
        }
    }

    /// A table that can be used, but may not be described.
    pub(crate) fn undescribed() -> Self {
        Self {
            usable: true,
            status: "unknown, because dynamodb:DescribeTable is not granted".to_owned(),
            index: OwnerIndexStatus::Unknown,
            features: None,
            key: None,
        }
    }

    /// Whether the table is at rest, so that it can be changed.
    pub(crate) fn is_active(&self) -> bool {
        self.status == TableStatus::Active.as_str()
    }

    /// Refuses a table with another key than a lease table's.
    pub(crate) fn check_key(&self, table: &str) -> Result<(), StoreError> {
        let Some(found) = self
            .key
            .as_ref()
            .filter(|key| **key != right_key(attributes::KEY))
        else {
            return Ok(());
        };
        let message = format!(
            "table {table} is not a lease table: its key is {found}, and a lease table's is the partition key \
             {} of type S alone; give the store the name of another table, or of one that does not exist yet",
            attributes::KEY
        );
        Err(StoreError::definite(StoreErrorKind::Foreign, message))
    }

    /// Refuses a table that has the name of one of the Java KCL's, and another key.
    pub(crate) fn check_java_key(&self, key: &str, table: &str) -> Result<(), StoreError> {
        let Some(found) = self.key.as_ref().filter(|found| **found != right_key(key)) else {
            return Ok(());
        };
        let message = format!(
            "table {table} has the key {found}, and the Java KCL's table of this name has the partition key {key} of type S alone; \
             remove that table, or use another application name"
        );
        Err(StoreError::definite(StoreErrorKind::Foreign, message))
    }
}

/// The one key of type S, in words.
fn right_key(name: &str) -> String {
    format!("HASH {name} of type S")
}

fn key(description: &TableDescription) -> String {
    let definitions = description.attribute_definitions();
    let kind_of = |name: &str| {
        let definition = definitions
            .iter()
            .find(|definition| definition.attribute_name() == name);
        definition.map_or("?", |definition| definition.attribute_type().as_str())
    };
    let key = description.key_schema();
    let parts = key.iter().map(|element| {
        let name = element.attribute_name();
        format!("{} {name} of type {}", element.key_type().as_str(), kind_of(name))
    });
    parts.collect::<Vec<_>>().join(" and ")
}

/// The attributes that are keys of a table with this partition key, or of the lease table's index.
pub(crate) fn attribute_definitions(key: &str) -> Result<Vec<AttributeDefinition>, StoreError> {
    let indexed = (key == attributes::KEY).then_some(attributes::OWNER);
    [key]
        .into_iter()
        .chain(indexed)
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
pub(crate) fn table_key(key: &str) -> Result<Vec<KeySchemaElement>, StoreError> {
    Ok(vec![key_element(key, KeyType::Hash)?])
}

/// The index by owner, as the Java KCL defines it; created with the table so that nobody ever waits for a backfill.
pub(crate) fn owner_index(billing: Billing) -> Result<GlobalSecondaryIndex, StoreError> {
    GlobalSecondaryIndex::builder()
        .index_name(attributes::OWNER_INDEX)
        .set_key_schema(Some(index_key()?))
        .projection(keys_only())
        .set_provisioned_throughput(throughput(billing)?)
        .build()
        .map_err(invalid)
}

/// The same index for a table that is there without it.
pub(crate) fn missing_index(billing: Billing) -> Result<GlobalSecondaryIndexUpdate, StoreError> {
    let create = CreateGlobalSecondaryIndexAction::builder()
        .index_name(attributes::OWNER_INDEX)
        .set_key_schema(Some(index_key()?))
        .projection(keys_only())
        .set_provisioned_throughput(throughput(billing)?)
        .build()
        .map_err(invalid)?;
    Ok(GlobalSecondaryIndexUpdate::builder().create(create).build())
}

fn index_key() -> Result<Vec<KeySchemaElement>, StoreError> {
    Ok(vec![
        key_element(attributes::OWNER, KeyType::Hash)?,
        key_element(attributes::KEY, KeyType::Range)?,
    ])
}

/// A worker looks for keys alone, and reads the rows themselves strongly.
fn keys_only() -> Projection {
    Projection::builder()
        .projection_type(ProjectionType::KeysOnly)
        .build()
}

/// The billing mode as the service names it.
pub(crate) fn billing_mode(billing: Billing) -> BillingMode {
    match billing {
        Billing::OnDemand => BillingMode::PayPerRequest,
        Billing::Provisioned { .. } => BillingMode::Provisioned,
    }
}

/// The units of a provisioned table, or of its index.
pub(crate) fn throughput(billing: Billing) -> Result<Option<ProvisionedThroughput>, StoreError> {
    let Billing::Provisioned {
        read_units,
        write_units,
    } = billing
    else {
        return Ok(None);
    };
    ProvisionedThroughput::builder()
        .read_capacity_units(read_units.into())
        .write_capacity_units(write_units.into())
        .build()
        .map(Some)
        .map_err(invalid)
}

/// The billing in a description. A table that was never on demand may have no summary for that.
fn billing(description: &TableDescription) -> Billing {
    let mode = description
        .billing_mode_summary()
        .and_then(|summary| summary.billing_mode());
    let units = description.provisioned_throughput();
    let number = |units: Option<i64>| u32::try_from(units.unwrap_or(0)).unwrap_or(u32::MAX);
    let read_units = number(units.and_then(|units| units.read_capacity_units()));
    let write_units = number(units.and_then(|units| units.write_capacity_units()));
    // A table on demand has units too: none.
    if mode == Some(&BillingMode::PayPerRequest) || read_units == 0 || write_units == 0 {
        Billing::OnDemand
    } else {
        Billing::Provisioned {
            read_units,
            write_units,
        }
    }
}

/// The tags in the service's form.
pub(crate) fn tags(options: &TableOptions) -> Result<Vec<Tag>, StoreError> {
    let tag = |(key, value)| Tag::builder().key(key).value(value).build().map_err(invalid);
    options.tags.iter().map(tag).collect()
}

/// The table that the options describe, for whoever makes it by hand.
pub(crate) fn manual_setup(options: &TableOptions, key: &str) -> String {
    let mut parts = vec![format!("the partition key {key} of type S and no sort key")];
    parts.extend((key == attributes::KEY).then(manual_index));
    parts.push(format!("billed {}", options.billing));
    if options.point_in_time_recovery {
        parts.push("with point-in-time recovery".to_owned());
    }
    if options.deletion_protection {
        parts.push("with deletion protection".to_owned());
    }
    let tags = options.tags.iter().map(|(key, value)| format!("{key}={value}"));
    if !options.tags.is_empty() {
        parts.push(format!("with the tags {}", tags.collect::<Vec<_>>().join(", ")));
    }
    parts.join("; ")
}

/// The owner index, for whoever makes it by hand.
pub(crate) fn manual_index() -> String {
    format!(
        "the global secondary index {} with the partition key {} of type S, the sort key {} of type S and the projection KEYS_ONLY",
        attributes::OWNER_INDEX,
        attributes::OWNER,
        attributes::KEY
    )
}

fn key_element(name: &str, kind: KeyType) -> Result<KeySchemaElement, StoreError> {
    KeySchemaElement::builder()
        .attribute_name(name)
        .key_type(kind)
        .build()
        .map_err(invalid)
}

/// The SDK's builders refuse what lacks a required part; ours never do.
pub(crate) fn invalid(error: aws_sdk_dynamodb::error::BuildError) -> StoreError {
    StoreError::definite(StoreErrorKind::Invalid, "a table definition lacks a part").with_source(error)
}
