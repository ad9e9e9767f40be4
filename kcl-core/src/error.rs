//! The one public error of the worker, and what to do about each of its kinds.

use std::error::Error as StdError;
use std::fmt;

/// The failure of a worker, or of building one.
///
/// `Display` is one line: what was being done, why it failed and what to do. It shows the causes, so [`source`](StdError::source) has none
/// and no reporter prints them twice; [`cause`](Self::cause) has the first. `Debug`, which is what a `main` that returns the error prints,
/// is the [kind](Self::kind) before that line.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The reaction that fits an [`Error`].
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
    /// Your code failed, and the error policy says to stop. Do: what the message asks for, then start again.
    Processing,
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

    /// The reaction that fits it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The error that it was made of, if any, to be looked at by its type.
    pub fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.source.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {}", Causes(source.as_ref())),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl StdError for Error {}

/// An error and its causes on one line, outermost first: for logs, which show one line per event.
///
/// A cause that the text before it already ends with is not repeated: many errors of other libraries show their cause in their own text.
#[derive(Debug)]
pub struct Causes<'a>(pub &'a dyn StdError);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = self.0.to_string();
        f.write_str(&before)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !before.ends_with(&text) {
                write!(f, ": {text}")?;
                before = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{SourceError, SourceErrorKind};

    #[test]
    fn display_shows_every_cause_once() {
        let refused = std::io::Error::other("connection refused");
        let source = SourceError::new(SourceErrorKind::Unavailable, "no answer").with_source(refused);
        let error = Error::new(ErrorKind::Unavailable, "cannot find the stream").with_source(source);
        let line = "cannot find the stream: no answer: connection refused";
        assert_eq!(error.to_string(), line);
        assert_eq!(format!("{error:?}"), format!("Unavailable: {line}"));
        assert_eq!(Causes(&error).to_string(), line);
        assert!(error.cause().is_some_and(|cause| cause.is::<SourceError>()));
    }

    #[test]
    fn cause_shown_by_its_error_is_not_repeated() {
        let refused = std::io::Error::other("connection refused");
        let text = format!("cannot connect: {refused}");
        let source = SourceError::new(SourceErrorKind::Unavailable, text).with_source(refused);
        assert_eq!(Causes(&source).to_string(), "cannot connect: connection refused");
    }
}
