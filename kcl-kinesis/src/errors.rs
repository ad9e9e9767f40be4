//! What an error of the AWS SDK means: one table, and what did not even reach the service.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_types::event_stream::RawMessage;
use kcl_core::source::{SourceError, SourceErrorKind};

use crate::cbor::NOT_CBOR;

use SourceErrorKind::{Denied, Invalid, NotFound, Throttled, Unavailable};

/// The iterator is older than five minutes.
pub(crate) const EXPIRED_ITERATOR: &str = "ExpiredIteratorException";
/// The request makes no sense to the service.
pub(crate) const INVALID_ARGUMENT: &str = "InvalidArgumentException";
/// The stream, the shard or the consumer is not there.
pub(crate) const RESOURCE_NOT_FOUND: &str = "ResourceNotFoundException";
/// The stream or the consumer is being created or deleted, or the shard has a subscription that is too young to be replaced.
pub(crate) const RESOURCE_IN_USE: &str = "ResourceInUseException";
/// The answer did not come, or did not come to its end, in time. No code of the service, but of ours.
pub(crate) const TOO_SLOW: &str = "TooSlow";
/// The request could not be read.
pub(crate) const SERIALIZATION: &str = "SerializationException";
/// The server does not know the operation, or not in this form.
pub(crate) const UNKNOWN_OPERATION: &str = "UnknownOperationException";

/// The error codes of Kinesis and of what stands in front of it: what each means, and what to do where the code alone does not say.
///
/// From the error sections of the Kinesis Data Streams API reference and its "Common Errors".
const CODES: &[(&str, SourceErrorKind, &str)] = &[
    ("ProvisionedThroughputExceededException", Throttled, ""),
    ("LimitExceededException", Throttled, ""),
    ("KMSThrottlingException", Throttled, ""),
    ("ThrottlingException", Throttled, ""),
    ("Throttling", Throttled, ""),
    ("RequestLimitExceeded", Throttled, ""),
    (EXPIRED_ITERATOR, Unavailable, ""),
    (
        "ExpiredNextTokenException",
        Unavailable,
        "list again from the first page",
    ),
    (
        RESOURCE_IN_USE,
        Unavailable,
        "it is being created or deleted, or somebody else has just subscribed to the shard as the same consumer",
    ),
    ("InternalFailureException", Unavailable, ""),
    ("InternalFailure", Unavailable, ""),
    ("InternalServerError", Unavailable, ""),
    ("ServiceUnavailable", Unavailable, ""),
    ("ServiceUnavailableException", Unavailable, ""),
    (RESOURCE_NOT_FOUND, NotFound, NO_STREAM),
    ("AccessDeniedException", Denied, GRANT),
    ("AccessDenied", Denied, GRANT),
    ("NotAuthorized", Denied, GRANT),
    (
        "KMSAccessDeniedException",
        Denied,
        "grant kms:Decrypt on the key of the stream",
    ),
    ("KMSDisabledException", Denied, "enable the KMS key of the stream"),
    (
        "KMSInvalidStateException",
        Denied,
        "the KMS key of the stream must be enabled",
    ),
    (
        "KMSNotFoundException",
        Denied,
        "the KMS key of the stream is gone; restore it or change the encryption",
    ),
    ("KMSOptInRequired", Denied, "activate KMS for the account"),
    (
        "OptInRequired",
        Denied,
        "activate Kinesis, or this region, for the account",
    ),
    ("UnrecognizedClientException", Denied, CREDENTIALS),
    ("InvalidClientTokenId", Denied, CREDENTIALS),
    ("MissingAuthenticationToken", Denied, CREDENTIALS),
    ("MissingAuthenticationTokenException", Denied, CREDENTIALS),
    ("ExpiredToken", Denied, "renew the credentials"),
    ("ExpiredTokenException", Denied, "renew the credentials"),
    ("InvalidSignatureException", Denied, SIGNATURE),
    ("SignatureDoesNotMatch", Denied, SIGNATURE),
    ("IncompleteSignature", Denied, SIGNATURE),
    ("IncompleteSignatureException", Denied, SIGNATURE),
    ("RequestExpired", Denied, SIGNATURE),
    (INVALID_ARGUMENT, Invalid, ""),
    ("ValidationException", Invalid, ""),
    (SERIALIZATION, Invalid, ""),
    (UNKNOWN_OPERATION, Invalid, "is this the endpoint of Kinesis?"),
];

const NO_STREAM: &str = "create it, or correct the name, the region or the account of the credentials";
/// Of the actions that name a consumer instead of a stream.
const NO_CONSUMER: &str = "register the consumer, or correct its name or ARN; or the shard is gone";
const GRANT: &str = "grant the action on the stream to the role of this worker";
const CREDENTIALS: &str = "check the access key and the session token";
const SIGNATURE: &str = "check the secret access key and this host's clock";

/// The actions for which what is not there is most likely the consumer.
const CONSUMER_ACTIONS: [&str; 2] = ["kinesis:SubscribeToShard", "kinesis:DescribeStreamConsumer"];

/// The meaning of an error code that came with this HTTP status, and what to do. A code that is not listed is judged by the status.
pub(crate) fn meaning(code: Option<&str>, status: u16) -> (SourceErrorKind, &'static str) {
    if let Some((_, kind, advice)) = CODES.iter().find(|(listed, ..)| Some(*listed) == code) {
        return (*kind, advice);
    }
    match status {
        429 => (Throttled, ""),
        401 | 403 => (Denied, GRANT),
        400..=499 => (Invalid, ""),
        _ => (Unavailable, ""),
    }
}

/// What was asked, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The action as IAM policies write it, such as `kinesis:GetRecords`.
    pub(crate) action: &'static str,
    /// The stream as the application configured it.
    pub(crate) stream: &'a str,
    pub(crate) shard: Option<&'a str>,
    pub(crate) region: &'a str,
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on ", self.action)?;
        if let Some(shard) = self.shard {
            write!(f, "{shard} of ")?;
        }
        write!(f, "the stream {} in {}", self.stream, self.region)
    }
}

/// A call that failed: what the core is told, and the code for who reads on by it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Option<String>,
    pub(crate) error: SourceError,
}

impl Failure {
    pub(crate) fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl From<Failure> for SourceError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl Request<'_> {
    /// Nothing came back in time.
    pub(crate) fn no_answer(&self, limit: Duration) -> Failure {
        let message = format!("{self}: no answer within {limit:?}; is the endpoint reachable?");
        Failure {
            code: Some(TOO_SLOW.to_owned()),
            error: SourceError::new(Unavailable, message),
        }
    }

    /// The answer began and did not end.
    pub(crate) fn cut_off(&self, error: impl StdError) -> Failure {
        let message = format!("{self}: the answer was cut off: {}", whole_story(&error));
        Failure {
            code: None,
            error: SourceError::new(Unavailable, message),
        }
    }

    /// The answer began, and nothing more of it came for too long, or all of it takes too long.
    pub(crate) fn too_slow(&self, came: usize, announced: Option<u64>, limit: Duration) -> Failure {
        let of = announced.map_or_else(|| "an unknown number of".to_owned(), |bytes| bytes.to_string());
        let message = format!(
            "{self}: {came} of {of} bytes of the answer came, and no more within {limit:?}; the connection is too slow for answers of this size, so fewer records are asked for next"
        );
        Failure {
            code: Some(TOO_SLOW.to_owned()),
            error: SourceError::new(Unavailable, message),
        }
    }

    /// The service answered with less than it promises.
    pub(crate) fn incomplete(&self, what: &str) -> Failure {
        Failure {
            code: None,
            error: SourceError::new(Invalid, format!("{self}: the answer has no {what}")),
        }
    }

    /// The service, or something before it, answered in another form than was asked for.
    pub(crate) fn not_cbor(&self) -> Failure {
        let message = format!("{self}: the answer is not in CBOR");
        Failure {
            code: Some(NOT_CBOR.to_owned()),
            error: SourceError::new(Invalid, message),
        }
    }

    /// Nothing came over a subscription for too long.
    pub(crate) fn silent(&self, limit: Duration) -> Failure {
        self.lost(format!("{self}: no event within {limit:?}"))
    }

    /// A subscription ended before anything came over it.
    pub(crate) fn ended_unheard(&self) -> Failure {
        self.lost(format!("{self}: the subscription ended before its first event"))
    }

    /// A subscription came to a bad end, which is passing: whatever is wrong for longer refuses the next one.
    pub(crate) fn broken<E>(&self, error: SdkError<E, RawMessage>) -> Failure
    where
        E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
    {
        if let SdkError::ServiceError(context) = &error {
            let failure = self.service_error(context.err(), 500);
            return match failure.error.kind() {
                Throttled => failure,
                _ => Failure {
                    error: SourceError::new(Unavailable, failure.error.to_string()),
                    ..failure
                },
            };
        }
        self.lost(format!("{self}: the subscription broke: {}", whole_story(&error)))
    }

    fn lost(&self, message: String) -> Failure {
        Failure {
            code: None,
            error: SourceError::new(Unavailable, message),
        }
    }

    /// Something came back, and it is an error.
    pub(crate) fn failed<E>(&self, error: SdkError<E>) -> Failure
    where
        E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
    {
        if let SdkError::ServiceError(context) = &error {
            // The causes would only repeat what is said here.
            return self.service_error(context.err(), context.raw().status().as_u16());
        }
        let story = whole_story(&error);
        let (kind, advice) = match (&error, Obstacle::of(&story)) {
            (SdkError::TimeoutError(_) | SdkError::ResponseError(_), _) => UNREACHABLE,
            (_, Some(obstacle)) => obstacle.meaning(),
            (SdkError::ConstructionFailure(_), None) => UNSENDABLE,
            (SdkError::DispatchFailure(failure), None) if failure.is_user() => UNSENDABLE,
            (_, None) => UNREACHABLE,
        };
        Failure {
            code: None,
            error: SourceError::new(kind, format!("{self}: {story}; {advice}")),
        }
    }

    fn service_error(&self, error: &impl ProvideErrorMetadata, status: u16) -> Failure {
        let (kind, advice) = match meaning(error.code(), status) {
            (NotFound, _) if CONSUMER_ACTIONS.contains(&self.action) => (NotFound, NO_CONSUMER),
            meaning => meaning,
        };
        let mut message = match error.code() {
            Some(code) => format!("{self}: {code}"),
            None => format!("{self}: HTTP status {status}"),
        };
        // The service explains a wrong signature by quoting the request, with the session token in its headers.
        if let Some(said) = error.message().filter(|_| advice != SIGNATURE) {
            message = format!("{message} ({said})");
        }
        if !advice.is_empty() {
            message = format!("{message}; {advice}");
        }
        Failure {
            code: error.code().map(str::to_owned),
            error: SourceError::new(kind, message),
        }
    }
}

type Meaning = (SourceErrorKind, &'static str);
const UNREACHABLE: Meaning = (Unavailable, "is the endpoint reachable?");
const UNSENDABLE: Meaning = (Invalid, "the request could not be built");

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

    fn meaning(self) -> Meaning {
        match self {
            Self::NoCredentials => (
                Denied,
                "give the SDK credentials: a profile, a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ),
            Self::NoRegion => (
                Denied,
                "give the SDK a region: AWS_REGION, a profile, or SdkConfig",
            ),
            Self::CredentialsFailed => (Unavailable, "the source of the credentials does not answer"),
        }
    }
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
    fn every_code_means_what_the_worker_acts_on() {
        let rows = [
            ("ProvisionedThroughputExceededException", Throttled),
            ("LimitExceededException", Throttled),
            ("KMSThrottlingException", Throttled),
            ("ThrottlingException", Throttled),
            ("Throttling", Throttled),
            ("RequestLimitExceeded", Throttled),
            ("ExpiredIteratorException", Unavailable),
            ("ExpiredNextTokenException", Unavailable),
            ("ResourceInUseException", Unavailable),
            ("InternalFailureException", Unavailable),
            ("InternalFailure", Unavailable),
            ("InternalServerError", Unavailable),
            ("ServiceUnavailable", Unavailable),
            ("ServiceUnavailableException", Unavailable),
            ("ResourceNotFoundException", NotFound),
            ("AccessDeniedException", Denied),
            ("AccessDenied", Denied),
            ("NotAuthorized", Denied),
            ("KMSAccessDeniedException", Denied),
            ("KMSDisabledException", Denied),
            ("KMSInvalidStateException", Denied),
            // The key is gone, not the stream.
            ("KMSNotFoundException", Denied),
            ("KMSOptInRequired", Denied),
            ("OptInRequired", Denied),
            ("UnrecognizedClientException", Denied),
            ("InvalidClientTokenId", Denied),
            ("MissingAuthenticationToken", Denied),
            ("MissingAuthenticationTokenException", Denied),
            ("ExpiredToken", Denied),
            ("ExpiredTokenException", Denied),
            ("InvalidSignatureException", Denied),
            ("SignatureDoesNotMatch", Denied),
            ("IncompleteSignature", Denied),
            ("IncompleteSignatureException", Denied),
            ("RequestExpired", Denied),
            ("InvalidArgumentException", Invalid),
            ("ValidationException", Invalid),
            ("SerializationException", Invalid),
            ("UnknownOperationException", Invalid),
        ];
        for (code, kind) in rows {
            assert_eq!(meaning(Some(code), 400).0, kind, "{code}");
        }
        assert_eq!(rows.len(), CODES.len());
    }

    #[test]
    fn every_denial_says_what_to_do() {
        for (code, _, advice) in CODES.iter().filter(|(_, kind, _)| *kind == Denied) {
            assert!(!advice.is_empty(), "{code}");
        }
    }

    #[test]
    fn a_code_that_nobody_listed_is_judged_by_the_status() {
        let rows = [
            (400, Invalid),
            (401, Denied),
            (403, Denied),
            (404, Invalid),
            (429, Throttled),
            (500, Unavailable),
            (503, Unavailable),
            (200, Unavailable),
        ];
        for (status, kind) in rows {
            assert_eq!(meaning(Some("SomethingNewException"), status).0, kind, "{status}");
            assert_eq!(meaning(None, status).0, kind, "{status}");
        }
    }

    #[test]
    fn missing_credentials_are_told_from_credentials_that_could_not_be_fetched() {
        let rows = [
            ("no identity resolver for it", Some(Obstacle::NoCredentials)),
            (
                "the credential provider was not enabled: x",
                Some(Obstacle::NoCredentials),
            ),
            (
                "loading credentials timed out after 5s",
                Some(Obstacle::CredentialsFailed),
            ),
            ("Invalid Configuration: Missing Region", Some(Obstacle::NoRegion)),
            ("connection reset by peer", None),
        ];
        for (story, obstacle) in rows {
            assert_eq!(Obstacle::of(story), obstacle, "{story}");
        }
    }
}
