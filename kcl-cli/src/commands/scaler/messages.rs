//! The messages of KEDA's external scaler, by the numbers of its interface.

use std::collections::BTreeMap;

use prost::Message;

/// The object that KEDA scales.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ScaledObjectRef {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) namespace: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) scaler_metadata: BTreeMap<String, String>,
}

/// Whether anything is to be done.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct IsActiveResponse {
    #[prost(bool, tag = "1")]
    pub(crate) result: bool,
}

/// The metrics that there are.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetMetricSpecResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) metric_specs: Vec<MetricSpec>,
}

/// A metric and its target. Older versions of KEDA read the whole number.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetricSpec {
    #[prost(string, tag = "1")]
    pub(crate) metric_name: String,
    #[prost(int64, tag = "2")]
    pub(crate) target_size: i64,
    #[prost(double, tag = "3")]
    pub(crate) target_size_float: f64,
}

/// The question for a metric.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetMetricsRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) scaled_object_ref: Option<ScaledObjectRef>,
    #[prost(string, tag = "2")]
    pub(crate) metric_name: String,
}

/// The values of a metric.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetMetricsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) metric_values: Vec<MetricValue>,
}

/// A value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetricValue {
    #[prost(string, tag = "1")]
    pub(crate) metric_name: String,
    #[prost(int64, tag = "2")]
    pub(crate) metric_value: i64,
    #[prost(double, tag = "3")]
    pub(crate) metric_value_float: f64,
}
