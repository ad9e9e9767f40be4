//! An order from the page: its JSON, and how it is given. None of them moves a checkpoint by hand.

use std::num::NonZeroU32;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use kcl_core::lease_store::{Lease, LeaseOrder, WorkerOrder};
use kcl_core::types::{ApplicationName, Rate, WorkerId};
use serde::Deserialize;

use crate::arguments::{CommonOptions, OrderOptions, ServeOptions};
use crate::commands::orders::{
    Desk, OrderResult, author, give_all, moved, record_position, resumed, worker_ordered,
};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};

/// The longest reason, in bytes; rows keep it.
const LONGEST_REASON: usize = 200;

/// An order with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct OrderRequest {
    reason: String,
    #[serde(flatten)]
    wanted: Wanted,
}

/// The order that is wanted, and its subject.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
enum Wanted {
    Pause {
        lease: String,
    },
    Resume {
        lease: String,
    },
    /// Without a number the limit ends.
    Limit {
        lease: String,
        records: Option<NonZeroU32>,
        kib: Option<NonZeroU32>,
    },
    Move {
        lease: String,
        to: String,
    },
    Release {
        lease: String,
    },
    Skip {
        lease: String,
        record: String,
    },
    Exclude {
        worker: String,
    },
    Include {
        worker: String,
    },
    Drain {
        worker: String,
    },
}

impl OrderRequest {
    /// Reads the body of a request. Every order has a reason.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        let request: Self =
            serde_json::from_slice(body).map_err(|error| format!("this is no order: {error}"))?;
        let reason = request.reason.trim();
        if reason.is_empty() {
            return Err("an order has a reason: write one for the next operator who looks".to_owned());
        }
        if reason.len() > LONGEST_REASON {
            return Err(format!(
                "the reason is longer than {LONGEST_REASON} bytes: shorten it"
            ));
        }
        Ok(request)
    }
}

/// The part of the server that gives orders.
pub(crate) trait Orders: Send + Sync {
    /// Gives the order, and waits for the answer.
    fn give(
        &self,
        application: &str,
        request: OrderRequest,
    ) -> BoxFuture<'static, Result<Vec<OrderResult>, Failure>>;
}

/// Gives orders as the commands do.
#[derive(Debug)]
pub(crate) struct Clerk {
    connection: &'static Connection,
    common: CommonOptions,
    author: Option<String>,
    wait: std::time::Duration,
}

impl Clerk {
    /// Fails where orders are allowed and there is no author.
    pub(crate) fn new(
        connection: &'static Connection,
        common: CommonOptions,
        options: &ServeOptions,
    ) -> Result<Self, Failure> {
        let clerk = Self {
            connection,
            common,
            author: options.author.clone(),
            wait: options.wait,
        };
        if options.allow_orders
            && let Some(application) = options.applications.first()
        {
            author(&clerk.options(application.clone(), "a reason"))?;
        }
        Ok(clerk)
    }

    fn options(&self, application: ApplicationName, reason: &str) -> OrderOptions {
        OrderOptions {
            application,
            author: self.author.clone(),
            reason: Some(reason.to_owned()),
            wait: self.wait,
            dry_run: false,
        }
    }
}

impl Orders for Clerk {
    fn give(
        &self,
        application: &str,
        request: OrderRequest,
    ) -> BoxFuture<'static, Result<Vec<OrderResult>, Failure>> {
        let (connection, common) = (self.connection, self.common.clone());
        let options = application
            .parse()
            .map(|application| self.options(application, request.reason.trim()))
            .map_err(|error: kcl_core::types::InvalidName| Failure::usage(error.to_string()));
        async move { give(connection, &common, &options?, &request.wanted).await }.boxed()
    }
}

async fn give(
    connection: &Connection,
    common: &CommonOptions,
    options: &OrderOptions,
    wanted: &Wanted,
) -> Result<Vec<OrderResult>, Failure> {
    let desk = Desk::open(connection, common, options).await?;
    let (lease, order) = match wanted {
        Wanted::Exclude { worker } => return about_worker(&desk, worker, WorkerOrder::Exclude).await,
        Wanted::Include { worker } => return about_worker(&desk, worker, WorkerOrder::Include).await,
        Wanted::Drain { worker } => return about_worker(&desk, worker, WorkerOrder::Drain).await,
        Wanted::Move { lease, to } => {
            let scan = desk.scan().await?;
            return moved(&desk, &scan, &[named(&scan.leases, lease)?], &worker_id(to)?).await;
        }
        Wanted::Resume { lease } => {
            let scan = desk.scan().await?;
            return resumed(&desk, &[named(&scan.leases, lease)?], false).await;
        }
        Wanted::Pause { lease } => (lease, LeaseOrder::Pause),
        Wanted::Release { lease } => (lease, LeaseOrder::Unpin),
        Wanted::Skip { lease, record } => (lease, LeaseOrder::Skip(record_position(record)?)),
        Wanted::Limit { lease, records, kib } => {
            let rate = Rate {
                records: *records,
                kib: *kib,
            };
            (
                lease,
                LeaseOrder::Limit(Some(rate).filter(|rate| *rate != Rate::default())),
            )
        }
    };
    let scan = desk.scan().await?;
    give_all(&desk, &[named(&scan.leases, lease)?], &order).await
}

async fn about_worker(
    desk: &Desk<'_>,
    worker: &str,
    order: WorkerOrder,
) -> Result<Vec<OrderResult>, Failure> {
    Ok(vec![worker_ordered(desk, &worker_id(worker)?, order).await?])
}

fn worker_id(name: &str) -> Result<WorkerId, Failure> {
    name.parse()
        .map_err(|error: kcl_core::types::InvalidName| Failure::usage(error.to_string()))
}

/// The lease of this key that is not ended.
fn named<'a>(leases: &'a [Lease], key: &str) -> Result<&'a Lease, Failure> {
    let lease = leases.iter().find(|lease| lease.key.as_str() == key);
    let lease = lease.ok_or_else(|| Failure::new(Exit::NotFound, format!("there is no lease {key}")))?;
    match lease.is_ended() {
        true => Err(Failure::new(
            Exit::NotFound,
            format!("{key} is processed to its end: it takes no orders"),
        )),
        false => Ok(lease),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<OrderRequest, String> {
        OrderRequest::parse(body.as_bytes())
    }

    #[test]
    fn orders_are_read_with_their_reasons() {
        let limit = parse(r#"{"order":"limit","lease":"a","records":5,"kib":null,"reason":"slow"}"#).unwrap();
        let wanted = Wanted::Limit {
            lease: "a".to_owned(),
            records: NonZeroU32::new(5),
            kib: None,
        };
        assert_eq!((limit.wanted, limit.reason.as_str()), (wanted, "slow"));
        assert!(parse(r#"{"order":"drain","worker":"w","reason":"deploy"}"#).is_ok());
    }

    #[test]
    fn order_that_is_not_whole_is_refused() {
        let long = format!(
            r#"{{"order":"pause","lease":"a","reason":"{}"}}"#,
            "x".repeat(300)
        );
        for body in [
            "",
            "[]",
            r#"{"order":"pause","lease":"a"}"#,
            r#"{"order":"pause","lease":"a","reason":"  "}"#,
            r#"{"order":"reset","lease":"a","reason":"x"}"#,
            r#"{"order":"limit","lease":"a","records":0,"reason":"x"}"#,
            r#"{"order":"pause","worker":"a","reason":"x"}"#,
            long.as_str(),
        ] {
            assert!(parse(body).is_err(), "{body}");
        }
    }
}
