//! The service's own time, taken from the `Date` header of an answer.

use std::sync::{Arc, OnceLock};

use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;
use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use kcl_core::time::Timestamp;

/// Where the interceptor of one call leaves the time of its answer. Every call has its own, and one attempt, so one answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct AnswerDate(Arc<OnceLock<Timestamp>>);

impl AnswerDate {
    /// The service's time when it answered, in whole seconds, if it said so.
    pub(crate) fn get(&self) -> Option<Timestamp> {
        self.0.get().copied()
    }
}

impl Intercept for AnswerDate {
    fn name(&self) -> &'static str {
        "AnswerDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(parse);
        if let Some(date) = date {
            // A second answer cannot come; if it did, the first would stand.
            let _ = self.0.set(date);
        }
        Ok(())
    }
}

fn parse(date: &str) -> Option<Timestamp> {
    let date = DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?;
    date.to_millis().ok().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_date_is_read_and_anything_else_is_not() {
        assert_eq!(
            parse("Thu, 01 Jan 2026 00:00:07 GMT"),
            Some(Timestamp::from_millis(1_767_225_607_000))
        );
        assert_eq!(parse("yesterday"), None);
    }
}
