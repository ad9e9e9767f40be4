use async_trait::async_trait;

use crate::lease::{Expect, Lease, LeaseChange, Outcome, StoreError};
use crate::model::LeaseKey;

/// Makes changes of lease rows, one at a time per row, and finds out what became of each.
#[async_trait]
pub(crate) trait LeaseWriter: Send + Sync {
    /// Changes one row if `expect` holds; `before` is the row that the expectation is based on, if there is one.
    ///
    /// An error means that the outcome could not be found out in time, or that the change certainly did not happen.
    /// Dropping the future does not stop the write.
    async fn change(
        &self,
        key: &LeaseKey,
        before: Option<&Lease>,
        expect: Expect,
        change: LeaseChange,
    ) -> Result<Outcome, StoreError>;
}
