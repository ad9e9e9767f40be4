//! Operators of a simulated fleet, whose every write the oracle sees.

use std::sync::Arc;

use kcl_core::lease_store::{Expect, LeaseChange, LeaseStore as _, OrderAuthor, Outcome, StoreError};
use kcl_core::settings::RetentionGap;
use kcl_core::types::{Incarnation, LeaseKey, WorkerId};
use kcl_operations::Operator;

use super::Fleet;
use super::oracle::{GapRule, Witness};
use crate::faults::{FaultyLeaseStore, StoreFaults};
use crate::invariant::Process;

impl Fleet {
    /// An operator of this name, and the faults between it and the lease store. The oracle sees what it orders.
    ///
    /// # Panics
    ///
    /// When the name is none of a worker.
    #[expect(clippy::expect_used, reason = "a simulation fails as tests do")]
    pub fn operator(&self, name: &str) -> (Operator, StoreFaults) {
        let shared = &self.shared;
        let (witness, faults) = (self.outsider(name), StoreFaults::new());
        let connection = FaultyLeaseStore::new(Arc::new(shared.store.clone()), Arc::new(shared.clock))
            .with_faults(faults.clone())
            .on_server(shared.services.clone())
            .with_recorder(move |event| witness.foreign_event(event));
        let author = OrderAuthor::new(name).expect("a valid name");
        let incarnation = self.incarnation_of(name);
        let operator = Operator::new(Arc::new(connection), Arc::new(shared.clock), incarnation, author);
        (operator, faults)
    }

    /// Changes a lease row from outside of the fleet, as an operator or a foreign program would, and returns whether the
    /// expectation held. The oracle sees it, and expects of a row taken away so that its shard is leased again from the beginning.
    ///
    /// # Errors
    ///
    /// Those of [`LeaseStore::change`](kcl_core::lease_store::LeaseStore::change).
    pub async fn change_lease(
        &self,
        key: &LeaseKey,
        expect: Expect,
        change: LeaseChange,
    ) -> Result<bool, StoreError> {
        let shared = &self.shared;
        let foreigner = self.outsider("outside");
        let connection = FaultyLeaseStore::new(Arc::new(shared.store.clone()), Arc::new(shared.clock))
            .with_recorder(move |event| foreigner.foreign_event(event));
        let incarnation = self.incarnation_of("outside");
        let outcome = connection.change(key, &expect, &change, incarnation).await?;
        Ok(matches!(outcome, Outcome::Applied(_)))
    }

    fn incarnation_of(&self, name: &str) -> Incarnation {
        Incarnation::from_random_bytes(self.shared.rng.child(name).bytes())
    }

    #[expect(clippy::expect_used, reason = "a simulation fails as tests do")]
    fn outsider(&self, name: &str) -> Witness {
        let shared = &self.shared;
        Witness {
            oracle: shared.oracle.clone(),
            process: Process::from(name),
            worker: WorkerId::new(name).expect("a valid worker id"),
            failover: shared.settings.leases.failover_time,
            checkpointing: shared.settings.checkpoints.mode,
            gaps: GapRule::new(RetentionGap::Continue),
            clock: shared.clock,
        }
    }
}
