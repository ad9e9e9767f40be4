//! The meaning of an error of the AWS SDK: one table, and what did not even reach the service.

use std::error::Error as StdError;
use std::io;

use aws_sdk_dynamodb::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use kcl_aws::{CallTimeout, CommonError, UnsentReason, error_chain, redacted_code, redacted_message};
use kcl_core::lease_store::{Certainty, StoreError, StoreErrorKind};

use Certainty::{Definite, Unknown};
use StoreErrorKind::{Denied, Invalid, Missing, Throttled, Unavailable};

/// The error codes of DynamoDB itself, with what each means for a write.
///
/// From "Error handling with DynamoDB" in the AWS documentation. The codes of every service are in [`CommonError`]. A code that is not listed may have
/// happened.
const CODES: &[(&str, StoreErrorKind, Certainty)] = &[
    ("TransactionConflictException", Unavailable, Definite),
    ("ReplicatedWriteConflictException", Unavailable, Definite),
    ("ContinuousBackupsUnavailableException", Unavailable, Definite),
    ("ResourceInUseException", Unavailable, Definite),
    ("InvalidEndpointException", Unavailable, Definite),
    ("ResourceNotFoundException", Missing, Definite),
    ("TableNotFoundException", Missing, Definite),
    ("ItemCollectionSizeLimitExceededException", Invalid, Definite),
];

/// The meaning of an error code that came with this HTTP status.
pub(crate) fn meaning(code: Option<&str>, status: u16) -> (StoreErrorKind, Certainty) {
    let listed = CODES.iter().find(|(listed, ..)| Some(*listed) == code);
    let (kind, certainty) = match (listed, CommonError::of(code)) {
        (Some((_, kind, certainty)), _) => (*kind, *certainty),
        (None, Some(CommonError::Throttled)) => (Throttled, Definite),
        (None, Some(CommonError::Unavailable)) => (Unavailable, Unknown),
        // Credentials that are too old heal by themselves where their source renews them.
        (None, Some(CommonError::Expired)) => (Unavailable, Definite),
        (
            None,
            Some(
                CommonError::NotGranted
                | CommonError::Credentials
                | CommonError::Signature
                | CommonError::NotActivated,
            ),
        ) => (Denied, Definite),
        (None, Some(CommonError::Invalid)) => (Invalid, Definite),
        (None, Some(_) | None) => (Unavailable, Unknown),
    };
    // A server that failed does not know itself, whatever it calls its failure.
    (kind, if status >= 500 { Unknown } else { certainty })
}

/// A call that failed: the error for the core, and whether a permission would cure it.
///
/// The error has no cause. The SDK's errors would say the same again, and their `Debug` shows what a service said in full.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: StoreError,
    /// The credentials are good and the action is not granted to them.
    pub(crate) not_granted: bool,
}

impl Failure {
    /// There is no such table.
    pub(crate) fn is_missing(&self) -> bool {
        self.error.kind() == Missing
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self {
            error,
            not_granted: false,
        }
    }
}

/// Returns `true` if the service says that a permission is missing.
pub(crate) fn says_not_granted(error: &impl ProvideErrorMetadata) -> bool {
    CommonError::of(error.code()) == Some(CommonError::NotGranted)
}

/// The request and its table, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The action as IAM policies write it, such as `dynamodb:UpdateItem`.
    pub(crate) action: &'static str,
    pub(crate) table: &'a str,
}

impl Request<'_> {
    /// Nothing came back in time.
    pub(crate) fn late(&self, late: CallTimeout, limit: std::time::Duration) -> Failure {
        let error = match late {
            CallTimeout::NotSent => StoreError::definite(
                Unavailable,
                format!("{self}: the request was not sent: the credentials did not come within {limit:?}"),
            ),
            CallTimeout::NoAnswer => StoreError::unknown(
                Unavailable,
                format!("{self}: no answer within {limit:?}; is the endpoint reachable?"),
            ),
        };
        error.into()
    }

    /// Something came back, and it is an error.
    pub(crate) fn failed<E>(&self, error: SdkError<E>) -> Failure
    where
        E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let (kind, certainty, message) = match &error {
            SdkError::ServiceError(context) => {
                self.service_error(context.err(), context.raw().status().as_u16())
            }
            SdkError::ConstructionFailure(_) => self.not_sent(&error),
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(connector) if refused(connector) => self.unreachable(&error, Definite),
                Some(_) if failure.is_user() => self.not_sent(&error),
                Some(_) if failure.is_io() || failure.is_timeout() => self.unreachable(&error, Unknown),
                _ => self.not_sent_or_unknown(&error),
            },
            SdkError::TimeoutError(_) | SdkError::ResponseError(_) => self.unreachable(&error, Unknown),
            _ => self.unreachable(&error, Unknown),
        };
        Failure {
            error: match certainty {
                Definite => StoreError::definite(kind, message),
                Unknown => StoreError::unknown(kind, message),
            },
            not_granted: says_not_granted(&error),
        }
    }

    fn service_error(&self, error: &impl ProvideErrorMetadata, status: u16) -> Classified {
        let (kind, certainty) = meaning(error.code(), status);
        let mut message = match error.code() {
            Some(code) => format!("{self}: {}", redacted_code(code)),
            None => format!("{self}: HTTP status {status}"),
        };
        if let Some(said) = redacted_message(error.code(), error.message()) {
            message = format!("{message} ({said})");
        }
        let advice = if says_not_granted(error) {
            format!("grant {} on it", self.action)
        } else if kind == Missing {
            "does the table exist in this region and account?".to_owned()
        } else {
            CommonError::of(error.code())
                .map_or("", CommonError::advice)
                .to_owned()
        };
        if !advice.is_empty() {
            message = format!("{message}; {advice}");
        }
        (kind, certainty, message)
    }

    fn unreachable(&self, error: &dyn StdError, certainty: Certainty) -> Classified {
        let message = format!("{self}: {}; is the endpoint reachable?", error_chain(error));
        (Unavailable, certainty, message)
    }

    /// The SDK built no request: a setting is missing, or credentials could not be had.
    fn not_sent(&self, error: &dyn StdError) -> Classified {
        let chain = error_chain(error);
        let (kind, advice) = match UnsentReason::in_chain(&chain) {
            Some(unsent) if unsent.is_transient() => (Unavailable, unsent.advice()),
            Some(unsent) => (Denied, unsent.advice()),
            None => (Invalid, "the request could not be built"),
        };
        (kind, Definite, format!("{self}: {chain}; {advice}"))
    }

    /// Loading credentials and finding the endpoint fail in the same place as the connection does.
    fn not_sent_or_unknown(&self, error: &dyn StdError) -> Classified {
        if UnsentReason::in_chain(&error_chain(error)).is_some() {
            self.not_sent(error)
        } else {
            self.unreachable(error, Unknown)
        }
    }
}

type Classified = (StoreErrorKind, Certainty, String);

impl std::fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on table {}", self.action, self.table)
    }
}

/// Whether nothing listened at the address, so that no byte of the request can have been sent.
fn refused(error: &ConnectorError) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_code_has_its_row() {
        let rows = [
            ("ProvisionedThroughputExceededException", Throttled, Definite),
            ("ThrottlingException", Throttled, Definite),
            ("Throttling", Throttled, Definite),
            ("RequestLimitExceeded", Throttled, Definite),
            ("LimitExceededException", Throttled, Definite),
            ("TransactionConflictException", Unavailable, Definite),
            ("ReplicatedWriteConflictException", Unavailable, Definite),
            ("ResourceInUseException", Unavailable, Definite),
            ("ContinuousBackupsUnavailableException", Unavailable, Definite),
            ("TableNotFoundException", Missing, Definite),
            ("InvalidEndpointException", Unavailable, Definite),
            ("ResourceNotFoundException", Missing, Definite),
            ("AccessDeniedException", Denied, Definite),
            ("AccessDenied", Denied, Definite),
            ("NotAuthorized", Denied, Definite),
            ("UnrecognizedClientException", Denied, Definite),
            ("InvalidClientTokenId", Denied, Definite),
            ("MissingAuthenticationToken", Denied, Definite),
            ("MissingAuthenticationTokenException", Denied, Definite),
            ("IncompleteSignature", Denied, Definite),
            ("IncompleteSignatureException", Denied, Definite),
            ("InvalidSignatureException", Denied, Definite),
            ("SignatureDoesNotMatch", Denied, Definite),
            ("ExpiredToken", Unavailable, Definite),
            ("ExpiredTokenException", Unavailable, Definite),
            ("RequestExpired", Denied, Definite),
            ("OptInRequired", Denied, Definite),
            ("ValidationException", Invalid, Definite),
            ("SerializationException", Invalid, Definite),
            ("UnknownOperationException", Invalid, Definite),
            ("ItemCollectionSizeLimitExceededException", Invalid, Definite),
            ("InternalServerError", Unavailable, Unknown),
            ("InternalFailure", Unavailable, Unknown),
            ("ServiceUnavailable", Unavailable, Unknown),
            ("ServiceUnavailableException", Unavailable, Unknown),
        ];
        for (code, kind, certainty) in rows {
            assert_eq!(meaning(Some(code), 400), (kind, certainty), "{code}");
        }
        for (code, ..) in CODES {
            assert!(rows.iter().any(|(row, ..)| row == code), "{code}");
        }
    }

    #[test]
    fn what_nobody_classified_may_have_happened() {
        assert_eq!(
            meaning(Some("SomethingNewException"), 400),
            (Unavailable, Unknown)
        );
        assert_eq!(meaning(None, 200), (Unavailable, Unknown));
    }

    #[test]
    fn a_failing_server_is_never_sure() {
        assert_eq!(meaning(Some("ThrottlingException"), 503), (Throttled, Unknown));
        assert_eq!(meaning(Some("AccessDeniedException"), 500), (Denied, Unknown));
    }
}
