//! What an error of the AWS SDK means: one table, and what did not even reach the service.

use std::error::Error as StdError;
use std::io;

use aws_sdk_dynamodb::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use kcl_core::lease::{Certainty, StoreError, StoreErrorKind};

use Certainty::{Definite, Unknown};
use StoreErrorKind::{Denied, Invalid, Missing, Throttled, Unavailable};

/// The error codes of DynamoDB and of what stands in front of it, with what each means for a write.
///
/// From "Error handling with DynamoDB" and "Common Errors" in the AWS documentation. What is not listed may have happened.
const CODES: &[(&str, StoreErrorKind, Certainty)] = &[
    ("ProvisionedThroughputExceededException", Throttled, Definite),
    ("ThrottlingException", Throttled, Definite),
    ("Throttling", Throttled, Definite),
    ("RequestLimitExceeded", Throttled, Definite),
    ("LimitExceededException", Throttled, Definite),
    ("InternalServerError", Unavailable, Unknown),
    ("InternalFailure", Unavailable, Unknown),
    ("ServiceUnavailable", Unavailable, Unknown),
    ("ServiceUnavailableException", Unavailable, Unknown),
    ("TransactionConflictException", Unavailable, Definite),
    ("ReplicatedWriteConflictException", Unavailable, Definite),
    ("ContinuousBackupsUnavailableException", Unavailable, Definite),
    ("ResourceInUseException", Unavailable, Definite),
    ("InvalidEndpointException", Unavailable, Definite),
    ("ResourceNotFoundException", Missing, Definite),
    ("TableNotFoundException", Missing, Definite),
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
    ("ExpiredToken", Denied, Definite),
    ("ExpiredTokenException", Denied, Definite),
    ("RequestExpired", Denied, Definite),
    ("OptInRequired", Denied, Definite),
    ("ValidationException", Invalid, Definite),
    ("SerializationException", Invalid, Definite),
    ("UnknownOperationException", Invalid, Definite),
    ("ItemCollectionSizeLimitExceededException", Invalid, Definite),
];

/// The meaning of an error code that came with this HTTP status.
pub(crate) fn meaning(code: Option<&str>, status: u16) -> (StoreErrorKind, Certainty) {
    let listed = CODES.iter().find(|(listed, ..)| Some(*listed) == code);
    let (kind, certainty) = listed.map_or((Unavailable, Unknown), |(_, kind, certainty)| (*kind, *certainty));
    // A server that failed does not know itself, whatever it calls its failure.
    (kind, if status >= 500 { Unknown } else { certainty })
}

/// The codes that say that the credentials are good and the action is not granted to them.
const NOT_GRANTED: [&str; 3] = ["AccessDeniedException", "AccessDenied", "NotAuthorized"];

/// The cause of an error that a permission would cure, and so none of missing or expired credentials.
#[derive(Debug)]
struct NotGranted(Box<dyn StdError + Send + Sync>);

impl std::fmt::Display for NotGranted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for NotGranted {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Whether a permission is what is missing.
pub(crate) fn is_not_granted(error: &StoreError) -> bool {
    error.source().is_some_and(|cause| cause.is::<NotGranted>())
}

/// Whether the service says so.
pub(crate) fn says_not_granted(error: &impl ProvideErrorMetadata) -> bool {
    error.code().is_some_and(|code| NOT_GRANTED.contains(&code))
}

/// What was asked of which table, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The action as IAM policies write it, such as `dynamodb:UpdateItem`.
    pub(crate) action: &'static str,
    pub(crate) table: &'a str,
}

impl Request<'_> {
    /// Nothing came back in time.
    pub(crate) fn no_answer(&self, limit: std::time::Duration) -> StoreError {
        let message = format!("{self}: no answer within {limit:?}; is the endpoint reachable?");
        StoreError::unknown(Unavailable, message)
    }

    /// Something came back, and it is an error.
    pub(crate) fn failed<E>(&self, error: SdkError<E>) -> StoreError
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
        let store_error = match certainty {
            Definite => StoreError::definite(kind, message),
            Unknown => StoreError::unknown(kind, message),
        };
        let not_granted = says_not_granted(&error);
        match error.into_source() {
            Ok(source) if not_granted => store_error.with_source(NotGranted(source)),
            Ok(source) => store_error.with_source(source),
            Err(error) => store_error.with_source(error.to_string()),
        }
    }

    fn service_error(&self, error: &impl ProvideErrorMetadata, status: u16) -> Classified {
        let (kind, certainty) = meaning(error.code(), status);
        let code = error.code().unwrap_or("an error without a code");
        let said = error.message().unwrap_or("no message");
        let advice = if says_not_granted(error) {
            format!("; grant {} on it", self.action)
        } else if kind == Denied {
            "; check the credentials and the clock".to_owned()
        } else if kind == Missing {
            "; does the table exist in this region and account?".to_owned()
        } else {
            String::new()
        };
        (kind, certainty, format!("{self}: {code} ({said}){advice}"))
    }

    fn unreachable(&self, error: &dyn StdError, certainty: Certainty) -> Classified {
        let message = format!("{self}: {}; is the endpoint reachable?", whole_story(error));
        (Unavailable, certainty, message)
    }

    /// The SDK built no request: a setting is missing, or credentials could not be had.
    fn not_sent(&self, error: &dyn StdError) -> Classified {
        let story = whole_story(error);
        let (kind, advice) = match Obstacle::of(&story) {
            Some(Obstacle::NoCredentials) => (
                Denied,
                "give the SDK credentials: a profile, a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ),
            Some(Obstacle::NoRegion) => (
                Denied,
                "give the SDK a region: AWS_REGION, a profile, or SdkConfig",
            ),
            Some(Obstacle::CredentialsFailed) => {
                (Unavailable, "the source of the credentials does not answer")
            }
            None => (Invalid, "the request could not be built"),
        };
        (kind, Definite, format!("{self}: {story}; {advice}"))
    }

    /// Loading credentials and finding the endpoint fail in the same place as the connection does.
    fn not_sent_or_unknown(&self, error: &dyn StdError) -> Classified {
        if Obstacle::of(&whole_story(error)).is_some() {
            self.not_sent(error)
        } else {
            self.unreachable(error, Unknown)
        }
    }
}

/// What keeps the SDK from sending, told from its words: it has no types for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    NoCredentials,
    CredentialsFailed,
    NoRegion,
}

impl Obstacle {
    fn of(story: &str) -> Option<Self> {
        let says = |words: &str| story.contains(words);
        if says("no identity resolver") || says("credential provider was not enabled") {
            Some(Self::NoCredentials)
        } else if says("credential") || says("identity resolver") {
            Some(Self::CredentialsFailed)
        } else {
            says("Missing Region").then_some(Self::NoRegion)
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

/// The error with all its causes, each said once.
fn whole_story(error: &dyn StdError) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !story.contains(&text) {
            story = format!("{story}: {text}");
        }
        cause = next.source();
    }
    story
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
            ("ExpiredToken", Denied, Definite),
            ("ExpiredTokenException", Denied, Definite),
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
        assert_eq!(rows.len(), CODES.len());
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
    fn missing_credentials_are_told_from_credentials_that_could_not_be_fetched() {
        let obstacles = [
            ("no identity resolver for it", Some(Obstacle::NoCredentials)),
            (
                "the credential provider was not enabled: x",
                Some(Obstacle::NoCredentials),
            ),
            (
                "loading credentials timed out after 5s",
                Some(Obstacle::CredentialsFailed),
            ),
            (
                "an error occurred while loading credentials",
                Some(Obstacle::CredentialsFailed),
            ),
            ("Invalid Configuration: Missing Region", Some(Obstacle::NoRegion)),
            ("connection reset by peer", None),
        ];
        for (story, obstacle) in obstacles {
            assert_eq!(Obstacle::of(story), obstacle, "{story}");
        }
    }

    #[test]
    fn a_failing_server_is_never_sure() {
        assert_eq!(meaning(Some("ThrottlingException"), 503), (Throttled, Unknown));
        assert_eq!(meaning(Some("AccessDeniedException"), 500), (Denied, Unknown));
    }
}
