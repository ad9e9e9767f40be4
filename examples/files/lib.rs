//! Writes the records of a stream into files of an object store: a local folder, or a bucket. Each record is in one file, once.
//!
//! The files of a shard are a chain. Each has the records that come after the last one of the file before, and its name is the position of
//! that one. A file is written whole, and only if there is none of its name: the first writer of a name decides where the file ends, and
//! every other goes on behind that end. So a late owner of the shard and its successor continue one chain.
//!
//! The checkpoint moves only to the end of a file that is there.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod faulty_store;
pub mod format;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use kinesis_client::clock::{Clock as _, Moment, TokioClock};
use kinesis_client::processor::{EndOfShard, RecordProcessorFactory};
use kinesis_client::settings::CheckpointMode;
use kinesis_client::types::RecordPosition;
use kinesis_client::{ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom, async_trait};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, PutMode};

use crate::format::{Footer, Header, InvalidFile, Place, RecordFile, RecordLine};

/// When a file is written: at the first limit that is reached.
#[derive(Debug, Clone, Copy)]
pub struct FileLimits {
    /// Bytes. A file is larger by at most one record, and is put in one call. While it is put, it is in memory twice.
    pub bytes: usize,
    /// Records.
    pub records: usize,
    /// The time since its first record came. It is looked at with each batch and each tick, so `tick_interval` is well below it.
    pub age: Duration,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            records: 1_000_000,
            age: Duration::from_secs(60),
        }
    }
}

/// A store and a folder in it: the factory that a worker is given.
#[derive(Debug)]
pub struct FileArchive {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The folder, in which each shard has its own.
    pub folder: Path,
    /// When a file is written.
    pub limits: FileLimits,
}

impl RecordProcessorFactory for FileArchive {
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        let store = Arc::clone(&self.store);
        Box::new(RecordFiles::new(store, &self.folder, self.limits, shard))
    }

    /// Others would pass records that are collected and in no file.
    fn checkpoint_mode(&self) -> Option<CheckpointMode> {
        Some(CheckpointMode::Manual)
    }
}

/// Collects the records of one shard and writes them as files. It needs manual checkpoints, for which [`FileArchive`] asks.
#[derive(Debug)]
pub struct RecordFiles {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    limits: FileLimits,
    clock: TokioClock,
    /// The end of the file before: the next file has the records after it, and its name. `None` before the first file.
    after: Option<RecordPosition>,
    /// Whether a file of that name may be there: another owner may have written it, or an earlier call of this one.
    may_exist: bool,
    /// The records after it, each as its line.
    lines: Vec<(RecordPosition, String)>,
    bytes: usize,
    /// When the first of them came.
    since: Moment,
    /// The newest record that was seen, as its batch and its index in it, until it is checkpointed.
    newest: Option<(RecordBatch, usize)>,
}

impl RecordFiles {
    /// The processor of one ownership of a shard. Its files are in `folder`, in a folder for the application, the stream and the shard.
    pub fn new(store: Arc<dyn ObjectStore>, folder: &Path, limits: FileLimits, shard: &ShardContext) -> Self {
        let clock = TokioClock::new();
        Self {
            store,
            folder: shard_folder(folder, shard),
            limits,
            since: clock.now(),
            clock,
            after: shard.checkpoint().and_then(|stored| stored.record().cloned()),
            may_exist: true,
            lines: Vec::new(),
            bytes: 0,
            newest: None,
        }
    }

    /// Takes the record unless it is in a file, or was taken before: a batch comes again after an error.
    fn collect(&mut self, batch: &RecordBatch, index: usize) -> Result<(), ProcessorError> {
        let record = &batch[index];
        let position = record.position();
        let known = self.lines.last().map(|(last, _)| last).or(self.after.as_ref());
        if known.is_some_and(|known| position < known) {
            return Ok(());
        }
        if known != Some(position) {
            if self.lines.is_empty() {
                self.since = self.clock.now();
            }
            let line = RecordLine::of(record).line()?;
            self.bytes += line.len();
            self.lines.push((position.detached(), line));
        }
        self.newest = Some((batch.clone(), index));
        Ok(())
    }

    fn is_due(&self) -> bool {
        let is_full = self.bytes >= self.limits.bytes || self.lines.len() >= self.limits.records;
        let age = self.clock.now().saturating_since(self.since);
        !self.lines.is_empty() && (is_full || age >= self.limits.age)
    }

    /// Writes what was collected, behind what others have written, and checkpoints it.
    async fn flush(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        while let [(first, _), ..] = &self.lines[..]
            && let [.., (last, _)] = &self.lines[..]
        {
            let name = file_name(self.after.as_ref());
            let path = self.folder.clone().join(name.as_str());
            if self.may_exist {
                match self.end_of(&path).await? {
                    Some(end) => {
                        self.go_on_after(end);
                        continue;
                    }
                    None => self.may_exist = false,
                }
            }
            let end = last.clone();
            let footer = Footer::of(first, last, self.lines.len());
            let file = self.file(&Header::of(shard, self.after.as_ref()), &footer)?;
            match self
                .store
                .put_opts(&path, file.into(), PutMode::Create.into())
                .await
            {
                Ok(_) => self.go_on_after(end),
                Err(Error::AlreadyExists { .. }) => {
                    self.may_exist = true;
                    // S3 answers so as well while two are writing, and one of them may still fail.
                    let end = self.end_of(&path).await?;
                    self.go_on_after(
                        end.ok_or_else(|| ProcessorError::transient("another writer is at this file"))?,
                    );
                }
                Err(error) => {
                    // It may be there nevertheless, now or later.
                    self.may_exist = true;
                    return Err(ProcessorError::transient(error));
                }
            }
        }
        self.checkpoint().await
    }

    /// Every record up to this end is in a file.
    fn go_on_after(&mut self, end: RecordPosition) {
        let written = self.lines.partition_point(|(position, _)| *position <= end);
        self.bytes -= self
            .lines
            .drain(..written)
            .map(|(_, line)| line.len())
            .sum::<usize>();
        self.after = Some(end);
    }

    /// Checkpoints the newest record if a file ends with it. A position inside a file would begin a second chain.
    async fn checkpoint(&mut self) -> Result<(), ProcessorError> {
        if let Some((batch, index)) = &self.newest
            && self.after.as_ref() == Some(batch[*index].position())
        {
            batch.checkpoint_through(*index).await?;
            self.newest = None;
        }
        Ok(())
    }

    /// Returns where the file of this path ends, or `None` if there is none.
    async fn end_of(&self, path: &Path) -> Result<Option<RecordPosition>, ProcessorError> {
        let range = GetRange::Suffix(Footer::LONGEST);
        let got = self
            .store
            .get_opts(path, GetOptions::new().with_range(Some(range)))
            .await;
        let tail = match got {
            Ok(got) => got.bytes().await.map_err(ProcessorError::transient)?,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(ProcessorError::transient(error)),
        };
        let end = Footer::at_end_of(&tail)?.last.position()?;
        if self.after.as_ref().is_some_and(|after| *after >= end) {
            return Err(InvalidFile::OutOfOrder.into());
        }
        Ok(Some(end))
    }

    fn file(&self, header: &Header, footer: &Footer) -> Result<Vec<u8>, ProcessorError> {
        let (header, footer) = (header.line()?, footer.line()?);
        let mut file = Vec::with_capacity(header.len() + self.bytes + footer.len());
        file.extend_from_slice(header.as_bytes());
        for (_, line) in &self.lines {
            file.extend_from_slice(line.as_bytes());
        }
        file.extend_from_slice(footer.as_bytes());
        Ok(file)
    }
}

#[async_trait]
impl RecordProcessor for RecordFiles {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        if shard.is_redrive() {
            return Err(ProcessorError::fatal(
                "the files go on behind the records of dead letters",
            ));
        }
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        for index in 0..batch.len() {
            if self.is_due() {
                self.flush(shard).await?;
            }
            self.collect(&batch, index)?;
        }
        self.tick(shard).await
    }

    /// Called while no records come, so that the last ones do not wait for others.
    async fn tick(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        if self.is_due() {
            return self.flush(shard).await;
        }
        self.checkpoint().await
    }

    async fn shutdown_requested(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.flush(shard).await
    }

    async fn shard_ended(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.flush(shard).await
    }

    /// Every record is in a file by then. A record that another owner has written last, and that a policy has set aside here, is checkpointed
    /// by nobody.
    fn end_of_shard(&self) -> EndOfShard {
        EndOfShard::AllFinished
    }
}

/// The folder of the shard's files.
pub fn shard_folder(folder: &Path, shard: &ShardContext) -> Path {
    let parts = [
        shard.application().as_str(),
        shard.stream(),
        shard.shard().as_str(),
    ];
    parts.into_iter().fold(folder.clone(), Path::join)
}

/// The name of the file that begins after this record. Names sort as positions do: a sequence number of Kinesis has 56 digits.
pub fn file_name(after: Option<&RecordPosition>) -> String {
    let (sequence, sub_sequence) =
        after.map_or(("", 0), |after| (after.sequence.as_str(), after.sub_sequence));
    format!("{sequence:0>56}-{sub_sequence:0>8}.ndjson")
}

/// Checks that these are all files of a shard so far, in the order of their names.
///
/// # Errors
///
/// A file is missing, or is not named by the end of the one before.
pub fn check_chain<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a RecordFile)>,
) -> Result<(), InvalidFile> {
    let mut end = None;
    for (index, (name, file)) in files.into_iter().enumerate() {
        let after = file.header.after.as_ref();
        let position = after.map(Place::position).transpose()?;
        if name != file_name(position.as_ref()) || (index > 0 && after != end) {
            return Err(InvalidFile::Chain);
        }
        end = Some(&file.footer.last);
    }
    Ok(())
}
