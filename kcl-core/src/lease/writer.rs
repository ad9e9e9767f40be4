use async_trait::async_trait;

use crate::lease::change::{Expect, LeaseChange};
use crate::lease::row::Lease;
use crate::lease::store::{Outcome, StoreError};
use crate::runtime::clock::Moment;
use crate::types::LeaseKey;

/// Makes changes of lease rows, one at a time per row, and finds out what became of each.
#[async_trait]
pub(crate) trait LeaseWriter: Send + Sync {
    /// Changes one row if `expect` holds; `before` is the row that the expectation is based on, if there is one.
    ///
    /// An error means that the outcome could not be found out in time, or that the change certainly did not happen.
    /// Dropping the future, once it was polled, does not stop the write.
    async fn change(
        &self,
        key: &LeaseKey,
        before: Option<&Lease>,
        expect: Expect,
        change: LeaseChange,
    ) -> Result<Outcome, StoreError>;

    /// Creates a row, and sends nothing from `deadline` on.
    ///
    /// That no row is there is no proof that it is missing: by then others may have finished with it, and cleaned up. So who wants it
    /// says for how long what it knows is true.
    async fn create(&self, lease: Lease, deadline: Moment) -> Result<Outcome, StoreError>;
}
