//! The sink: letters at the end of a file, synced before they are acknowledged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytesize::ByteSize;
use kcl_core::clock::{Clock, Moment, TokioClock};
use kcl_core::dead_letter::{DeadLetter, DeadLetterError, DeadLetterSink};

use tokio::sync::Semaphore;

use crate::format::encode;

/// Writes dead letters to files of a folder: one JSON object a line, as the [crate page](crate) describes. Clones share the file.
///
/// A letter is acknowledged once its line, and the name of its file in the folder, are on the disk. A letter whose file was deleted or moved
/// meanwhile is written again, to a new file.
///
/// ```
/// use std::time::Duration;
/// use bytesize::ByteSize;
/// use kcl_dead_letters::DeadLetterFiles;
///
/// # let folder = std::env::temp_dir().join(format!("dead-letters-doc-{}", std::process::id()));
/// let sink = DeadLetterFiles::open(&folder)?
///     .rotate_at(ByteSize::mib(16))
///     .rotate_after(Duration::from_secs(3600));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DeadLetterFiles {
    folder: PathBuf,
    most_bytes: ByteSize,
    longest: Duration,
    clock: Arc<dyn Clock>,
    /// One write at a time: a disk that hangs takes one thread, however often letters are sent again.
    turn: Arc<Semaphore>,
    current: Arc<Mutex<Option<Current>>>,
}

/// The file that is written to.
#[derive(Debug)]
struct Current {
    file: File,
    path: PathBuf,
    /// The bytes of the lines that were acknowledged.
    bytes: u64,
    since: Moment,
}

impl Current {
    /// Writes the line and syncs it. If that fails, the lines before it are left.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(line).and_then(|()| self.file.sync_data());
        match &written {
            Ok(()) => self.bytes += line.len() as u64,
            Err(_) => self.undo(),
        }
        written
    }

    /// Takes away what was written beyond the acknowledged lines, as far as possible: a full disk is not filled with torn lines.
    fn undo(&self) {
        let undone = match self.bytes {
            0 => fs::remove_file(&self.path),
            bytes => self.file.set_len(bytes),
        };
        if let Err(error) = undone {
            tracing::debug!(file = %self.path.display(), %error, "left a part of a dead letter that was not written");
        }
    }

    /// Returns `true` if the file still has its name in the folder. Lines in a deleted file are lost, and a reader may be done with a
    /// moved one.
    fn is_in_place(&self) -> io::Result<bool> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            let open = self.file.metadata()?;
            match fs::metadata(&self.path) {
                Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            }
        }
        #[cfg(not(unix))]
        self.path.try_exists()
    }
}

impl DeadLetterFiles {
    /// Writes to this folder, which is created if it is missing. The first letter begins a file.
    ///
    /// # Errors
    ///
    /// When the folder is missing and cannot be created, or is no folder that this process may write to.
    pub fn open(folder: impl AsRef<Path>) -> io::Result<Self> {
        let folder = folder.as_ref().to_owned();
        let parents = folders_with_new_names(&folder);
        fs::create_dir_all(&folder)?;
        for parent in parents {
            sync_names(&parent)?;
        }
        // A folder that cannot be written to is noticed now, and not by the first record that fails.
        let probe = folder.join(format!(".probe-{}", unique()));
        File::create_new(&probe)?;
        fs::remove_file(&probe)?;
        Ok(Self {
            folder,
            most_bytes: ByteSize::mib(64),
            longest: Duration::from_secs(24 * 60 * 60),
            clock: Arc::new(TokioClock::new()),
            turn: Arc::new(Semaphore::new(1)),
            current: Arc::default(),
        })
    }

    /// Begins another file when this one has so many bytes, 64 MiB by default. A letter is never split.
    #[must_use]
    pub fn rotate_at(self, bytes: ByteSize) -> Self {
        Self {
            most_bytes: bytes,
            ..self
        }
    }

    /// Begins another file, with the next letter, when this one is so old, a day by default.
    #[must_use]
    pub fn rotate_after(self, age: Duration) -> Self {
        Self { longest: age, ..self }
    }

    /// Sets the source of time; the runtime's by default.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out: after a failed sync the end of the file on the disk is not known, so the line goes to another.
        if let Some(mut open) = current.take().filter(|open| self.may_go_on(open, line.len())) {
            open.append(line)?;
            if open.is_in_place()? {
                *current = Some(open);
                return Ok(());
            }
            tracing::warn!(file = %open.path.display(), "file of dead letters was deleted or moved; beginning another");
        }
        let mut open = self.begin()?;
        open.append(line)?;
        *current = Some(open);
        Ok(())
    }

    fn may_go_on(&self, open: &Current, more: usize) -> bool {
        open.bytes + more as u64 <= self.most_bytes.as_u64()
            && self.clock.now().saturating_since(open.since) < self.longest
    }

    fn begin(&self) -> io::Result<Current> {
        let now = self.clock.wall().as_millis();
        let name = format!("dead-letters-{now}-{}.ndjson", unique());
        let path = self.folder.join(name);
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        let created = Current {
            file,
            path,
            bytes: 0,
            since: self.clock.now(),
        };
        sync_names(&self.folder).inspect_err(|_| created.undo())?;
        Ok(created)
    }
}

/// Returns the folders that get another name when this one is created with all that are missing above it.
fn folders_with_new_names(folder: &Path) -> Vec<PathBuf> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    folder.ancestors().take_while(is_missing).map(parent).collect()
}

/// Syncs the names in a folder: those of new files and folders are not on the disk by a sync of these.
fn sync_names(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Letters for a name that no other file has.
fn unique() -> String {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

#[async_trait]
impl DeadLetterSink for DeadLetterFiles {
    #[expect(
        clippy::disallowed_methods,
        reason = "a write and a sync block their thread, and must not block the runtime's"
    )]
    async fn send(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let (this, line) = (self.clone(), encode(letter));
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let written = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            this.write(&line)
        })
        .await;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            let folder = self.folder.display();
            DeadLetterError::new(format!(
                "cannot write to {folder}: see that there is room and that it may be written to"
            ))
            .with_source(source)
        };
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(error.into())),
            Err(error) => Err(failed(error.into())),
        }
    }
}

#[cfg(test)]
mod tests;
