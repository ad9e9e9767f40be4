//! The one public error of the worker, and what to do about each kind of it.

use std::error::Error as StdError;
use std::fmt;

/// What a worker, or the building of one, failed with.
///
/// `Display` is one line saying what was being done and why it failed; [`source`](StdError::source) has the cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The settings contradict each other or the world. Do: correct what the message names, then start again.
    Configuration,
    /// Stream or table do not exist, or are not what this application created. Do: check the names, then start again.
    Mismatch,
    /// A service refuses us. Do: give the permission that the message names.
    Denied,
    /// A service did not answer in time. Do: start again later, or correct the endpoint.
    Unavailable,
    /// Another process runs under this worker id and is newer. Do: give every worker its own id.
    Superseded,
    /// A bug in this library. Do: report it with the message.
    Internal,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The causes of an error on one line, outermost first: for logs, which show one line per event.
#[derive(Debug)]
pub struct Causes<'a>(pub &'a dyn StdError);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_the_message_and_the_causes_follow_on_one_line() {
        let error = Error::new(ErrorKind::Denied, "cannot scan the table").with_source("access denied");
        assert_eq!(error.to_string(), "cannot scan the table");
        assert_eq!(Causes(&error).to_string(), "cannot scan the table: access denied");
    }
}
