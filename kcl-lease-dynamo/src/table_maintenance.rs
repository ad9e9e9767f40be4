//! A table that can be worked with and is not all that the options ask for: what can be added is added, the rest is said once.

use std::time::Duration;

use kcl_core::clock::{ClockExt as _, Moment};
use kcl_core::lease_store::{Certainty, StoreErrorKind};
use kcl_core::types::WorkerId;

use crate::client::{IndexPage, TableClient};
use crate::errors::Failure;
use crate::options::{Billing, TableOptions};
use crate::table::{self, OwnerIndexStatus, TableSettings, TableState};
use crate::{attributes, permissions};

/// How long a table that has just been made may refuse point-in-time recovery, and how often it is asked again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);
const RECOVERY_INTERVAL: Duration = Duration::from_millis(200);

/// Adds what is missing and may be added, and says what is not as the options ask. The table can be worked with in any case.
pub(crate) async fn complete(
    client: &TableClient,
    options: &TableOptions,
    worker: &WorkerId,
    table: &TableState,
    deadline: Moment,
) {
    let mut findings = Vec::new();
    // A table whose index is being added is not at rest any more, and recovery wants one that is.
    if options.point_in_time_recovery {
        findings.extend(recovery(client, table, deadline).await);
    }
    findings.extend(index(client, worker, table).await);
    if let Some(features) = &table.features {
        findings.extend(differences(features, options));
        findings.extend(tags(client, options, features).await);
    }
    if !findings.is_empty() {
        tracing::warn!(
            table = %client.table,
            "the lease table is used as it is, though {}",
            findings.join("; ")
        );
    }
}

async fn index(client: &TableClient, worker: &WorkerId, table: &TableState) -> Option<String> {
    const COST: &str = "so that every look for newly assigned leases reads the whole table";
    let lacks = format!("it lacks the index {}, {COST}", attributes::OWNER_INDEX);
    match (table.index, &table.features) {
        (OwnerIndexStatus::WrongKeys, _) => Some(format!(
            "its index {} has other keys than {}; remove that index",
            attributes::OWNER_INDEX,
            table::manual_index()
        )),
        (OwnerIndexStatus::Missing, Some(features)) if table.is_active() => {
            let error = match client.add_index(features.billing).await {
                Ok(()) => {
                    tracing::info!(table = %client.table, index = attributes::OWNER_INDEX, "adding the owner index");
                    return None;
                }
                Err(error) => error,
            };
            let manual_setup = format!("add {}", table::manual_index());
            Some(format!(
                "{lacks}: {}",
                remedy(client, &error, permissions::UPDATE_TABLE, &manual_setup)
            ))
        }
        (OwnerIndexStatus::Missing, _) => Some(format!(
            "{lacks}: it could not be added because the table is {}; the next start tries again",
            table.status
        )),
        (OwnerIndexStatus::Active | OwnerIndexStatus::Unknown, _) => {
            let asked = client.owned_page(worker.as_str(), None).await;
            let denied = matches!(asked, Ok(IndexPage::Denied));
            denied.then(|| {
                let arn = permissions::index_arn(&client.arn());
                format!(
                    "its index may not be asked, {COST}: grant {} on {arn}",
                    permissions::QUERY
                )
            })
        }
        (OwnerIndexStatus::Building, _) => None,
    }
}

/// The properties that belong to the maker of the table, and are not changed.
///
/// On demand is the default and no request; and more protection than was asked for is no fault.
fn differences(features: &TableSettings, options: &TableOptions) -> Vec<String> {
    let mut differences = Vec::new();
    if matches!(options.billing, Billing::Provisioned { .. }) && features.billing != options.billing {
        differences.push(format!(
            "it is billed {}, and the options say {}",
            features.billing, options.billing
        ));
    }
    if options.deletion_protection && !features.deletion_protection {
        differences.push("it has no deletion protection, and the options ask for it".to_owned());
    }
    differences
}

async fn tags(client: &TableClient, options: &TableOptions, features: &TableSettings) -> Option<String> {
    if options.tags.is_empty() {
        return None;
    }
    let found = match client.tags(features.arn.as_ref()?).await {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(table = %client.table, %error, "the tags of the table cannot be seen");
            return None;
        }
    };
    let wanted = options.tags.iter();
    let missing = wanted.filter(|(key, value)| found.get(*key) != Some(*value));
    let missing = missing
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>();
    (!missing.is_empty()).then(|| format!("it lacks the tags {}", missing.join(", ")))
}

/// Switches point-in-time recovery on, where it is not on already. A table that is not ACTIVE refuses, and one that has just been
/// made may do so a little longer.
async fn recovery(client: &TableClient, table: &TableState, deadline: Moment) -> Option<String> {
    let patience = deadline.min(client.clock.now() + RECOVERY_TIMEOUT);
    match client.is_recoverable().await {
        Ok(true) => return None,
        // Whoever may not look may still be allowed to act.
        Ok(false) => {}
        Err(failure) if failure.not_granted => {}
        Err(failure) => return Some(format!("its point-in-time recovery is unknown: {failure}")),
    }
    if table.features.is_some() && !table.is_active() {
        return Some(format!(
            "its point-in-time recovery is off, and could not be switched on because the table is {}; the next start tries again",
            table.status
        ));
    }
    loop {
        let failure = match client.make_recoverable().await {
            Ok(()) => {
                tracing::info!(table = %client.table, "point-in-time recovery is on");
                return None;
            }
            Err(failure) => failure,
        };
        let error = &failure.error;
        let not_yet = error.kind() == StoreErrorKind::Unavailable && error.certainty() == Certainty::Definite;
        if !not_yet || client.clock.now() + RECOVERY_INTERVAL > patience {
            let remedy = remedy(client, &failure, permissions::UPDATE_BACKUPS, "switch it on");
            return Some(format!(
                "its point-in-time recovery could not be switched on: {remedy}"
            ));
        }
        client.clock.sleep(RECOVERY_INTERVAL).await;
    }
}

fn remedy(
    client: &TableClient,
    failure: &Failure,
    action: permissions::IamAction,
    manual_setup: &str,
) -> String {
    if failure.not_granted {
        format!("grant {action} on {}, or {manual_setup} by hand", client.arn())
    } else {
        failure.to_string()
    }
}
