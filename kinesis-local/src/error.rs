//! The errors of the service, by the names that its API reference gives them.

use kcl_core::source::{SourceError, SourceErrorKind};

use super::operation::Operation;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceError {
    pub(super) code: &'static str,
    pub(super) status: u16,
    message: String,
}

impl ServiceError {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            status: 400,
            message: message.into(),
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidArgumentException", message)
    }

    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    pub(super) fn serialization(message: impl Into<String>) -> Self {
        Self::new("SerializationException", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new("ResourceNotFoundException", message)
    }

    pub(super) fn in_use(message: impl Into<String>) -> Self {
        Self::new("ResourceInUseException", message)
    }

    pub(super) fn limit(message: impl Into<String>) -> Self {
        Self::new("LimitExceededException", message)
    }

    pub(super) fn throughput(message: impl Into<String>) -> Self {
        Self::new("ProvisionedThroughputExceededException", message)
    }

    pub(super) fn expired_iterator(message: impl Into<String>) -> Self {
        Self::new("ExpiredIteratorException", message)
    }

    pub(super) fn expired_token(message: impl Into<String>) -> Self {
        Self::new("ExpiredNextTokenException", message)
    }

    /// The answer to a call with `DryRun` that would have succeeded.
    pub(super) fn dry_run() -> Self {
        Self::new(
            "DryRunOperationException",
            "The request would have succeeded, but the DryRun flag is set.",
        )
    }

    pub(super) fn unknown_operation(target: &str) -> Self {
        Self::new(
            "UnknownOperationException",
            format!("this server does not know the operation {target:?}"),
        )
    }

    pub(super) fn internal() -> Self {
        Self {
            status: 500,
            ..Self::new("InternalFailureException", "a failure that a test asked for")
        }
    }

    pub(super) fn unsupported_media(content_type: &str) -> Self {
        Self {
            status: 415,
            ..Self::serialization(format!("the content type {content_type:?} is not served here"))
        }
    }

    /// How the service throttles this operation.
    pub(super) fn throttled(operation: Operation, message: impl Into<String>) -> Self {
        if operation.moves_records() {
            Self::throughput(message)
        } else {
            Self::limit(message)
        }
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl From<SourceError> for ServiceError {
    fn from(error: SourceError) -> Self {
        let message = error.to_string();
        if error.kind() == SourceErrorKind::NotFound {
            Self::not_found(message)
        } else {
            // What a stream in memory refuses otherwise makes no sense.
            Self::invalid(message)
        }
    }
}
