//! The object store of a worker of files: slow, now and then without an answer, and with a journal.

use std::collections::BTreeSet;
use std::path::Path as FsPath;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kcl_core::clock::{Rng, TokioClock};
use kcl_core::processor::ShardContext;
use kcl_examples_files::faulty_store::{FaultyStore, PutAnswer, PutFault, PutFaults};
use kcl_examples_files::{FileLimits, RecordFiles};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, PutResult};

use super::journal::{SinkEvent, SinkJournal};

/// One put of so many has no answer, although the object is there; one of so many fails.
const LOST_ANSWERS: u64 = 10;
const REFUSALS: u64 = 20;

/// Several files per second and shard, so that there is always one under way. Of two owners, the one cuts elsewhere than the other.
const LIMITS: FileLimits = FileLimits {
    bytes: 6000,
    records: 40,
    age: Duration::from_millis(400),
};

/// Makes the processors of a worker.
#[derive(Debug, Clone)]
pub(super) struct FileSink {
    store: Arc<dyn ObjectStore>,
    journal: Arc<SinkJournal>,
    rng: Rng,
    work: Duration,
}

impl FileSink {
    pub(super) fn new(
        folder: &FsPath,
        journal: Arc<SinkJournal>,
        work: Duration,
    ) -> object_store::Result<Self> {
        let store = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        Ok(Self {
            store: Arc::new(store),
            journal,
            rng: Rng::from_entropy(),
            work,
        })
    }

    /// The processor of one ownership, with a store of its own.
    pub(super) fn processor(&self, shard: &ShardContext) -> RecordFiles {
        let clock = Arc::new(TokioClock::new());
        let token = shard.fencing_token().as_u64();
        let claimed = SinkEvent::Claimed {
            shard: shard.shard().to_string(),
            token,
            ahead: false,
        };
        note(&self.journal, &claimed);
        let state = FaultState {
            rng: self.rng.child(&format!("{} {token}", shard.shard())),
            lost: BTreeSet::new(),
            is_lost: false,
            others: BTreeSet::new(),
        };
        let faults = JournalledFaults {
            journal: Arc::clone(&self.journal),
            shard: shard.shard().to_string(),
            token,
            work: self.work,
            state: Mutex::new(state),
        };
        let store = FaultyStore::new(Arc::clone(&self.store), clock, faults);
        RecordFiles::new(Arc::new(store), &Path::default(), LIMITS, shard)
    }
}

#[derive(Debug)]
struct JournalledFaults {
    journal: Arc<SinkJournal>,
    shard: String,
    token: u64,
    work: Duration,
    state: Mutex<FaultState>,
}

#[derive(Debug)]
struct FaultState {
    rng: Rng,
    /// The objects that this ownership has put without an answer.
    lost: BTreeSet<Path>,
    /// The answer to the put before is to be lost.
    is_lost: bool,
    /// The objects of others that a put has found.
    others: BTreeSet<Path>,
}

impl JournalledFaults {
    fn state(&self) -> MutexGuard<'_, FaultState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PutFaults for JournalledFaults {
    fn next(&self, _: &Path) -> PutFault {
        let mut state = self.state();
        let (lost, refused) = (state.rng.one_in(LOST_ANSWERS), state.rng.one_in(REFUSALS));
        let answer = match (lost, refused) {
            (true, _) => PutAnswer::Lost,
            (false, true) => PutAnswer::Refused,
            (false, false) => PutAnswer::Stores,
        };
        if answer == PutAnswer::Refused {
            let (shard, why) = (self.shard.clone(), "the put was refused".to_owned());
            note(&self.journal, &SinkEvent::Failed { shard, why });
        }
        state.is_lost = answer == PutAnswer::Lost;
        let mut pause = |longest: Duration| {
            let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
            Duration::from_micros(state.rng.below(micros.max(1)))
        };
        PutFault {
            before: pause(self.work / 2),
            after: pause(self.work / 4),
            in_pieces: true,
            answer,
        }
    }

    fn answered(&self, path: &Path, answer: &object_store::Result<PutResult>) {
        let mut state = self.state();
        let (shard, token) = (self.shard.clone(), self.token);
        match answer {
            Ok(_) if state.is_lost => drop(state.lost.insert(path.clone())),
            Ok(_) => {}
            // A put that has landed without an answer is not tried again before its object was looked for.
            Err(Error::AlreadyExists { .. }) => {
                state.others.insert(path.clone());
                note(&self.journal, &SinkEvent::Fenced { shard, token });
            }
            Err(error) => {
                let why = error.to_string();
                note(&self.journal, &SinkEvent::Failed { shard, why });
            }
        }
    }

    fn was_read(&self, path: &Path) {
        let mut state = self.state();
        let shard = self.shard.clone();
        if state.lost.remove(path) {
            note(&self.journal, &SinkEvent::Repeated { shard });
        } else if !state.others.remove(path) {
            note(&self.journal, &SinkEvent::Found { shard });
        }
    }
}

/// A worker whose log is lost ends: it is evidence.
fn note(journal: &SinkJournal, event: &SinkEvent) {
    if let Err(error) = journal.note(event) {
        eprintln!("the log takes nothing: {error}");
        std::process::abort();
    }
}
