//! One call with a deadline of ours, signed with the right time.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use kcl_core::clock::{Clock, ClockExt as _};
use kcl_core::types::Timestamp;

use crate::{CommonError, CredentialsCache};

/// From which difference on the host's clock is worth a warning: requests are valid for five minutes.
const WARN_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// One attempt of a call: its interceptor, which sees the fate of the request.
#[derive(Debug, Clone, Default)]
pub struct Attempt(Arc<AttemptState>);

#[derive(Debug, Default)]
struct AttemptState {
    sent: AtomicBool,
    service_time: OnceLock<Timestamp>,
}

impl Attempt {
    /// Returns `true` once the request is signed and given to the connection. Before that nothing was sent.
    pub fn is_sent(&self) -> bool {
        self.0.sent.load(Ordering::Acquire)
    }

    /// The service's time when it answered, in whole seconds, if it sent one.
    pub fn service_time(&self) -> Option<Timestamp> {
        self.0.service_time.get().copied()
    }
}

impl Intercept for Attempt {
    fn name(&self) -> &'static str {
        "Attempt"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.sent.store(true, Ordering::Release);
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date").and_then(parse) {
            // An attempt has one answer; if there were two, the first would stand.
            let _ = self.0.service_time.set(date);
        }
        Ok(())
    }
}

fn parse(date: &str) -> Option<Timestamp> {
    let date = DateTime::from_str(date, Format::HttpDate).ok()?;
    date.to_millis().ok().map(Timestamp::from_millis)
}

/// A call did not end in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallTimeout {
    /// Nothing was sent: the credentials did not come. Their load goes on, for the next call.
    NotSent,
    /// The request was sent, and no answer came. Its fate is unknown.
    NoAnswer,
}

/// Makes the calls of one client.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The credentials of the client, as its identity cache.
    pub credentials: CredentialsCache,
    /// Whether the warning about the clock was logged.
    has_warned: Arc<AtomicBool>,
}

impl Caller {
    /// Makes the call, and once again if the service refused the time of its signature: the client has the service's time then.
    ///
    /// `call` makes the request; the attempt is to be its interceptor.
    ///
    /// # Errors
    ///
    /// When the deadline passes first. Any answer of the service is the value, be it an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the request, which may or may not be served. A load of credentials goes on.
    pub async fn call<T, E, F>(
        &self,
        clock: &dyn Clock,
        deadline: Duration,
        mut call: impl FnMut(Attempt) -> F,
    ) -> Result<Result<T, SdkError<E, HttpResponse>>, CallTimeout>
    where
        T: Send,
        E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    {
        let end = clock.now() + deadline;
        let mut is_second = false;
        loop {
            let attempt = Attempt::default();
            let left = end.saturating_since(clock.now());
            // The state of a call is large; on the heap it is out of the way of the caller's.
            let answer = clock.timeout(left, Box::pin(call(attempt.clone()))).await;
            let Ok(answer) = answer else {
                return Err(match attempt.is_sent() {
                    true => CallTimeout::NoAnswer,
                    false => CallTimeout::NotSent,
                });
            };
            let code = answer.as_ref().err().and_then(ProvideErrorMetadata::code);
            let Some(code) = CommonError::of(code) else {
                return Ok(answer);
            };
            if code == CommonError::Expired {
                self.credentials.forget();
            }
            if is_second || !code.may_be_the_time() || attempt.service_time().is_none() {
                return Ok(answer);
            }
            self.warn_clock_skew(&attempt, clock.wall());
            is_second = true;
        }
    }

    fn warn_clock_skew(&self, attempt: &Attempt, here: Timestamp) {
        let Some(there) = attempt.service_time() else {
            return;
        };
        let off = there.as_millis().abs_diff(here.as_millis());
        if Duration::from_millis(off) >= WARN_CLOCK_SKEW && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                seconds = off / 1000,
                behind = there > here,
                "this host's clock is not the service's; requests are signed with the service's time, but correct the clock"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_date_is_read_and_nothing_else() {
        let read = parse("Thu, 01 Jan 2026 00:00:07 GMT");
        assert_eq!(read, Some(Timestamp::from_millis(1_767_225_607_000)));
        assert_eq!(parse("yesterday"), None);
    }
}
