use std::sync::Arc;

use kcl_core::processor::{Concurrency, ErrorPolicy, RecordProcessor, RecordProcessorFactory, ShardContext};
use kcl_core::settings::CheckpointMode;

use crate::fleet::Member;

/// The processor of every worker, where it is not the one of the scenario.
#[derive(Clone)]
pub(super) struct GivenProcessor {
    pub(super) factory: Arc<dyn RecordProcessorFactory>,
    pub(super) policy: Option<Arc<dyn ErrorPolicy>>,
}

impl GivenProcessor {
    /// Gives the processor to a worker.
    pub(super) fn of(self, member: Member) -> Member {
        let member = member.processor(SharedFactory(self.factory));
        match self.policy {
            Some(policy) => member.error_policy(policy),
            None => member,
        }
    }
}

struct SharedFactory(Arc<dyn RecordProcessorFactory>);

impl RecordProcessorFactory for SharedFactory {
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        self.0.create(shard)
    }

    fn checkpoint_mode(&self) -> Option<CheckpointMode> {
        self.0.checkpoint_mode()
    }

    fn concurrency(&self) -> Concurrency {
        self.0.concurrency()
    }
}
