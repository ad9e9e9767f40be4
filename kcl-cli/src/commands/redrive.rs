//! `redrive`: puts dead letters into a stream again, so that the workers that run process them.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kcl_core::clock::ClockExt as _;
use kcl_core::dead_letter::DeadLetter;
use kcl_core::types::Record;
use kcl_operations::{LetterId, count_text, letters_to_redrive};
use serde::{Deserialize, Serialize};

use super::held::letters;
use crate::arguments::RedriveOptions;
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::output::{Column, Printer, column, complain, print};
use crate::views::dash;

/// The journal, beside the letters. Its name ends in another way than theirs, so it is not read as letters.
const JOURNAL: &str = "redriven.log";
/// How often a put is tried that the service throttles or does not answer, and the first pause.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A line of the journal: a letter that the service has taken.
#[derive(Debug, Serialize, Deserialize)]
struct JournalLine {
    #[serde(flatten)]
    letter: LetterId,
    redriven_ms: i64,
    to_stream: String,
    to_shard: String,
    to_sequence_number: String,
}

/// The fate of a letter.
#[derive(Debug, Serialize)]
pub(crate) struct RedrivenLetter {
    stream: String,
    shard: String,
    record: String,
    partition_key: Option<String>,
    size_bytes: usize,
    /// `planned`, `redriven` or `left`.
    outcome: &'static str,
    to_stream: String,
    to_shard: Option<String>,
    to_sequence_number: Option<String>,
    problem: Option<String>,
}

/// The document of `kcl redrive`.
#[derive(Debug, Serialize)]
pub(crate) struct RedriveDocument {
    application: String,
    executed: bool,
    /// How many letters the journal has already.
    redriven_before: usize,
    letters: Vec<RedrivenLetter>,
}

impl RedrivenLetter {
    fn new(letter: &DeadLetter, to_stream: &str) -> Self {
        Self {
            stream: letter.stream.clone(),
            shard: letter.shard.to_string(),
            record: letter.record.position().to_string(),
            partition_key: letter.record.partition_key().map(str::to_owned),
            size_bytes: letter.record.data().len(),
            outcome: "planned",
            to_stream: to_stream.to_owned(),
            to_shard: None,
            to_sequence_number: None,
            problem: None,
        }
    }

    fn left(self, problem: impl Into<String>) -> Self {
        Self {
            outcome: "left",
            problem: Some(problem.into()),
            ..self
        }
    }
}

/// `kcl redrive`.
pub(crate) async fn redrive(
    connection: &Connection,
    options: &RedriveOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let application = options.application.as_str();
    let mut all = letters(&options.dead_letters, application)?;
    all.retain(|letter| {
        let shards = options.shards.as_ref();
        shards.is_none_or(|shards| shards.is_match(letter.shard.as_str()))
    });
    let path = options.dead_letters.join(JOURNAL);
    let journal = read_journal(&path)?;
    let count = all.len();
    let shards = letters_to_redrive(all, &journal);
    let redriven_before = count - shards.iter().map(Vec::len).sum::<usize>();
    let mut redriving = Redriving {
        connection,
        options,
        journal: None,
        path,
        left_to_put: options.max.unwrap_or(u64::MAX),
    };
    let mut rows = Vec::new();
    for shard in &shards {
        rows.extend(redriving.shard(shard).await?);
    }
    let is_left = rows.iter().any(|row| row.outcome == "left");
    let document = RedriveDocument {
        application: application.to_owned(),
        executed: options.execute,
        redriven_before,
        letters: rows,
    };
    print(&text(&document, printer))?;
    Ok(Exit::found(is_left))
}

struct Redriving<'a> {
    connection: &'a Connection,
    options: &'a RedriveOptions,
    /// Open from the first letter on that is put.
    journal: Option<File>,
    path: PathBuf,
    left_to_put: u64,
}

impl Redriving<'_> {
    /// Puts the letters of one shard, in their order. One that cannot be put stops those behind it.
    async fn shard(&mut self, letters: &[DeadLetter]) -> Result<Vec<RedrivenLetter>, Failure> {
        let mut rows = Vec::new();
        let mut stopped = false;
        for letter in letters.iter() {
            if self.left_to_put == 0 {
                break;
            }
            let from = letter.stream_arn.as_deref().unwrap_or(&letter.stream);
            let row = RedrivenLetter::new(letter, self.options.to_stream.as_deref().unwrap_or(from));
            let row = match (self.options.execute, stopped) {
                (false, _) => row,
                (true, true) => row.left("behind a record of its shard that could not be put"),
                (true, false) => self.put(letter, row).await?,
            };
            stopped |= row.outcome == "left";
            self.left_to_put -= 1;
            rows.push(row);
        }
        Ok(rows)
    }

    /// Puts the record and notes it, so that it is not put again. A crash between the two leads to a second put.
    async fn put(&mut self, letter: &DeadLetter, row: RedrivenLetter) -> Result<RedrivenLetter, Failure> {
        self.open_journal()?;
        let put = match put(self.connection, &row.to_stream, &letter.record).await {
            Ok(put) => put,
            Err(failure) => return Ok(row.left(failure.message)),
        };
        let line = JournalLine {
            letter: LetterId::of(letter),
            redriven_ms: self.connection.now().as_millis(),
            to_stream: row.to_stream.clone(),
            to_shard: put.0.clone(),
            to_sequence_number: put.1.clone(),
        };
        self.note(&line)?;
        let clock = &self.connection.clock;
        clock.sleep(Duration::from_secs(1) / self.options.rate).await;
        Ok(RedrivenLetter {
            outcome: "redriven",
            to_shard: Some(put.0),
            to_sequence_number: Some(put.1),
            ..row
        })
    }

    /// Opens the journal before anything is put: what cannot be noted is not put.
    fn open_journal(&mut self) -> Result<(), Failure> {
        if self.journal.is_none() {
            let opened = OpenOptions::new().create(true).append(true).open(&self.path);
            let mut journal = opened.map_err(|error| unwritable(&self.path, &error))?;
            // A line that a crash cut off must not take the next one with it.
            let is_torn =
                std::fs::read(&self.path).is_ok_and(|text| text.last().is_some_and(|last| *last != b'\n'));
            if is_torn {
                journal
                    .write_all(b"\n")
                    .map_err(|error| unwritable(&self.path, &error))?;
            }
            self.journal = Some(journal);
        }
        Ok(())
    }

    fn note(&mut self, line: &JournalLine) -> Result<(), Failure> {
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        let text = serde_json::to_string(line).map_err(|error| Failure::usage(error.to_string()))? + "\n";
        let written = journal
            .write_all(text.as_bytes())
            .and_then(|()| journal.sync_data());
        written.map_err(|error| unwritable(&self.path, &error))
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    let path = path.display();
    Failure::usage(format!(
        "{path} cannot be written: {error}; what is put must be noted there, so that it is put once"
    ))
}

/// The letters that were put before. A last line that a crash cut off is none.
fn read_journal(path: &Path) -> Result<BTreeSet<LetterId>, Failure> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(Failure::usage(format!("{}: {error}", path.display()))),
    };
    let mut letters = BTreeSet::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line?;
        if line.is_empty() {
            continue;
        }
        match serde_json::from_str::<JournalLine>(&line) {
            Ok(line) => drop(letters.insert(line.letter)),
            Err(error) => complain(&format!(
                "line {number} of {} is left out: {error}",
                path.display()
            )),
        }
    }
    Ok(letters)
}

/// Puts one record, again while the service throttles or does not answer. Returns the shard and the sequence number that it got.
async fn put(connection: &Connection, stream: &str, record: &Record) -> Result<(String, String), Failure> {
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        match connection.put_again(stream, record).await {
            Err(failure) if failure.exit == Exit::NoAnswer && attempt < TRIES => {
                connection.clock.sleep(pause).await;
                pause *= 2;
                attempt += 1;
            }
            done => return done,
        }
    }
}

fn text(document: &RedriveDocument, printer: Printer) -> String {
    let letters = count_text(document.letters.len(), "dead letter");
    let before = document.redriven_before;
    let heading = match document.executed {
        true => format!("{}: {letters}, {before} redriven before", document.application),
        false => format!(
            "{}: {letters} to be put again, {before} redriven before; --execute does it",
            document.application
        ),
    };
    printer.rows(&heading, &document.letters, &columns(), document)
}

fn columns() -> Vec<Column<RedrivenLetter>> {
    vec![
        column("SHARD", |row: &RedrivenLetter| row.shard.clone()),
        column("RECORD", |row: &RedrivenLetter| row.record.clone()),
        column("KEY", |row: &RedrivenLetter| {
            row.partition_key.clone().unwrap_or_else(dash)
        }),
        column("SIZE", |row: &RedrivenLetter| format!("{} B", row.size_bytes)).number(),
        column("OUTCOME", |row: &RedrivenLetter| row.outcome.to_owned()),
        column("TO-STREAM", |row: &RedrivenLetter| row.to_stream.clone()).wide(),
        column("TO-SHARD", |row: &RedrivenLetter| {
            row.to_shard.clone().unwrap_or_else(dash)
        }),
        column("TO-RECORD", |row: &RedrivenLetter| {
            row.to_sequence_number.clone().unwrap_or_else(dash)
        }),
        column("PROBLEM", |row: &RedrivenLetter| {
            row.problem.clone().unwrap_or_else(dash)
        }),
    ]
}

/// A document with every field, for the test of the documentation.
#[cfg(test)]
pub(crate) fn sample() -> RedriveDocument {
    RedriveDocument {
        application: String::new(),
        executed: false,
        redriven_before: 0,
        letters: vec![RedrivenLetter::new(&sample_letter(), "trucks")],
    }
}

/// A letter, for tests.
#[cfg(test)]
pub(crate) fn sample_letter() -> DeadLetter {
    let record = Record::new(kcl_core::types::SequenceNumber::from(7), "x");
    DeadLetter::new(
        record,
        "trucks",
        "shardId-000000000000".parse().unwrap(),
        kcl_core::types::ApplicationName::new("truck-tracker").unwrap(),
        kcl_core::types::WorkerId::new("w-1").unwrap(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_survives_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JOURNAL);
        assert!(read_journal(&path).unwrap().is_empty());
        let letter = LetterId::of(&sample_letter());
        let line = JournalLine {
            letter: letter.clone(),
            redriven_ms: 1,
            to_stream: "trucks".to_owned(),
            to_shard: "shardId-000000000001".to_owned(),
            to_sequence_number: "8".to_owned(),
        };
        let line = serde_json::to_string(&line).unwrap();
        std::fs::write(&path, format!("{line}\n{}", &line[..20])).unwrap();
        assert_eq!(read_journal(&path).unwrap(), BTreeSet::from([letter]));
    }
}
