//! The one call of CloudWatch.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::retry::RetryConfig;
use aws_sdk_cloudwatch::config::timeout::TimeoutConfig;
use aws_sdk_cloudwatch::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit, StatisticSet};
use kcl_aws::{CallTimeout, Caller, CommonError, TransportError, service_error_text};
use kcl_core::clock::Clock;
use kcl_core::types::Timestamp;

use crate::names::{Datum, DatumValue};
use crate::sending::{PutFailure, PutMetrics};

/// A call takes no longer.
const DEADLINE: Duration = Duration::from_secs(5);

/// CloudWatch behind the SDK.
pub(crate) struct CloudWatchClient {
    sdk: Client,
    caller: Caller,
    namespace: String,
    clock: Arc<dyn Clock>,
}

impl CloudWatchClient {
    /// Takes over the configuration but for its retries and timeouts: what fails is tried again with what came since.
    pub(crate) fn new(config: &SdkConfig, namespace: String, clock: Arc<dyn Clock>) -> Self {
        let caller = Caller::default();
        let config = aws_sdk_cloudwatch::config::Builder::from(config)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .identity_cache(caller.credentials.clone())
            .build();
        Self {
            sdk: Client::from_conf(config),
            caller,
            namespace,
            clock,
        }
    }
}

#[async_trait]
impl PutMetrics for CloudWatchClient {
    async fn put(&self, data: &[Datum], time: Timestamp) -> Result<(), PutFailure> {
        let time = DateTime::from_millis(time.as_millis());
        let data: Vec<MetricDatum> = data.iter().map(|datum| sdk_datum(datum, time)).collect();
        let call = self.caller.call(self.clock.as_ref(), DEADLINE, |attempt| {
            let call = self.sdk.put_metric_data();
            let call = call
                .namespace(&self.namespace)
                .set_metric_data(Some(data.clone()));
            call.customize().interceptor(attempt).send()
        });
        let error = match call.await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(CallTimeout::NotSent) => {
                return Err(PutFailure::TryAgain("no credentials in time".to_owned()));
            }
            Err(CallTimeout::NoAnswer) => return Err(PutFailure::TryAgain("no answer in time".to_owned())),
        };
        let SdkError::ServiceError(answer) = &error else {
            let (_, text) = TransportError::classify(&error);
            return Err(PutFailure::TryAgain(text));
        };
        let (status, code) = (answer.raw().status().as_u16(), answer.err().code());
        let meaning = CommonError::of(code);
        let advice = match meaning {
            Some(CommonError::NotGranted) => "grant cloudwatch:PutMetricData",
            Some(meaning) => meaning.advice(),
            None => "",
        };
        let text = service_error_text(&"PutMetricData", answer.err(), status, advice);
        let is_invalid = code
            .is_some_and(|code| code.starts_with("InvalidParameter") || code.starts_with("MissingRequired"));
        match is_invalid || meaning == Some(CommonError::Invalid) {
            true => Err(PutFailure::Invalid(text)),
            false => Err(PutFailure::TryAgain(text)),
        }
    }
}

fn sdk_datum(datum: &Datum, time: DateTime) -> MetricDatum {
    let dimensions = datum.dimensions.iter();
    let dimensions = dimensions.map(|(name, value)| Dimension::builder().name(name).value(value).build());
    let sent = MetricDatum::builder()
        .metric_name(&datum.name)
        .set_dimensions(Some(dimensions.collect()))
        .unit(StandardUnit::from(datum.unit))
        .timestamp(time);
    match datum.value {
        DatumValue::One(value) => sent.value(value),
        DatumValue::Many(values) => sent.statistic_values(
            StatisticSet::builder()
                .sample_count(values.count)
                .sum(values.sum)
                .minimum(values.least)
                .maximum(values.greatest)
                .build(),
        ),
    }
    .build()
}
