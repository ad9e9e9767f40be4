//! Reads the files of a run through the listing of the store, all the time: each is whole as soon as it is listed, and stays as it is.

use std::collections::BTreeMap;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::internals::{TaskPolicy, TaskScope};
use kcl_examples_files::check_chain;
use kcl_examples_files::format::RecordFile;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};

use super::database::Order;

/// The pause between two listings.
const PERIOD: Duration = Duration::from_millis(20);
/// The longest wait for a put that is under way.
const AIM: Duration = Duration::from_secs(1);

/// Watches until it is dropped.
pub(super) struct FileWatch {
    folder: PathBuf,
    store: Arc<LocalFileSystem>,
    seen: Arc<Mutex<SeenFiles>>,
    scope: TaskScope,
}

#[derive(Debug, Default)]
struct SeenFiles {
    files: BTreeMap<Path, (ObjectMeta, RecordFile)>,
    listings: u64,
    problem: Option<String>,
}

/// The counts of the files.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FileCounts {
    pub(super) files: usize,
    /// How often all were listed.
    pub(super) listings: u64,
    /// The files that killed writers have left, which no listing shows.
    pub(super) left_over: usize,
}

impl FileWatch {
    pub(super) fn start(folder: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let store = Arc::new(LocalFileSystem::new_with_prefix(&folder)?);
        let (seen, scope) = (Arc::<Mutex<SeenFiles>>::default(), TaskScope::new());
        let (watched, noted) = (Arc::clone(&store), Arc::clone(&seen));
        scope.spawn("file watch", TaskPolicy::Job, async move {
            let clock = TokioClock::new();
            loop {
                if let Err(problem) = look(&*watched, &noted).await {
                    lock(&noted).problem.get_or_insert(problem);
                }
                clock.sleep(PERIOD).await;
            }
        });
        Ok(Self {
            folder,
            store,
            seen,
            scope,
        })
    }

    pub(super) fn folder(&self) -> &FsPath {
        &self.folder
    }

    /// Returns how many records the files have so far.
    pub(super) fn count(&self) -> Result<usize, String> {
        let seen = lock(&self.seen);
        match &seen.problem {
            Some(problem) => Err(problem.clone()),
            None => Ok(seen.files.values().map(|(_, file)| file.records.len()).sum()),
        }
    }

    pub(super) fn counts(&self) -> FileCounts {
        let seen = lock(&self.seen);
        FileCounts {
            files: seen.files.len(),
            listings: seen.listings,
            left_over: unfinished(&self.folder).len(),
        }
    }

    /// Waits until one of these workers is in the middle of a put, and returns which.
    pub(super) async fn writer(&self, workers: &[&str]) -> Option<usize> {
        let clock = TokioClock::new();
        let until = clock.now() + AIM;
        while clock.now() < until {
            for file in unfinished(&self.folder) {
                let begun = std::fs::read_to_string(file).unwrap_or_default();
                let writes = |worker: &&str| begun.contains(&format!("\"worker\":\"{worker}\""));
                if let Some(place) = workers.iter().position(writes) {
                    return Some(place);
                }
            }
            clock.sleep(Duration::from_millis(1)).await;
        }
        None
    }

    /// Ends the watch, reads all files once more, checks the chain of each shard, and returns the records in the order of their files' times.
    /// Each change of the writer in a chain counts as an ownership: a late owner may write one file more.
    pub(super) async fn orders(&self) -> Result<Vec<Order>, String> {
        self.scope.kill();
        self.scope.wait_until_empty().await;
        look(&*self.store, &self.seen).await?;
        let seen = lock(&self.seen);
        if let Some(problem) = &seen.problem {
            return Err(problem.clone());
        }
        let mut chains: BTreeMap<&str, Vec<(&Path, &ObjectMeta, &RecordFile)>> = BTreeMap::new();
        for (path, (object, file)) in &seen.files {
            let chain = chains.entry(&file.header.shard).or_default();
            chain.push((path, object, file));
        }
        let mut orders = Vec::new();
        for (shard, chain) in &chains {
            let named = chain
                .iter()
                .map(|(path, _, file)| (path.filename().unwrap_or_default(), *file));
            check_chain(named).map_err(|problem| format!("{shard}: {problem}"))?;
            let (mut ownership, mut writer) = (0, None);
            for (_, object, file) in chain {
                let header = &file.header;
                if writer != Some((&header.worker, header.fencing_token)) {
                    ownership += 1;
                    writer = Some((&header.worker, header.fencing_token));
                }
                for record in &file.records {
                    let item = record.payload().map_err(|problem| problem.to_string())?;
                    let order = Order {
                        shard: header.shard.clone(),
                        sequence: record.place.sequence_number.clone(),
                        sub_sequence: i64::try_from(record.place.sub_sequence_number).unwrap_or(i64::MAX),
                        item: String::from_utf8(item).map_err(|problem| problem.to_string())?,
                        token: ownership,
                        worker: header.worker.clone(),
                    };
                    orders.push((object.last_modified, order));
                }
            }
        }
        orders.sort_by_key(|(written, _)| *written);
        Ok(orders.into_iter().map(|(_, order)| order).collect())
    }
}

/// Lists all files, and reads those that are new.
async fn look(store: &dyn ObjectStore, seen: &Mutex<SeenFiles>) -> Result<(), String> {
    let listed: Vec<ObjectMeta> = store
        .list(None)
        .try_collect()
        .await
        .map_err(|problem| problem.to_string())?;
    let mut missing: BTreeMap<Path, ObjectMeta> = {
        let seen = lock(seen);
        let files = seen.files.iter();
        files
            .map(|(path, (object, _))| (path.clone(), object.clone()))
            .collect()
    };
    for object in listed {
        let path = object.location.clone();
        match missing.remove(&path) {
            Some(before) if before == object => {}
            Some(_) => return Err(format!("{path} has changed")),
            None => {
                let got = store.get(&path).await.map_err(|problem| problem.to_string())?;
                let bytes = got.bytes().await.map_err(|problem| problem.to_string())?;
                let file = RecordFile::read(&bytes).map_err(|problem| format!("{path}: {problem}"))?;
                lock(seen).files.insert(path, (object, file));
            }
        }
    }
    lock(seen).listings += 1;
    match missing.into_keys().next() {
        Some(path) => Err(format!("{path} has gone")),
        None => Ok(()),
    }
}

fn lock(seen: &Mutex<SeenFiles>) -> MutexGuard<'_, SeenFiles> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The files with `#` in their names: a put writes to such a one before its object has its own name.
fn unfinished(folder: &FsPath) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(unfinished(&path)),
            path if path.to_string_lossy().contains('#') => found.push(path),
            _ => {}
        }
    }
    found
}
