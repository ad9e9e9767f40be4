//! How a command ends: an exit code that scripts can use, and a text that says what to do.

use kcl_core::lease_store::{StoreError, StoreErrorKind};
use kcl_core::source::{SourceError, SourceErrorKind};

/// The exit codes, for the help.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  fine
  1  something was found: a stuck shard (status --stuck, why), too much lag (lag --max-lag), a finding (doctor),
     an order that was refused or not answered in time, a place that cannot be exported or imported
  2  the command line is wrong
  3  no access: credentials or a right are missing
  4  not found: no such table, stream, shard or application, or a table of something else
  5  no answer: the endpoint cannot be reached, or throttles";

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Fine = 0,
    Found = 1,
    Usage = 2,
    NoAccess = 3,
    NotFound = 4,
    NoAnswer = 5,
}

impl Exit {
    /// The exit code of a command that found something, or not.
    pub(crate) fn found(is_found: bool) -> Self {
        match is_found {
            true => Self::Found,
            false => Self::Fine,
        }
    }
}

/// A command that could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match error.kind() {
            StoreErrorKind::Denied => Exit::NoAccess,
            StoreErrorKind::Missing | StoreErrorKind::Foreign | StoreErrorKind::Data => Exit::NotFound,
            StoreErrorKind::Invalid => Exit::Usage,
            StoreErrorKind::Throttled | StoreErrorKind::Unavailable | _ => Exit::NoAnswer,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let exit = match error.kind() {
            SourceErrorKind::Denied => Exit::NoAccess,
            SourceErrorKind::NotFound => Exit::NotFound,
            SourceErrorKind::Invalid => Exit::Usage,
            SourceErrorKind::Throttled | SourceErrorKind::Unavailable | _ => Exit::NoAnswer,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::NoAnswer, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_in_the_help() {
        for exit in [
            Exit::Fine,
            Exit::Found,
            Exit::Usage,
            Exit::NoAccess,
            Exit::NotFound,
            Exit::NoAnswer,
        ] {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }

    #[test]
    fn kinds_of_errors_have_their_exit_codes() {
        let exit = |kind| Failure::from(StoreError::definite(kind, "x")).exit;
        assert_eq!(exit(StoreErrorKind::Denied), Exit::NoAccess);
        assert_eq!(exit(StoreErrorKind::Missing), Exit::NotFound);
        assert_eq!(exit(StoreErrorKind::Foreign), Exit::NotFound);
        assert_eq!(exit(StoreErrorKind::Throttled), Exit::NoAnswer);
        let exit = |kind| Failure::from(SourceError::new(kind, "x")).exit;
        assert_eq!(exit(SourceErrorKind::Denied), Exit::NoAccess);
        assert_eq!(exit(SourceErrorKind::NotFound), Exit::NotFound);
    }
}
