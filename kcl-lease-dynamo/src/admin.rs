//! The calls on the table itself, each with one attempt and a deadline of ours.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodb::types::{
    PointInTimeRecoverySpecification, PointInTimeRecoveryStatus, TableDescription,
};
use kcl_core::lease_store::{StoreError, StoreErrorKind};

use crate::client::TableClient;
use crate::errors::{Failure, Request};
use crate::options::{Billing, TableOptions};
use crate::{attributes, permissions, table};

impl TableClient {
    /// Describes a table of the account.
    pub(crate) async fn describe(&self, table: &str) -> Result<TableDescription, Failure> {
        let request = Request {
            action: permissions::DESCRIBE_TABLE,
            table,
        };
        let call = self.sdk().describe_table().table_name(table);
        let described = self
            .call(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        described.table.ok_or_else(|| {
            StoreError::unknown(
                StoreErrorKind::Unavailable,
                format!("{request}: the answer describes no table"),
            )
            .into()
        })
    }

    /// Asks for the table, with its index if it is the lease table.
    pub(crate) async fn create(&self, options: &TableOptions) -> Result<(), Failure> {
        let tags = table::tags(options)?;
        let has_index = self.key() == attributes::KEY;
        let index = has_index
            .then(|| table::owner_index(options.billing))
            .transpose()?;
        let call = self
            .sdk()
            .create_table()
            .table_name(&self.table)
            .set_attribute_definitions(Some(table::attribute_definitions(self.key())?))
            .set_key_schema(Some(table::table_key(self.key())?))
            .set_global_secondary_indexes(index.map(|index| vec![index]))
            .billing_mode(table::billing_mode(options.billing))
            .set_provisioned_throughput(table::throughput(options.billing)?)
            .set_deletion_protection_enabled(options.deletion_protection.then_some(true))
            .set_tags((!tags.is_empty()).then_some(tags));
        let request = self.request(permissions::CREATE_TABLE);
        match self
            .attempt_once(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?
        {
            Ok(_) => Ok(()),
            // Another worker was faster.
            Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
            Err(error) => Err(request.failed(error)),
        }
    }

    /// Asks for the owner index on a table that is there without it. It is filled while the table is in use.
    pub(crate) async fn add_index(&self, billing: Billing) -> Result<(), Failure> {
        let call = self
            .sdk()
            .update_table()
            .table_name(&self.table)
            .set_attribute_definitions(Some(table::attribute_definitions(self.key())?))
            .global_secondary_index_updates(table::missing_index(billing)?);
        let request = self.request(permissions::UPDATE_TABLE);
        match self
            .attempt_once(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?
        {
            Ok(_) => Ok(()),
            // Another worker was faster.
            Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
            Err(error) => Err(request.failed(error)),
        }
    }

    /// Whether the table can be restored to a point in time.
    pub(crate) async fn is_recoverable(&self) -> Result<bool, Failure> {
        let call = self.sdk().describe_continuous_backups().table_name(&self.table);
        let described = self
            .call(self.request(permissions::DESCRIBE_BACKUPS), |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        let description = described.continuous_backups_description;
        let recovery = description.and_then(|backups| backups.point_in_time_recovery_description);
        Ok(
            recovery.and_then(|recovery| recovery.point_in_time_recovery_status)
                == Some(PointInTimeRecoveryStatus::Enabled),
        )
    }

    /// Lets the table be restored to a point in time from now on.
    pub(crate) async fn make_recoverable(&self) -> Result<(), Failure> {
        let enabled = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true);
        let call = self
            .sdk()
            .update_continuous_backups()
            .table_name(&self.table)
            .point_in_time_recovery_specification(enabled.build().map_err(table::invalid)?);
        self.call(self.request(permissions::UPDATE_BACKUPS), |attempt| {
            call.clone().customize().interceptor(attempt).send()
        })
        .await?;
        Ok(())
    }

    /// The tags of the table with this ARN.
    pub(crate) async fn tags(&self, arn: &str) -> Result<BTreeMap<String, String>, Failure> {
        let mut tags = BTreeMap::new();
        let mut next = None;
        loop {
            let call = self
                .sdk()
                .list_tags_of_resource()
                .resource_arn(arn)
                .set_next_token(next);
            let page = self
                .call(self.request(permissions::LIST_TAGS), |attempt| {
                    call.clone().customize().interceptor(attempt).send()
                })
                .await?;
            tags.extend(page.tags.into_iter().flatten().map(|tag| (tag.key, tag.value)));
            next = page.next_token;
            if next.is_none() {
                return Ok(tags);
            }
        }
    }
}
