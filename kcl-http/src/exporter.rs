//! The exporter for Prometheus, set up for the metrics of a worker.

use kcl_core::metrics::{PROCESS_SECONDS, STORE_SECONDS};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

/// The buckets of `kcl_process_seconds`, in seconds: calls of a processor take from a millisecond to minutes.
pub const PROCESS_BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0];

/// The buckets of `kcl_store_call_seconds`, in seconds: DynamoDB answers within milliseconds, and a call is given up within seconds.
pub const STORE_BUCKETS: [f64; 5] = [0.01, 0.05, 0.25, 1.0, 5.0];

/// Returns the builder of an exporter whose histograms have buckets, so that those of many workers can be added up.
///
/// [`install_recorder`](PrometheusBuilder::install_recorder) makes it the global recorder, into which workers record by default;
/// [`build_recorder`](PrometheusBuilder::build_recorder) makes one for `WorkerBuilder::metrics_recorder`. The handle of either is for
/// [`HttpServer::prometheus`](crate::HttpServer::prometheus).
///
/// ```
/// use std::sync::Arc;
///
/// let recorder = kcl_http::prometheus_builder().build_recorder();
/// let handle = recorder.handle();
/// let recorder = Arc::new(recorder); // for `WorkerBuilder::metrics_recorder`
/// assert_eq!(handle.render(), "", "nothing is recorded yet");
/// # drop(recorder);
/// ```
pub fn prometheus_builder() -> PrometheusBuilder {
    let buckets: [(&str, &[f64]); 2] = [
        (PROCESS_SECONDS, &PROCESS_BUCKETS),
        (STORE_SECONDS, &STORE_BUCKETS),
    ];
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in buckets {
        let of_name = |builder: PrometheusBuilder| {
            builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
        };
        // No buckets are refused but an empty list.
        builder = of_name(builder).unwrap_or_default();
    }
    builder
}
