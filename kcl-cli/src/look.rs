//! One look at an application: its tables, and where asked the stream, as a view.

use std::collections::BTreeMap;

use kcl_core::lease_store::{Lease, LeaseStore as _, Scan};
use kcl_core::types::{ApplicationName, LeaseKey};
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_operations::{FleetFacts, FleetView, Thresholds};

use crate::arguments::LookOptions;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::measure::measure_lags;
use crate::output::complain;

/// An application that is looked at again and again.
pub(crate) struct Looker<'a> {
    connection: &'a Connection,
    options: &'a LookOptions,
    store: DynamoLeaseStore,
    /// The view before, for how lags change.
    earlier: Option<FleetView>,
    /// The leases whose lags were to be measured at the last look, and could not be.
    unmeasured: BTreeMap<LeaseKey, String>,
    /// Whether it says on the standard error what could not be measured.
    is_quiet: bool,
}

impl<'a> Looker<'a> {
    /// Finds the tables of the application.
    pub(crate) async fn open(
        connection: &'a Connection,
        table: Option<&str>,
        options: &'a LookOptions,
    ) -> Result<Self, Failure> {
        let store = connection.store(table_of(table, &options.application));
        store.attach(&options.application).await?;
        Ok(Self {
            connection,
            options,
            store,
            earlier: None,
            unmeasured: BTreeMap::new(),
            is_quiet: false,
        })
    }

    /// The same without a word on the standard error, which would spoil a screen.
    pub(crate) fn quiet(self) -> Self {
        Self {
            is_quiet: true,
            ..self
        }
    }

    /// Looks once.
    pub(crate) async fn look(&mut self) -> Result<FleetView, Failure> {
        let scan = self.store.scan().await?;
        let mut facts = FleetFacts::new(&scan);
        facts.thresholds = Thresholds::default();
        facts.thresholds.lagging = self.options.lagging_after;
        if self.options.measure_lag {
            let measured = measure_lags(self.connection, &scan, self.options.stream.as_deref()).await?;
            facts.measured = measured.lags;
            self.unmeasured = measured.failed;
            if !self.is_quiet {
                for (key, problem) in &self.unmeasured {
                    complain(&format!("the lag of {key} is unknown: {problem}"));
                }
            }
        }
        let mut view = FleetView::of(self.options.application.as_str(), &facts, self.connection.now());
        if let Some(stream) = &self.options.stream {
            let nameless = view.shards.iter_mut().filter(|shard| shard.stream.is_none());
            nameless.for_each(|shard| shard.stream = Some(stream.clone()));
        }
        if let Some(earlier) = &self.earlier {
            view.compare(earlier);
        }
        self.earlier = Some(view.clone());
        Ok(view)
    }

    /// The leases whose lags were to be measured at the last look, and could not be, with the reasons.
    pub(crate) fn unmeasured(&self) -> &BTreeMap<LeaseKey, String> {
        &self.unmeasured
    }

    /// The checkpoints as they are stored.
    pub(crate) async fn scan(&self) -> Result<Scan, Failure> {
        Ok(self.store.scan().await?)
    }
}

/// The table of the application, unless another was named.
pub(crate) fn table_of<'a>(table: Option<&'a str>, application: &'a ApplicationName) -> &'a str {
    table.unwrap_or(application.as_str())
}

/// The stream of a lease as it can be asked for: the one that was named, or the one that its row names.
pub(crate) fn stream_of(lease: &Lease, named: Option<&str>) -> Option<String> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    if let Some(identity) = &lease.identity {
        return Some(identity.arn.clone())
            .filter(|arn| !arn.is_empty())
            .or(Some(identity.name.clone()));
    }
    // `account:stream:creation`, where the application reads many.
    let key = lease.stream.as_ref()?;
    key.as_str().split(':').nth(1).map(str::to_owned)
}
