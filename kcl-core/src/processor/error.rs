use std::error::Error as StdError;
use std::fmt;

use crate::types::{Record, RecordPosition};

/// A failure of user code, made by `?` from any error: also from a boxed one, from `anyhow::Error` and from a text.
///
/// The error must be `Send` and `Sync`: a `Box<dyn Error>` is not, a `Box<dyn Error + Send + Sync>` is.
///
/// It may say what kind of failure it is, and at which record it happened. The records before that one are finished, and the
/// [policy](crate::processor::ErrorPolicy) decides about it. The default policy tries again in any case.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::types::{Record, SequenceNumber};
/// use kinesis_client::processor::{ProcessorError, Severity};
///
/// fn parse(record: &Record) -> Result<u64, ProcessorError> {
///     let text = std::str::from_utf8(record.data()).map_err(|error| ProcessorError::poison(error).at(record))?;
///     Ok(text.parse()?)
/// }
///
/// let error = parse(&Record::new(SequenceNumber::from(1), &b"\xff"[..])).unwrap_err();
/// assert_eq!(error.severity(), Severity::Poison);
/// assert!(error.position().is_some());
/// ```
pub struct ProcessorError {
    severity: Severity,
    position: Option<RecordPosition>,
    source: Box<dyn StdError + Send + Sync>,
}

/// The user code's own classification of its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Severity {
    /// Nothing is known.
    #[default]
    Unspecified,
    /// It will pass: a sink that does not answer.
    Transient,
    /// The record itself is the problem.
    Poison,
    /// No record can be processed: a sink that is gone for good.
    Fatal,
}

impl Severity {
    const ALL: [Self; 4] = [Self::Unspecified, Self::Transient, Self::Poison, Self::Fatal];

    /// Its name in log lines and dead letters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Transient => "transient",
            Self::Poison => "poison",
            Self::Fatal => "fatal",
        }
    }

    /// The severity with this [name](Self::as_str).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == name)
    }
}

impl ProcessorError {
    /// A failure that will pass.
    pub fn transient(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            severity: Severity::Transient,
            position: None,
            source: source.into(),
        }
    }

    /// A failure that the record itself causes.
    pub fn poison(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            severity: Severity::Poison,
            position: None,
            source: source.into(),
        }
    }

    /// A failure after which no record can be processed.
    pub fn fatal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            severity: Severity::Fatal,
            position: None,
            source: source.into(),
        }
    }

    /// The failure, which happened at this record: the records before it are done.
    #[must_use]
    pub fn at(mut self, record: &Record) -> Self {
        self.position = Some(record.position().clone());
        self
    }

    /// The user code's own classification.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// The record it happened at, where said.
    pub fn position(&self) -> Option<&RecordPosition> {
        self.position.as_ref()
    }

    pub(crate) fn into_cause(self) -> Box<dyn StdError + Send + Sync> {
        self.source
    }

    /// The error that the user's code failed with.
    pub fn cause(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self.source.as_ref()
    }
}

// `ProcessorError` is no `std::error::Error` itself: that is what lets `?` make one from whatever can be boxed as an error.
impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for ProcessorError {
    fn from(error: E) -> Self {
        Self {
            severity: Severity::Unspecified,
            position: None,
            source: error.into(),
        }
    }
}

impl fmt::Display for ProcessorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl fmt::Debug for ProcessorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorError")
            .field("severity", &self.severity)
            .field("position", &self.position)
            .field("source", &self.source)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Converts as `anyhow::Error` and its like do, which are no errors themselves.
    struct Report(&'static str);

    impl From<Report> for Box<dyn StdError + Send + Sync> {
        fn from(report: Report) -> Self {
            report.0.into()
        }
    }

    #[test]
    fn question_mark_takes_boxed_errors_and_reports() {
        fn boxed() -> Result<(), ProcessorError> {
            let failed: Result<(), Box<dyn StdError + Send + Sync>> = Err("boxed".into());
            failed?;
            Ok(())
        }
        fn report() -> Result<(), ProcessorError> {
            Err(Report("report"))?;
            Ok(())
        }
        fn text() -> Result<(), ProcessorError> {
            Err("text")?;
            Ok(())
        }
        fn passed_on() -> Result<(), ProcessorError> {
            Err(ProcessorError::poison("poison"))?;
            Ok(())
        }
        let said = |failed: Result<(), ProcessorError>| failed.unwrap_err().to_string();
        assert_eq!(
            [said(boxed()), said(report()), said(text())],
            ["boxed", "report", "text"]
        );
        assert_eq!(passed_on().unwrap_err().severity(), Severity::Poison);
    }
}
