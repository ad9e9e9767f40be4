use std::fmt;
use std::sync::Arc;

use crate::invariant::Process;
use async_trait::async_trait;
use kcl_core::internals::TaskScope;
use kcl_core::processor::{
    ErrorPolicy, ProcessorError, RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext,
};
use kcl_core::settings::Settings;
use kcl_core::status::Phase;
use kcl_core::{ShutdownHandle, WorkerHandle};

use crate::clock::Skew;
use crate::faults::StoreFaults;
use crate::faulty_stream::StreamFaults;
use crate::fleet::oracle::GapRule;

/// A worker of a simulated fleet before it starts. Everything but the name has a default.
pub struct Member {
    pub(super) name: String,
    pub(super) worker_id: Option<String>,
    pub(super) settings: Option<Settings>,
    pub(super) skew: Skew,
    pub(super) processor: Arc<dyn RecordProcessorFactory>,
    pub(super) policy: Option<Arc<dyn ErrorPolicy>>,
}

impl Member {
    /// A member with this name, which is also its worker id, the fleet's settings, an honest clock, and a processor
    /// that does nothing.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            worker_id: None,
            settings: None,
            skew: Skew::default(),
            processor: Arc::new(|_: &ShardContext| Nothing),
            policy: None,
        }
    }

    /// The worker's id, if it is not the name.
    #[must_use]
    pub fn worker_id(mut self, id: impl Into<String>) -> Self {
        self.worker_id = Some(id.into());
        self
    }

    /// The worker's settings. With automatic checkpoints the oracle takes a batch as finished when the processor returns, with manual ones
    /// when the processor checkpoints it.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// How the clock of the worker's host is wrong.
    #[must_use]
    pub fn skew(mut self, skew: Skew) -> Self {
        self.skew = skew;
        self
    }

    /// The processor of the records.
    #[must_use]
    pub fn processor(mut self, factory: impl RecordProcessorFactory) -> Self {
        self.processor = Arc::new(factory);
        self
    }

    /// The error policy of the worker. Its dead letters go to the sink of the [fleet](super::Fleet::dead_letters).
    #[must_use]
    pub fn error_policy(mut self, policy: impl ErrorPolicy) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("name", &self.name)
            .field("worker_id", &self.worker_id)
            .finish_non_exhaustive()
    }
}

struct Nothing;

#[async_trait]
impl RecordProcessor for Nothing {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

/// A member that was started.
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) scope: TaskScope,
    pub(super) store: StoreFaults,
    pub(super) source: StreamFaults,
    pub(super) gaps: GapRule,
    pub(super) stopper: ShutdownHandle,
    /// Gone once somebody waits for the end of the worker.
    pub(super) handle: Option<WorkerHandle>,
}

impl Running {
    /// Whether the worker does, or could do, anything.
    pub(super) fn lives(&self) -> bool {
        let stopped = self
            .handle
            .as_ref()
            .is_none_or(|handle| handle.status().phase == Phase::Stopped);
        !self.scope.is_killed() && !stopped
    }
}
