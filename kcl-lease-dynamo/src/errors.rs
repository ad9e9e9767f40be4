//! The meaning of an error of the AWS SDK: one table, and what did not even reach the service.

use std::error::Error as StdError;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use kcl_aws::{CallTimeout, CommonError, TransportError, service_error_text};
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
        let (kind, certainty, message) = if let SdkError::ServiceError(context) = &error {
            self.service_error(context.err(), context.raw().status().as_u16())
        } else {
            let (class, text) = TransportError::classify(&error);
            let (kind, certainty) = match class {
                TransportError::NotSent(Some(reason)) if reason.is_transient() => (Unavailable, Definite),
                TransportError::NotSent(Some(_)) => (Denied, Definite),
                TransportError::NotSent(None) => (Invalid, Definite),
                TransportError::Refused => (Unavailable, Definite),
                TransportError::Unreachable => (Unavailable, Unknown),
            };
            (kind, certainty, format!("{self}: {text}"))
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
        let advice = if says_not_granted(error) {
            format!("grant {} on it", self.action)
        } else if kind == Missing {
            "does the table exist in this region and account?".to_owned()
        } else {
            CommonError::of(error.code())
                .map_or("", CommonError::advice)
                .to_owned()
        };
        (kind, certainty, service_error_text(self, error, status, &advice))
    }
}

type Classified = (StoreErrorKind, Certainty, String);

impl std::fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on table {}", self.action, self.table)
    }
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
