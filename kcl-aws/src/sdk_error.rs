//! Errors of the SDK: whether a request was sent, and the text of what the service answered.

use std::error::Error as StdError;
use std::fmt::Display;
use std::io;

use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::{UnsentReason, error_chain, redacted_code, redacted_message};

/// Why there is no answer of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportError {
    /// The request was not built or not signed, for this reason; `None` if a value in it is wrong.
    NotSent(Option<UnsentReason>),
    /// Nothing listened at the address, so the request was not sent.
    Refused,
    /// The connection failed, and the service may have served the request.
    Unreachable,
}

impl TransportError {
    /// Classifies an error without an answer of the service. Returns it with its text: the chain of causes, and an advice.
    pub fn classify<E, R>(error: &SdkError<E, R>) -> (Self, String)
    where
        E: StdError + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let chain = error_chain(error);
        let reason = UnsentReason::in_chain(&chain);
        let class = match error {
            SdkError::ConstructionFailure(_) => Self::NotSent(reason),
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(connector) if is_refused(connector) => Self::Refused,
                Some(_) if failure.is_user() => Self::NotSent(reason),
                Some(_) if failure.is_io() || failure.is_timeout() => Self::Unreachable,
                // Loading credentials and finding the endpoint fail in the same place as the connection does.
                _ if reason.is_some() => Self::NotSent(reason),
                _ => Self::Unreachable,
            },
            SdkError::TimeoutError(_) | SdkError::ResponseError(_) | SdkError::ServiceError(_) | _ => {
                Self::Unreachable
            }
        };
        let text = format!("{chain}; {}", class.advice());
        (class, text)
    }

    fn advice(self) -> &'static str {
        match self {
            Self::NotSent(Some(reason)) => reason.advice(),
            Self::NotSent(None) => "the request could not be built",
            Self::Refused | Self::Unreachable => "is the endpoint reachable?",
        }
    }
}

/// The text of an error that the service answered with: its code or this HTTP status, its message, and an advice if there is one.
pub fn service_error_text(
    request: &impl Display,
    error: &impl ProvideErrorMetadata,
    status: u16,
    advice: &str,
) -> String {
    let mut text = match error.code() {
        Some(code) => format!("{request}: {}", redacted_code(code)),
        None => format!("{request}: HTTP status {status}"),
    };
    if let Some(message) = redacted_message(error.code(), error.message()) {
        text = format!("{text} ({message})");
    }
    if !advice.is_empty() {
        text = format!("{text}; {advice}");
    }
    text
}

/// Returns `true` if nothing listened at the address, so that no byte of the request can have been sent.
fn is_refused(error: &ConnectorError) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}
