//! The way back: takes out of the lease table what a Java KCL before 3.5 cannot read.

use std::time::Duration;

use kcl_core::clock::ClockExt as _;
use kcl_core::lease_store::{Lease, StoreError, StoreErrorKind, WorkerRow};
use kcl_core::types::ApplicationName;

use crate::client::{TableClient, WriteOutcome};
use crate::codec::{Item, RowKind, key_of, kind};
use crate::expression::delete_if_unchanged;
use crate::scan::{self, TableRows};
use crate::{DynamoLeaseStore, attributes, java_watch, ownership_check};

/// How often the rows of workers are looked at while they are watched.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The report of [`DynamoLeaseStore::prepare_for_java`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PreparedForJava {
    /// The keys of the rows that were removed from the lease table.
    pub removed: Vec<String>,
    /// The keys of rows that are no leases and that this library does not know. A Java KCL before 3.5 cannot start while they are there:
    /// remove them by hand if they are not needed.
    pub left: Vec<String>,
}

impl DynamoLeaseStore {
    /// Prepares the lease table for a Java KCL of 2.x, or of 3.0 to 3.4, once the last worker of this library has stopped or died: leaves
    /// nothing in it but leases, with their checkpoints.
    ///
    /// It removes the rows of the workers, the leader lock and the mark of the client version from the lease table; a Java KCL before 3.5
    /// fails at its start on each of them. It touches no lease. An application whose leases are
    /// [in a table of their own](crate::TableLayout::ThreeTables) needs this call only for a way back to 2.x, and an application that
    /// goes back to a Java KCL 3.5 does not need it at all.
    ///
    /// A later start of this library takes the table for one of Java, and asks for `take_over_java` once more.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Foreign`] while a worker is alive: the rows of workers that are still there are watched for the failover
    /// time that they show, and those of Java workers for 35 s. Every other kind of a [`StoreError`]; calling again goes on from there.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave some of the rows removed; calling again removes the rest.
    pub async fn prepare_for_java(&self, of: &ApplicationName) -> Result<PreparedForJava, StoreError> {
        let client = &self.client;
        let rows = scan::scan(client, self.scan_segments).await?;
        let migration = client.get(attributes::CLIENT_VERSION_KEY).await?;
        ownership_check::check_application(&client.table, of, migration.as_ref())?;
        self.refuse_live(&rows).await?;

        let mut report = PreparedForJava::default();
        for item in other_rows(client).await? {
            let (attribute, known) = match kind(&item) {
                RowKind::Lease => continue,
                RowKind::Worker => (attributes::UPDATED_SECS, true),
                RowKind::Lock => (attributes::LOCK_VERSION, true),
                RowKind::Other => (
                    attributes::CLIENT_VERSION,
                    key_of(&item) == attributes::CLIENT_VERSION_KEY,
                ),
            };
            let key = key_of(&item).to_owned();
            if !known {
                report.left.push(key);
                continue;
            }
            let removed = delete_if_unchanged(&key, attribute, item.get(attribute).cloned());
            match client.write(removed).await? {
                WriteOutcome::Applied(_) => report.removed.push(key),
                WriteOutcome::Refused(None) => {}
                WriteOutcome::Refused(Some(_)) => return Err(alive(&format!("row {key}"))),
            }
        }
        tracing::info!(table = %client.table, removed = ?report.removed, left = ?report.left, "prepared the table for Java");
        Ok(report)
    }

    /// Watches the rows of workers for the longest failover time that they show.
    async fn refuse_live(&self, rows: &TableRows) -> Result<(), StoreError> {
        let workers = &rows.scan.workers;
        let longest = workers
            .iter()
            .map(|row| {
                row.failover.map_or(java_watch::WORKER_WATCH, |failover| {
                    failover.min(Lease::LONGEST_FAILOVER)
                })
            })
            .max();
        let Some(longest) = longest else { return Ok(()) };
        let clock = &self.client.clock;
        let end = clock.now() + longest;
        while clock.now() < end {
            clock.sleep(WATCH_INTERVAL).await;
            let later = scan::scan(&self.client, self.scan_segments).await?;
            let moved = later
                .scan
                .workers
                .iter()
                .find(|row| !workers.iter().any(|before| is_still(before, row)));
            if let Some(row) = moved {
                return Err(alive(&format!("the row of worker {}", row.id)));
            }
        }
        Ok(())
    }
}

fn is_still(before: &WorkerRow, row: &WorkerRow) -> bool {
    before.id == row.id && before.touches >= row.touches && before.updated >= row.updated
}

fn alive(what: &str) -> StoreError {
    let message =
        format!("{what} was written a moment ago: stop every worker, and prepare the table for Java then");
    StoreError::definite(StoreErrorKind::Foreign, message)
}

/// All rows of the lease table that are no leases.
async fn other_rows(client: &TableClient) -> Result<Vec<Item>, StoreError> {
    let (mut rows, mut start) = (Vec::new(), None);
    loop {
        let page = client.scan_page(0, 1, start).await?;
        rows.extend(page.items.into_iter().filter(|item| kind(item) != RowKind::Lease));
        start = page.next;
        if start.is_none() {
            return Ok(rows);
        }
    }
}
