//! Letters back from files.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use kcl_core::dead_letter::DeadLetter;

use crate::format::{InvalidLetter, decode};

/// The longest line that is read: a record of 10 MiB in base64, with all that stands beside it.
const LONGEST_LINE: u64 = 32 * 1024 * 1024;

/// A letter, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LetterLine {
    /// The letter.
    pub letter: DeadLetter,
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: u64,
}

/// Files of dead letters could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A file or the folder cannot be read.
    #[error("cannot read {}", .file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no letter. Take it out of the file, or correct it.
    #[error("{}:{line}: {source}", .file.display())]
    Invalid {
        /// In which file.
        file: PathBuf,
        /// In which line, from 1.
        line: u64,
        /// The fault of the line.
        source: InvalidLetter,
    },
    /// A line is longer than any letter.
    #[error("{}:{line}: longer than 32 MiB, so it is no dead letter", .file.display())]
    TooLong {
        /// In which file.
        file: PathBuf,
        /// In which line, from 1.
        line: u64,
    },
}

/// Reads every file `*.ndjson` of the folder: the letters in the order of their streams, shards and positions. Of a letter that stands in
/// several lines, the one that failed last is kept. All letters are in memory at once.
///
/// # Errors
///
/// The first thing that cannot be read. A last line without an end is no error: it was cut off by a crash, and never acknowledged.
pub fn read_folder(folder: impl AsRef<Path>) -> Result<Vec<LetterLine>, ReadError> {
    let folder = folder.as_ref();
    let failed = |source| ReadError::Io {
        file: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "ndjson") {
            files.push(path);
        }
    }
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        read_file(&file, &mut lines)?;
    }
    lines.sort_by_cached_key(|line| (line.letter.key(), std::cmp::Reverse(line.letter.last_failure)));
    lines.dedup_by_key(|line| line.letter.key());
    Ok(lines)
}

fn read_file(file: &Path, lines: &mut Vec<LetterLine>) -> Result<(), ReadError> {
    let failed = |source| ReadError::Io {
        file: file.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(file).map_err(failed)?);
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        reader
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut bytes)
            .map_err(failed)?;
        if bytes.is_empty() {
            break;
        }
        if bytes.last() != Some(&b'\n') {
            if bytes.len() as u64 >= LONGEST_LINE {
                return Err(ReadError::TooLong {
                    file: file.to_owned(),
                    line,
                });
            }
            tracing::warn!(file = %file.display(), line, "left out a dead letter that a crash cut off");
            break;
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let letter = decode(&bytes).map_err(|source| ReadError::Invalid {
            file: file.to_owned(),
            line,
            source,
        })?;
        lines.push(LetterLine {
            letter,
            file: file.to_owned(),
            line,
        });
    }
    Ok(())
}
