//! `lag --scaler`: KEDA's external scaler, as its `externalscaler.proto` describes it: IsActive, StreamIsActive, GetMetricSpec and GetMetrics.
//!
//! The metric is the number of workers wanted and its target is 1, so that what is wanted is what the autoscaler sets. A table that cannot be read is
//! an error of the call and never a number: KEDA has a fallback for that.

mod messages;
mod service;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use kcl_core::clock::{Clock as _, ClockExt as _, Moment};
use kcl_operations::{Wanted, workers_wanted};
use tokio::sync::Mutex;
use tonic::Status;
use tonic::transport::server::TcpIncoming;

use super::lag::scaler_settings;
use super::watch::interrupted;
use crate::arguments::{CommonOptions, LagOptions};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::Looker;
use crate::output::complain;

use messages::{
    GetMetricSpecResponse, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue, ScaledObjectRef,
};
use service::ExternalScaler;

/// The name of the metric.
const METRIC: &str = "workers-wanted";

/// How old an answer may be: KEDA asks several times in a row, and each look is a scan.
const FRESH: Duration = Duration::from_secs(5);

/// How often a stream of IsActive looks.
const STREAM_EVERY: Duration = Duration::from_secs(15);

/// How long one call may take: two calls of AWS, and the wait for another call's look.
const CALL_WITHIN: Duration = Duration::from_secs(30);

/// How long calls under way may take after an interrupt.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How many calls of a connection run at once.
const CALLS_AT_ONCE: usize = 32;

/// The answer to a call.
type Answer<T> = BoxFuture<'static, Result<T, Status>>;

/// The decisions of an application.
pub(crate) struct Decider {
    connection: &'static Connection,
    options: &'static LagOptions,
    /// One look at a time; the others wait for its answer.
    looks: Mutex<Looks>,
}

struct Looks {
    looker: Looker<'static>,
    last: Option<(Moment, Wanted)>,
}

/// Serves until interrupted.
pub(crate) async fn serve(
    connection: Connection,
    common: &CommonOptions,
    options: LagOptions,
) -> Result<Exit, Failure> {
    let Some(address) = options.scaler else {
        return Err(Failure::usage("--scaler needs an address"));
    };
    // They live as long as the process, and tasks of the server refer to them.
    let connection: &'static Connection = Box::leak(Box::new(connection));
    let options: &'static LagOptions = Box::leak(Box::new(options));
    let looker = Looker::open(connection, common.table.as_deref(), &options.look).await?;
    let decider = Decider {
        connection,
        options,
        looks: Mutex::new(Looks { looker, last: None }),
    };
    let incoming =
        TcpIncoming::bind(address).map_err(|error| Failure::usage(format!("{address}: {error}")))?;
    let bound = incoming.local_addr()?;
    let application = &options.look.application;
    complain(&format!(
        "serving the external scaler of {application} at {bound}"
    ));
    let serving = tonic::transport::Server::builder()
        .timeout(CALL_WITHIN)
        .concurrency_limit_per_connection(CALLS_AT_ONCE)
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .add_service(ExternalScaler::new(Arc::new(decider)))
        .serve_with_incoming_shutdown(incoming, interrupted());
    // A stream of IsActive goes on for as long as its client wants.
    let stopping = async {
        interrupted().await;
        connection.clock.sleep(STOP_WITHIN).await;
    };
    tokio::select! {
        biased;
        served = serving => served.map_err(|error| Failure::new(Exit::NoAnswer, error.to_string()))?,
        () = stopping => {}
    }
    Ok(Exit::Fine)
}

impl Decider {
    /// The decision now, or that of a few seconds ago.
    async fn wanted(&self, object: &ScaledObjectRef) -> Result<Wanted, Status> {
        let application = &self.options.look.application;
        let asked = object.scaler_metadata.get("application");
        if let Some(other) = asked.filter(|asked| *asked != application.as_str()) {
            return Err(Status::invalid_argument(format!(
                "this scaler is of {application}, not of {other}"
            )));
        }
        let mut looks = self.looks.lock().await;
        let now = self.connection.clock.now();
        if let Some((at, wanted)) = &looks.last
            && now.saturating_since(*at) < FRESH
        {
            return Ok(wanted.clone());
        }
        let fleet = looks.looker.look().await;
        let fleet = fleet.map_err(|failure| Status::unavailable(failure.to_string()))?;
        let unmeasured = looks.looker.unmeasured().len();
        if unmeasured > 0 {
            // Counted as caught up, they would take workers away.
            return Err(Status::unavailable(format!(
                "the lags of {unmeasured} shards could not be measured"
            )));
        }
        let wanted = workers_wanted(&fleet, &scaler_settings(self.options));
        looks.last = Some((now, wanted.clone()));
        Ok(wanted)
    }

    /// Answers whether anything is to be done; after a wait, unless it is the first answer.
    fn is_active(self: Arc<Self>, object: ScaledObjectRef, wait: Duration) -> Answer<IsActiveResponse> {
        Box::pin(async move {
            let clock = &self.connection.clock;
            clock.sleep_until(clock.now() + wait).await;
            let result = self.wanted(&object).await?.workers > 0;
            Ok(IsActiveResponse { result })
        })
    }

    fn metric_spec(&self) -> GetMetricSpecResponse {
        let spec = MetricSpec {
            metric_name: METRIC.to_owned(),
            target_size: 1,
            target_size_float: 1.0,
        };
        GetMetricSpecResponse {
            metric_specs: vec![spec],
        }
    }

    fn metrics(self: Arc<Self>, object: ScaledObjectRef) -> Answer<GetMetricsResponse> {
        Box::pin(async move {
            let workers = self.wanted(&object).await?.workers;
            let value = MetricValue {
                metric_name: METRIC.to_owned(),
                metric_value: workers.into(),
                metric_value_float: workers.into(),
            };
            Ok(GetMetricsResponse {
                metric_values: vec![value],
            })
        })
    }
}
