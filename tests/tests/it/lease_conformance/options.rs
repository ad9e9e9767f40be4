//! The options of a table on a real server.

use aws_sdk_dynamodb::types::{BillingMode, PointInTimeRecoveryStatus};
use kcl_core::lease_store::LeaseStore as _;
use kcl_lease_dynamo::{Billing, TableOptions};
use kcl_tests::testbed_or_skip;

use crate::lease_conformance::backends::Backend;

/// DynamoDB Local knows neither tags nor backups nor deletion protection.
fn knows_all_options(backend: &Backend) -> bool {
    !backend.server.contains("dynamodb-local")
}

#[tokio::test]
async fn a_table_is_made_as_the_options_say() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "options") {
        let options = TableOptions {
            billing: Billing::Provisioned {
                read_units: 7,
                write_units: 9,
            },
            point_in_time_recovery: true,
            deletion_protection: true,
            tags: [("team".to_owned(), "trucks".to_owned())].into(),
            ..TableOptions::default()
        };
        let server = &backend.server;
        let options = if knows_all_options(&backend) {
            options
        } else {
            TableOptions {
                billing: options.billing,
                ..TableOptions::default()
            }
        };
        // A second start finds everything as it should be.
        for _ in 0..2 {
            let store = backend.store().table_options(options.clone());
            store.prepare(&backend.preparation()).await.unwrap();
        }
        let sdk = backend.sdk();
        let table = sdk.describe_table().table_name(&backend.table).send().await;
        let table = table.unwrap().table.unwrap();
        let mode = table
            .billing_mode_summary()
            .and_then(|summary| summary.billing_mode());
        assert_ne!(mode, Some(&BillingMode::PayPerRequest), "{server}");
        let of_table = table.provisioned_throughput().unwrap();
        let of_index = table.global_secondary_indexes()[0]
            .provisioned_throughput()
            .unwrap();
        for units in [of_table, of_index] {
            let units = (units.read_capacity_units(), units.write_capacity_units());
            assert_eq!(units, (Some(7), Some(9)), "{server}");
        }
        if !knows_all_options(&backend) {
            continue;
        }
        assert_eq!(table.deletion_protection_enabled(), Some(true), "{server}");
        let backups = sdk.describe_continuous_backups().table_name(&backend.table);
        let backups = backups
            .send()
            .await
            .unwrap()
            .continuous_backups_description
            .unwrap();
        let recovery = backups.point_in_time_recovery_description().unwrap();
        assert_eq!(
            recovery.point_in_time_recovery_status(),
            Some(&PointInTimeRecoveryStatus::Enabled),
            "{server}"
        );
        let tags = sdk
            .list_tags_of_resource()
            .resource_arn(table.table_arn().unwrap());
        let tags = tags.send().await.unwrap().tags.unwrap();
        let tags = tags.iter().map(|tag| (tag.key(), tag.value()));
        assert_eq!(tags.collect::<Vec<_>>(), [("team", "trucks")], "{server}");
    }
}
