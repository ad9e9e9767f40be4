use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::lease_store::LeaseStore;
use kcl_core::types::LeaseKey;

/// A fresh, empty storage for one case of the suite.
///
/// Its methods set a test up, so they panic when they cannot.
#[async_trait]
pub trait LeaseStoreFixture: Send + Sync {
    /// Another handle on the storage, as another worker would have.
    async fn handle(&self) -> Arc<dyn LeaseStore>;

    /// A handle on the storage of another application, next to this one.
    async fn other_application(&self) -> Arc<dyn LeaseStore>;

    /// How much the storage carries.
    fn scale(&self) -> Scale {
        Scale::default()
    }

    /// A way to write rows past the store; `None` where every row there can be is written by the store itself.
    fn raw_rows(&self) -> Option<&dyn RawRows> {
        None
    }
}

/// Writes rows as somebody else would: another program, or an operator with a console.
#[async_trait]
pub trait RawRows: Send + Sync {
    /// Writes a row of a kind that the store does not know.
    async fn put_foreign(&self, key: &str);

    /// Writes a row that looks like a lease and cannot be read.
    async fn put_undecodable(&self, key: &str);

    /// Adds an attribute to a lease that the store does not know.
    async fn add_unknown_attribute(&self, key: &LeaseKey);

    /// Whether the attribute is still there as it was added.
    async fn has_unknown_attribute(&self, key: &LeaseKey) -> bool;
}

/// How much one case may ask of the storage: an emulator carries some hundred writes a second, memory millions.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Rows that fill exactly one page of a scan; `None` where that is not known or too many. The cases at the edge of a page then say that they did not run.
    pub page: Option<u32>,
    /// Rows of a large table.
    pub many: u32,
    /// Random changes of the comparison with the specification.
    pub random_changes: u32,
    /// The source of the random numbers.
    pub seed: u64,
    /// How far scans and look-ups by owner may lag behind.
    pub lag: Duration,
}

impl Default for Scale {
    /// For memory: 10 000 rows, 1000 changes. Lower both for an emulator.
    fn default() -> Self {
        Self {
            page: None,
            many: 10_000,
            random_changes: 1000,
            seed: 1,
            lag: Duration::from_secs(10),
        }
    }
}
