use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use kcl_core::clock::{Clock, Moment, TokioClock};
use kcl_core::lease_store::{
    Capabilities, Expect, LeaderLock, Lease, LeaseChange, LeaseStore, LockChange, LockExpect, LockOutcome,
    Outcome, Preparation, Scan, StoreError, StoreErrorKind, WorkerChange, WorkerOutcome, check_counter,
};
use kcl_core::types::{Incarnation, LeaseKey, WorkerId};

use crate::client::{IndexPage, TableClient, WriteOutcome};
use crate::codec::{DecodeError, Item, RowKind, decode_lease, decode_lock, key_of, kind};
use crate::expression::{MismatchedExpectation, lease_write, lock_write, worker_write};
use crate::layout::Tables;
use crate::options::TableOptions;
use crate::prepare::PrepareOptions;
use crate::{attributes, prepare, scan};

/// How long a call may take unless the user says otherwise: well under a third of the usual failover time of 10 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an index that could not be asked is looked at again.
const INDEX_RECHECK: Duration = Duration::from_secs(30);

/// Leases in a DynamoDB table, in the rows of the Java KCL 3.x.
///
/// The table needs the partition key `leaseKey` of type S. [`prepare`](LeaseStore::prepare) creates it as
/// [`table_options`](Self::table_options) say, with the index `LeaseOwnerToLeaseKeyIndex`; a table that is there already is used,
/// and completed where that is safe and granted. The [crate page](crate#permissions) has the policies of IAM that this takes.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use aws_config::{BehaviorVersion, Region, SdkConfig};
/// use kcl_lease_dynamo::DynamoLeaseStore;
///
/// let aws = SdkConfig::builder()
///     .behavior_version(BehaviorVersion::latest())
///     .region(Region::new("eu-west-1"))
///     .build();
/// let store = DynamoLeaseStore::new(&aws, "truck-tracker").request_timeout(Duration::from_secs(1));
/// assert_eq!(store.table(), "truck-tracker");
/// ```
pub struct DynamoLeaseStore {
    pub(crate) client: TableClient,
    options: TableOptions,
    pub(crate) scan_segments: u32,
    watch: Option<Duration>,
    /// Where everything is, once the store was prepared: a fact of the application, as the index is one of its table.
    tables: Mutex<Option<Arc<Tables>>>,
    index: Mutex<IndexState>,
}

/// The state of the owner index: a fact of the table, remembered so as not to ask for it with each look-up.
#[derive(Debug, Clone, Copy, Default)]
struct IndexState {
    active: bool,
    checked: Option<Moment>,
}

impl fmt::Debug for DynamoLeaseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoLeaseStore")
            .field("client", &self.client)
            .field("options", &self.options)
            .field("scan_segments", &self.scan_segments)
            .finish_non_exhaustive()
    }
}

impl DynamoLeaseStore {
    /// A store in the table of this name, reached with the user's AWS configuration.
    ///
    /// Retries, timeouts and identity cache of the configuration are replaced by the store's own. The table may be named by its ARN; one
    /// of another region than the configuration's is refused at the start.
    pub fn new(config: &SdkConfig, table: impl Into<String>) -> Self {
        Self::from_client(&Client::new(config), table)
    }

    /// A store in the table of this name, reached with a client of the application.
    ///
    /// Retries, timeouts and identity cache of the client are replaced by the store's own, on a copy.
    pub fn from_client(client: &Client, table: impl Into<String>) -> Self {
        let clock = Arc::new(TokioClock::new());
        Self {
            client: TableClient::new(client, table.into(), clock, REQUEST_TIMEOUT),
            options: TableOptions::default(),
            scan_segments: 1,
            watch: None,
            tables: Mutex::default(),
            index: Mutex::default(),
        }
    }

    /// Takes the time from this clock instead of from the runtime: the worker's, where it has another than
    /// [`TokioClock`].
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.client.clock = clock;
        self
    }

    /// How long each call may take before its outcome counts as unknown; 2 s by default.
    ///
    /// Keep it well under a third of the failover time, or one hung call costs the lease. There is one attempt per call: the
    /// worker repeats what may be repeated.
    #[must_use]
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.client.request_timeout = limit;
        self
    }

    /// How the table is made, and what is said of one that is there already; see [`TableOptions`].
    ///
    /// [`prepare`](LeaseStore::prepare) refuses options that are not [valid](TableOptions::validate), before anything is sent.
    #[must_use]
    pub fn table_options(mut self, options: TableOptions) -> Self {
        self.options = options;
        self
    }

    /// In how many parallel parts the table is scanned, from 1 (the default) to 64; other numbers are brought into that range.
    ///
    /// One part reads about 1 MB per request, some thousand leases. More parts make the scan of a larger table faster, at the same
    /// cost for full parts and at one request more for each part that is not full. They do not make the table count as larger: how often it
    /// is scanned follows from how much there is to read.
    #[must_use]
    pub fn scan_segments(mut self, parts: u32) -> Self {
        self.scan_segments = parts.clamp(1, 64);
        self
    }

    /// How long a start watches the rows that Java workers left before it uses their table.
    ///
    /// By default 20 s where these are leases alone, and 35 s where there are rows of workers: enough for a Java KCL whose
    /// `failoverTimeMillis` is at most a minute and whose `workerMetricsReporterFreqInMillis` is the default. A longer failover time
    /// takes a third of that and some seconds. The time counts as a part of `StartSettings::timeout`.
    #[must_use]
    pub fn watch_java_for(mut self, long: Duration) -> Self {
        self.watch = Some(long);
        self
    }

    /// Where everything is. A store that was not prepared takes the lease table for everything.
    fn tables(&self) -> Arc<Tables> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let prepared = tables.as_ref().map(Arc::clone);
        prepared.unwrap_or_else(|| Arc::new(Tables::one(&self.client)))
    }

    pub(crate) fn remember_tables(&self, tables: Tables) {
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tables));
    }

    /// The name of the table.
    pub fn table(&self) -> &str {
        &self.client.table
    }

    fn index(&self) -> IndexState {
        *self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_index(&self, active: bool) {
        let checked = Some(self.client.clock.now());
        *self.index.lock().unwrap_or_else(PoisonError::into_inner) = IndexState { active, checked };
    }

    /// Whether the index can be asked, looked up at most every half minute while it cannot.
    async fn index_is_active(&self) -> Result<bool, StoreError> {
        let index = self.index();
        let now = self.client.clock.now();
        let fresh = index
            .checked
            .is_some_and(|checked| now.saturating_since(checked) < INDEX_RECHECK);
        if index.active || fresh {
            return Ok(index.active);
        }
        let table = prepare::describe_table(&self.client).await?;
        let active = table.is_some_and(|table| table.index.may_be_queried());
        self.remember_index(active);
        Ok(active)
    }
}

#[async_trait]
impl LeaseStore for DynamoLeaseStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            owner_index: true,
            // DynamoDB does show it; a server of before 2023 does not, and nothing distinguishes them beforehand.
            refusal_shows_row: false,
        }
    }

    async fn prepare(&self, preparation: &Preparation) -> Result<(), StoreError> {
        let options = PrepareOptions {
            segments: self.scan_segments,
            table: &self.options,
            watch: self.watch,
        };
        let (table, tables) = prepare::prepare(&self.client, &options, preparation).await?;
        self.remember_tables(tables);
        self.remember_index(table.index.may_be_queried());
        Ok(())
    }

    async fn scan(&self) -> Result<Scan, StoreError> {
        let rows = scan::scan_tables(&self.tables(), self.scan_segments).await?;
        Ok(rows.scan)
    }

    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        let row = self.client.get(key.as_str()).await?;
        let lease = row.filter(|item| kind(item) == RowKind::Lease);
        lease
            .map(|item| decode_lease(&item).map_err(|error| unreadable(&item, &error)))
            .transpose()
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
        if !self.index_is_active().await? {
            return Ok(None);
        }
        let mut keys = Vec::new();
        let mut start = None;
        loop {
            let page = match self.client.owned_page(worker.as_str(), start).await? {
                IndexPage::Page(page) => page,
                IndexPage::NoIndex | IndexPage::Denied => {
                    tracing::debug!(table = %self.table(), "the owner index cannot be asked");
                    self.remember_index(false);
                    return Ok(None);
                }
            };
            keys.extend(
                page.items
                    .iter()
                    .filter_map(|item| LeaseKey::new(key_of(item)).ok()),
            );
            start = page.next;
            if start.is_none() {
                return Ok(Some(keys));
            }
        }
    }

    async fn change(
        &self,
        key: &LeaseKey,
        expect: &Expect,
        change: &LeaseChange,
        incarnation: Incarnation,
    ) -> Result<Outcome, StoreError> {
        check_counter(key, expect, change)?;
        let write = lease_write(key.as_str(), expect, change, incarnation).map_err(invalid_change)?;
        match (self.client.write(write).await?, change) {
            (WriteOutcome::Applied(_), LeaseChange::Create(lease)) => Ok(Outcome::Applied(lease.clone())),
            (WriteOutcome::Applied(row), _) => applied(key, row),
            (WriteOutcome::Refused(row), _) => {
                let row = row.filter(|item| kind(item) == RowKind::Lease);
                let current = row.and_then(|item| decode_lease(&item).ok()).map(Box::new);
                Ok(Outcome::Refused { current })
            }
        }
    }

    async fn change_worker(&self, change: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        if let WorkerChange::Touch(row) = change
            && row.incarnation.is_none()
        {
            return Ok(WorkerOutcome::Refused);
        }
        let tables = self.tables();
        let write = worker_write(change, tables.worker_rows());
        match (tables.workers.write(write).await?, change) {
            (WriteOutcome::Applied(_), _) => Ok(WorkerOutcome::Applied),
            (WriteOutcome::Refused(_), WorkerChange::Announce(row)) => {
                let message = format!(
                    "worker id {} is the key of another kind of row in table {}; give the worker another id",
                    row.id,
                    self.table()
                );
                Err(StoreError::definite(StoreErrorKind::Invalid, message))
            }
            (WriteOutcome::Refused(_), _) => Ok(WorkerOutcome::Refused),
        }
    }

    async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        let row = self.tables().coordinator.get(attributes::LEADER_KEY).await?;
        row.map(|item| decode_lock(&item).map_err(|error| unreadable(&item, &error)))
            .transpose()
    }

    async fn change_lock(&self, expect: &LockExpect, change: &LockChange) -> Result<LockOutcome, StoreError> {
        let write = lock_write(expect, change).map_err(invalid_change)?;
        Ok(match self.tables().coordinator.write(write).await? {
            WriteOutcome::Applied(_) => LockOutcome::Applied,
            WriteOutcome::Refused(_) => LockOutcome::Refused,
        })
    }
}

fn invalid_change(mismatch: MismatchedExpectation) -> StoreError {
    StoreError::definite(StoreErrorKind::Invalid, mismatch.to_string())
}

/// The row that a write left behind. It was written whatever can be made of the answer.
fn applied(key: &LeaseKey, row: Option<Item>) -> Result<Outcome, StoreError> {
    let Some(item) = row else {
        let message = format!("row {key} was written, and the answer does not show it");
        return Err(StoreError::unknown(StoreErrorKind::Unavailable, message));
    };
    match decode_lease(&item) {
        Ok(lease) => Ok(Outcome::Applied(Box::new(lease))),
        Err(error) => Err(StoreError::unknown(StoreErrorKind::Data, problem(&item, &error))),
    }
}

fn unreadable(item: &Item, error: &DecodeError) -> StoreError {
    StoreError::definite(StoreErrorKind::Data, problem(item, error))
}

fn problem(item: &Item, error: &DecodeError) -> String {
    format!("row {}: {error}; repair or remove it", key_of(item))
}

#[cfg(test)]
mod tests {
    use kcl_core::settings::Settings;

    use super::*;

    #[test]
    fn hanging_call_leaves_time_for_another_before_expiry() {
        let failover = Settings::default().leases.failover_time;
        assert!(REQUEST_TIMEOUT * 5 <= failover, "{REQUEST_TIMEOUT:?}");
    }
}
