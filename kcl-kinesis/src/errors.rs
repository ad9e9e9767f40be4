//! The meaning of an error of the AWS SDK: one table, and what did not even reach the service.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_types::event_stream::RawMessage;
use kcl_aws::{CallTimeout, CommonError, TransportError, error_chain, partition_of, service_error_text};
use kcl_core::source::{SourceError, SourceErrorKind};

use crate::cbor::NOT_CBOR;

use SourceErrorKind::{Denied, Invalid, NotFound, Throttled, Unavailable};

/// The iterator is older than five minutes.
pub(crate) const EXPIRED_ITERATOR: &str = "ExpiredIteratorException";
/// Too many requests, or no room for one consumer more.
pub(crate) const LIMIT_EXCEEDED: &str = "LimitExceededException";
/// The request makes no sense to the service.
pub(crate) const INVALID_ARGUMENT: &str = "InvalidArgumentException";
/// The stream, the shard or the consumer is not there.
pub(crate) const RESOURCE_NOT_FOUND: &str = "ResourceNotFoundException";
/// The stream or the consumer is being created or deleted, or the shard has a subscription that is too young to be replaced.
pub(crate) const RESOURCE_IN_USE: &str = "ResourceInUseException";
/// The answer did not come, or did not come to its end, in time, or it is larger than is taken. No code of the service, but of ours.
pub(crate) const TOO_SLOW: &str = "TooSlow";
/// The request could not be read.
pub(crate) const SERIALIZATION: &str = "SerializationException";
/// The server does not know the operation, or not in this form.
pub(crate) const UNKNOWN_OPERATION: &str = "UnknownOperationException";

/// The error codes of Kinesis itself: what each means, and what to do where the code alone does not say.
///
/// From the error sections of the Kinesis Data Streams API reference. The codes of every service are in [`CommonError`].
const CODES: &[(&str, SourceErrorKind, &str)] = &[
    ("KMSThrottlingException", Throttled, ""),
    (EXPIRED_ITERATOR, Unavailable, ""),
    (
        "ExpiredNextTokenException",
        Unavailable,
        "list again from the first page",
    ),
    (
        RESOURCE_IN_USE,
        Unavailable,
        "it is being created or deleted, or the shard has just got another subscription of the same consumer",
    ),
    (RESOURCE_NOT_FOUND, NotFound, NO_STREAM),
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
    (INVALID_ARGUMENT, Invalid, ""),
    (
        "DryRunOperationException",
        Invalid,
        "the request was a dry run and would have succeeded; something between this worker and Kinesis made it one",
    ),
    (UNKNOWN_OPERATION, Invalid, "is this the endpoint of Kinesis?"),
];

const NO_STREAM: &str = "create it, or correct the name, the region or the account of the credentials";
/// Of the actions that name a consumer instead of a stream.
const NO_CONSUMER: &str = "register the consumer, or correct its name or ARN; or the shard is gone";

/// The meaning of an error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) kind: SourceErrorKind,
    pub(crate) advice: &'static str,
    /// A permission is what is missing.
    not_granted: bool,
}

impl Meaning {
    const fn new(kind: SourceErrorKind, advice: &'static str) -> Self {
        Self {
            kind,
            advice,
            not_granted: false,
        }
    }

    const NOT_GRANTED: Self = Self {
        kind: Denied,
        advice: "",
        not_granted: true,
    };
}

/// The meaning of an error code that came with this HTTP status. A code that is not listed is judged by the status.
pub(crate) fn meaning(code: Option<&str>, status: u16) -> Meaning {
    if let Some((_, kind, advice)) = CODES.iter().find(|(listed, ..)| Some(*listed) == code) {
        return Meaning::new(*kind, advice);
    }
    let known = CommonError::of(code);
    let advice = known.map_or("", CommonError::advice);
    match known {
        Some(CommonError::Throttled) => Meaning::new(Throttled, advice),
        // Credentials that are too old heal by themselves where their source renews them.
        Some(CommonError::Unavailable | CommonError::Expired) => Meaning::new(Unavailable, advice),
        Some(CommonError::NotGranted) => Meaning::NOT_GRANTED,
        Some(CommonError::Credentials | CommonError::Signature | CommonError::NotActivated) => {
            Meaning::new(Denied, advice)
        }
        Some(CommonError::Invalid) => Meaning::new(Invalid, advice),
        Some(_) | None => match status {
            429 => Meaning::new(Throttled, ""),
            401 | 403 => Meaning::NOT_GRANTED,
            400..=499 => Meaning::new(Invalid, ""),
            _ => Meaning::new(Unavailable, ""),
        },
    }
}

/// The request, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The action as IAM policies write it, such as `kinesis:GetRecords`.
    pub(crate) action: &'static str,
    /// The stream as the application configured it.
    pub(crate) stream: &'a str,
    pub(crate) shard: Option<&'a str>,
    pub(crate) region: Option<&'a str>,
    /// The resource as IAM policies name it.
    pub(crate) resource: Resource<'a>,
}

/// The resource that an action is granted on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Resource<'a> {
    /// The stream, by its ARN if that is known.
    Stream(Option<&'a str>),
    /// The consumer with this ARN.
    Consumer(&'a str),
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on ", self.action)?;
        if let Some(shard) = self.shard {
            write!(f, "{shard} of ")?;
        }
        let region = self.region.unwrap_or("no region");
        write!(f, "the stream {} in {region}", self.stream)
    }
}

/// A call that failed: the error for the core, and the code for readers that go on by it.
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
    /// The right to grant.
    fn grant(&self) -> String {
        let resource = match self.resource {
            Resource::Stream(Some(arn)) | Resource::Consumer(arn) => arn.to_owned(),
            Resource::Stream(None) => {
                let region = self.region.unwrap_or("*");
                let partition = partition_of(region);
                format!("arn:{partition}:kinesis:{region}:*:stream/{}", self.stream)
            }
        };
        format!("grant {} on {resource} to the role of this worker", self.action)
    }

    /// Nothing came back in time.
    pub(crate) fn late(&self, late: CallTimeout, limit: Duration) -> Failure {
        let message = match late {
            CallTimeout::NotSent => {
                format!("{self}: the request was not sent: the credentials did not come within {limit:?}")
            }
            CallTimeout::NoAnswer => {
                format!("{self}: no answer within {limit:?}; is the endpoint reachable?")
            }
        };
        Failure {
            // That credentials are slow says nothing about answers.
            code: (late == CallTimeout::NoAnswer).then(|| TOO_SLOW.to_owned()),
            error: SourceError::new(Unavailable, message),
        }
    }

    /// The answer began and did not end.
    pub(crate) fn cut_off(&self, error: impl StdError) -> Failure {
        let message = format!("{self}: the answer was cut off: {}", error_chain(&error));
        Failure {
            code: None,
            error: SourceError::new(Unavailable, message),
        }
    }

    /// The answer began, and then nothing more came for too long, or the whole takes too long.
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

    /// The answer has more bytes than are taken.
    pub(crate) fn too_large(&self, limit: u64) -> Failure {
        let message = format!(
            "{self}: the answer is too large: more than {limit} bytes; fewer records are asked for next"
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

    /// The answer has nothing of what every answer of the service has.
    pub(crate) fn without_content(&self) -> Failure {
        let message = format!(
            "{self}: the answer has no content; does a proxy or a load balancer stand before the service?"
        );
        Failure {
            code: None,
            error: SourceError::new(Unavailable, message),
        }
    }

    /// The service answered for a stream that was not asked for.
    pub(crate) fn wrong_stream(&self, name: &str) -> Failure {
        Failure {
            code: None,
            error: SourceError::new(
                Invalid,
                format!("{self}: the answer is about the stream {name:?}"),
            ),
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
    pub(crate) fn ended_without_event(&self) -> Failure {
        self.lost(format!("{self}: the subscription ended before its first event"))
    }

    /// A subscription came to a bad end, which is passing: whatever is wrong for longer refuses the next one.
    pub(crate) fn broken<E>(&self, error: SdkError<E, RawMessage>) -> Failure
    where
        E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
    {
        if let SdkError::ServiceError(context) = &error {
            let failure = self.service_error(context.err(), 500);
            if failure.error.kind() == Throttled {
                return failure;
            }
            return Failure {
                error: SourceError::new(Unavailable, failure.error.to_string()),
                ..failure
            };
        }
        self.lost(format!("{self}: the subscription broke: {}", error_chain(&error)))
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
        let (class, text) = TransportError::classify(&error);
        let kind = match class {
            TransportError::NotSent(Some(reason)) if reason.is_transient() => Unavailable,
            TransportError::NotSent(Some(_)) => Denied,
            TransportError::NotSent(None) => Invalid,
            TransportError::Refused | TransportError::Unreachable => Unavailable,
        };
        Failure {
            code: None,
            error: SourceError::new(kind, format!("{self}: {text}")),
        }
    }

    fn service_error(&self, error: &impl ProvideErrorMetadata, status: u16) -> Failure {
        let meaning = meaning(error.code(), status);
        let advice = match (meaning.kind, self.resource) {
            _ if meaning.not_granted => self.grant(),
            (NotFound, Resource::Consumer(_)) => NO_CONSUMER.to_owned(),
            _ => meaning.advice.to_owned(),
        };
        let message = service_error_text(self, error, status, &advice);
        Failure {
            code: error.code().map(str::to_owned),
            error: SourceError::new(meaning.kind, message),
        }
    }
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
            ("ExpiredToken", Unavailable),
            ("ExpiredTokenException", Unavailable),
            ("InvalidSignatureException", Denied),
            ("SignatureDoesNotMatch", Denied),
            ("IncompleteSignature", Denied),
            ("IncompleteSignatureException", Denied),
            ("RequestExpired", Denied),
            ("InvalidArgumentException", Invalid),
            ("ValidationException", Invalid),
            ("SerializationException", Invalid),
            ("UnknownOperationException", Invalid),
            ("DryRunOperationException", Invalid),
        ];
        for (code, kind) in rows {
            assert_eq!(meaning(Some(code), 400).kind, kind, "{code}");
        }
        for (code, ..) in CODES {
            assert!(rows.iter().any(|(row, _)| row == code), "{code}");
        }
    }

    #[test]
    fn every_denial_says_what_to_do() {
        for code in CODES.iter().map(|(code, ..)| *code).chain(CommonError::listed()) {
            let meaning = meaning(Some(code), 400);
            let says = meaning.not_granted || !meaning.advice.is_empty();
            assert!(meaning.kind != Denied || says, "{code}");
        }
    }

    #[test]
    fn unlisted_code_is_judged_by_the_status() {
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
            assert_eq!(
                meaning(Some("SomethingNewException"), status).kind,
                kind,
                "{status}"
            );
            assert_eq!(meaning(None, status).kind, kind, "{status}");
        }
    }
}
