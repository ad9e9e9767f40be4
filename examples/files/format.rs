//! The lines of a file. The first is a [`Header`], the last a [`Footer`], and each between is a record, all as JSON objects.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kinesis_client::types::{RecordPosition, SequenceNumber, Timestamp};
use kinesis_client::{Record, ShardContext};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// The position of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The sequence number, as Kinesis spells it.
    pub sequence_number: String,
    /// The index in an aggregated record.
    pub sub_sequence_number: u64,
}

/// The first line: where the records come from, and the writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format: 1.
    pub version: u32,
    /// The application.
    pub application: String,
    /// The name of the stream.
    pub stream: String,
    /// The shard.
    pub shard: String,
    /// The writer.
    pub worker: String,
    /// The token of its ownership.
    pub fencing_token: u64,
    /// The end of the file before; absent in the first file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Place>,
}

/// The line of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordLine {
    /// Its position.
    #[serde(flatten)]
    pub place: Place,
    /// Its partition key, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_key: Option<String>,
    /// Its arrival at the service, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived: Option<Timestamp>,
    /// Its payload in base64.
    pub data: String,
}

/// The last line. A file without one is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// The position of the first record.
    pub first: Place,
    /// The position of the last record.
    pub last: Place,
    /// How many there are.
    pub records: usize,
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFile {
    /// The first line.
    pub header: Header,
    /// The records.
    pub records: Vec<RecordLine>,
    /// The last line.
    pub footer: Footer,
}

/// A file is none of these, or not whole. The text quotes nothing of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFile {
    /// A line is no JSON object of its kind, or is torn.
    #[error("a line of the file is torn, or is not what it should be")]
    Line,
    /// The format is of a later version.
    #[error("the file is of a later version")]
    Version,
    /// The file has no records between its two ends, or they are not in order.
    #[error("the positions in the file are out of order")]
    OutOfOrder,
    /// The last line does not fit the records.
    #[error("the last line of the file does not fit its records")]
    Footer,
    /// The file does not begin where the one before ends, or has another name.
    #[error("the file does not begin at the end of the one before")]
    Chain,
}

impl From<&RecordPosition> for Place {
    fn from(position: &RecordPosition) -> Self {
        Self {
            sequence_number: position.sequence.as_str().to_owned(),
            sub_sequence_number: position.sub_sequence,
        }
    }
}

impl Place {
    /// The position.
    ///
    /// # Errors
    ///
    /// [`InvalidFile::Line`] when it is none.
    pub fn position(&self) -> Result<RecordPosition, InvalidFile> {
        let sequence = SequenceNumber::new(self.sequence_number.as_str()).map_err(|_| InvalidFile::Line)?;
        Ok(RecordPosition {
            sequence,
            sub_sequence: self.sub_sequence_number,
        })
    }
}

impl Header {
    pub(crate) fn of(shard: &ShardContext, after: Option<&RecordPosition>) -> Self {
        Self {
            version: VERSION,
            application: shard.application().as_str().to_owned(),
            stream: shard.stream().to_owned(),
            shard: shard.shard().as_str().to_owned(),
            worker: shard.worker().as_str().to_owned(),
            fencing_token: shard.fencing_token().as_u64(),
            after: after.map(Place::from),
        }
    }

    pub(crate) fn line(&self) -> Result<String, serde_json::Error> {
        line(self)
    }
}

impl Footer {
    /// More bytes than a footer can have: two sequence numbers of 129 digits, three other numbers, and the names.
    pub(crate) const LONGEST: u64 = 1024;

    pub(crate) fn of(first: &RecordPosition, last: &RecordPosition, records: usize) -> Self {
        Self {
            first: first.into(),
            last: last.into(),
            records,
        }
    }

    pub(crate) fn line(&self) -> Result<String, serde_json::Error> {
        line(self)
    }

    /// The footer of a file of which these are the last bytes.
    pub(crate) fn at_end_of(tail: &[u8]) -> Result<Self, InvalidFile> {
        let whole = tail.strip_suffix(b"\n").ok_or(InvalidFile::Line)?;
        let line = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or(whole);
        parsed(line)
    }
}

impl RecordLine {
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            place: record.position().into(),
            partition_key: record.partition_key().map(str::to_owned),
            arrived: record.approximate_arrival(),
            data: STANDARD.encode(record.data()),
        }
    }

    pub(crate) fn line(&self) -> Result<String, serde_json::Error> {
        line(self)
    }

    /// The payload.
    ///
    /// # Errors
    ///
    /// [`InvalidFile::Line`] when it is no base64.
    pub fn payload(&self) -> Result<Vec<u8>, InvalidFile> {
        STANDARD.decode(&self.data).map_err(|_| InvalidFile::Line)
    }
}

impl RecordFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// The file is not whole, or contradicts itself.
    pub fn read(file: &[u8]) -> Result<Self, InvalidFile> {
        let whole = file.strip_suffix(b"\n").ok_or(InvalidFile::Line)?;
        let lines: Vec<&[u8]> = whole.split(|byte| *byte == b'\n').collect();
        let [header, records @ .., footer] = &lines[..] else {
            return Err(InvalidFile::Line);
        };
        let header: Header = parsed(header)?;
        if header.version != VERSION {
            return Err(InvalidFile::Version);
        }
        let records: Vec<RecordLine> = records
            .iter()
            .map(|line| parsed(line))
            .collect::<Result<_, _>>()?;
        let footer: Footer = parsed(footer)?;
        let mut last = header.after.as_ref().map(Place::position).transpose()?;
        for record in &records {
            let position = record.place.position()?;
            if last.as_ref().is_some_and(|last| *last >= position) {
                return Err(InvalidFile::OutOfOrder);
            }
            last = Some(position);
        }
        let ends = (
            records.first().map(|first| &first.place),
            records.last().map(|last| &last.place),
        );
        if ends != (Some(&footer.first), Some(&footer.last)) || records.len() != footer.records {
            return Err(InvalidFile::Footer);
        }
        Ok(Self {
            header,
            records,
            footer,
        })
    }
}

fn line(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(line)
}

/// Without the text of the parser, which may quote the line.
fn parsed<T: DeserializeOwned>(line: &[u8]) -> Result<T, InvalidFile> {
    serde_json::from_slice(line).map_err(|_| InvalidFile::Line)
}
