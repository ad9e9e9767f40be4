//! Processors and handlers that report to the oracle, and leave the work to those that they wrap.

use std::sync::Arc;

use async_trait::async_trait;
use kcl_core::clock::Clock as _;
use kcl_core::processor::{
    Concurrency, EndOfShard, ProcessorError, RecordBatch, RecordCalls, RecordProcessor,
    RecordProcessorFactory, ShardContext, StartFrom,
};
use kcl_core::settings::CheckpointMode;
use kcl_core::types::{LeaseKey, Position, RecordPosition};

use super::oracle::{Short, Witness};
use crate::invariant::Observation;

/// Makes processors that report to the oracle.
pub(super) struct OracleFactory {
    pub(super) witness: Witness,
    pub(super) inner: Arc<dyn RecordProcessorFactory>,
}

impl RecordProcessorFactory for OracleFactory {
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        let token = shard.fencing_token();
        let process = &self.witness.process;
        let lease = shard.lease();
        self.witness.oracle.note(&format_args!(
            "{process:<8} starts {lease} with the token {token}"
        ));
        self.witness.oracle.observe(&Observation::Started {
            process: Arc::clone(process),
            shard: lease.clone(),
            token,
        });
        Box::new(OracleProcessor {
            witness: self.witness.clone(),
            inner: self.inner.create(shard),
            last: None,
        })
    }

    fn checkpoint_mode(&self) -> Option<CheckpointMode> {
        self.inner.checkpoint_mode()
    }

    fn concurrency(&self) -> Concurrency {
        self.inner.concurrency()
    }
}

/// Reports the batches of a processor and their outcome, and leaves the work to the processor that it wraps.
struct OracleProcessor {
    witness: Witness,
    inner: Box<dyn RecordProcessor>,
    /// The last record that it was given.
    last: Option<RecordPosition>,
}

impl OracleProcessor {
    /// The batch, whose checkpoints the oracle sees: they say what is finished, also where the return of the processor does.
    fn watched(&mut self, batch: RecordBatch, shard: &ShardContext) -> RecordBatch {
        self.last = batch.last().map(|record| record.position().clone());
        let (witness, shard) = (self.witness.clone(), shard.clone());
        batch.on_checkpoint(move |through| {
            witness.checkpointed(&shard, through);
            Ok(())
        })
    }

    fn note(&self, shard: &ShardContext, call: &str) {
        let (process, lease) = (&self.witness.process, shard.lease());
        self.witness
            .oracle
            .note(&format_args!("{process:<8} {call} {lease}"));
    }
}

#[async_trait]
impl RecordProcessor for OracleProcessor {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.note(shard, "initialize");
        let start = self.inner.initialize(shard).await?;
        let pending = shard.pending_checkpoint();
        if let (StartFrom::CommitPending, Some(Position::Record(through))) =
            (&start, pending.map(|pending| pending.position))
        {
            self.witness.committed(shard, through);
        }
        Ok(start)
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let work = Work::start(&self.witness, shard, &batch);
        let batch = self.watched(batch, shard);
        let result = self.inner.process_records(batch, shard).await;
        work.end(&result);
        result
    }

    async fn tick(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.inner.tick(shard).await
    }

    async fn shutdown_requested(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.note(shard, "shutdown_requested");
        self.inner.shutdown_requested(shard).await
    }

    async fn shard_ended(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.note(shard, "shard_ended");
        self.inner.shard_ended(shard).await?;
        if self.witness.checkpointing == CheckpointMode::Manual
            && self.inner.end_of_shard() == EndOfShard::AllFinished
            && let Some(last) = &self.last
        {
            self.witness.checkpointed(shard, last);
        }
        Ok(())
    }

    fn end_of_shard(&self) -> EndOfShard {
        self.inner.end_of_shard()
    }

    fn record_calls(&self) -> Option<RecordCalls> {
        let calls = self.inner.record_calls()?;
        let (witness, has_lanes) = (
            self.witness.clone(),
            matches!(calls.concurrency(), Concurrency::PerKey(_)),
        );
        Some(calls.wrapped(move |record, shard, call| {
            let lane = has_lanes.then(|| record.partition_key().map(str::to_owned));
            let (witness, shard, position) = (witness.clone(), shard.clone(), record.position().clone());
            Box::pin(async move {
                let seen = SeenCall::start(witness, shard, position, lane);
                let result = call.await;
                seen.end(result.is_ok());
                result
            })
        }))
    }

    async fn lease_lost(&mut self, shard: &ShardContext) {
        self.note(shard, "lease_lost");
        self.inner.lease_lost(shard).await;
    }
}

/// A batch in the hands of a processor. Dropped before its end, it counts as not finished.
struct Work {
    witness: Witness,
    shard: LeaseKey,
    ended: bool,
}

impl Work {
    fn start(witness: &Witness, shard: &ShardContext, batch: &RecordBatch) -> Self {
        let (oracle, process) = (&witness.oracle, &witness.process);
        let (lease, token) = (shard.lease(), shard.fencing_token());
        let records: Vec<_> = batch.iter().map(|record| record.position().clone()).collect();
        if let (Some(first), Some(last)) = (records.first(), records.last()) {
            let count = records.len();
            oracle.note(&format_args!(
                "{process:<8} batch of {lease} under {token}: {count} from {} to {}",
                Short(first),
                Short(last)
            ));
        }
        if let Some(gap) = batch.gap() {
            oracle.note(&format_args!(
                "{process:<8} is told of a gap in {lease}, after {}",
                Short(&gap.after)
            ));
            if let Err(violation) = witness.gaps.check(process, lease, gap) {
                oracle.break_off(violation);
            }
            oracle.observe(&Observation::GapTold {
                process: Arc::clone(process),
                shard: lease.clone(),
            });
        }
        oracle.observe(&Observation::BatchStarted {
            process: Arc::clone(process),
            shard: lease.clone(),
            token,
            records,
            now: witness.clock.now(),
            valid_until: shard.valid_until(),
            at: oracle.now(),
        });
        Self {
            witness: witness.clone(),
            shard: lease.clone(),
            ended: false,
        }
    }

    fn end(mut self, result: &Result<(), ProcessorError>) {
        self.ended = true;
        let Witness { oracle, process, .. } = &self.witness;
        let (shard, process) = (self.shard.clone(), Arc::clone(process));
        let (at, checkpointing) = (oracle.now(), self.witness.checkpointing);
        match (result, checkpointing) {
            (Ok(()), CheckpointMode::Automatic) => {
                oracle.observe(&Observation::BatchFinished { process, shard, at });
            }
            (Ok(()), CheckpointMode::Manual) => {
                oracle.observe(&Observation::BatchReturned { process, shard, at });
            }
            (Err(error), _) => {
                oracle.note(&format_args!("{process:<8} batch of {shard} failed"));
                oracle.observe(&Observation::BatchFailed {
                    process,
                    shard,
                    from: error.position().cloned(),
                    finishes: checkpointing == CheckpointMode::Automatic,
                });
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.ended {
            let Witness { oracle, process, .. } = &self.witness;
            let (process, shard) = (Arc::clone(process), self.shard.clone());
            oracle.note(&format_args!("{process:<8} batch of {shard} broken off"));
            oracle.observe(&Observation::BatchFailed {
                process,
                shard,
                from: None,
                finishes: false,
            });
        }
    }
}

/// A call of a handler. Dropped before its end, it finishes nothing.
struct SeenCall {
    witness: Witness,
    shard: ShardContext,
    record: RecordPosition,
    finishes: bool,
}

impl SeenCall {
    fn start(
        witness: Witness,
        shard: ShardContext,
        record: RecordPosition,
        lane: Option<Option<String>>,
    ) -> Self {
        let (oracle, process) = (&witness.oracle, &witness.process);
        let (lease, token) = (shard.lease(), shard.fencing_token());
        oracle.note(&format_args!(
            "{process:<8} call of {lease} under {token}: {}",
            Short(&record)
        ));
        oracle.observe(&Observation::CallStarted {
            process: Arc::clone(process),
            shard: lease.clone(),
            token,
            record: record.clone(),
            lane,
            now: witness.clock.now(),
            valid_until: shard.valid_until(),
            at: oracle.now(),
        });
        Self {
            witness,
            shard,
            record,
            finishes: false,
        }
    }

    fn end(mut self, finishes: bool) {
        self.finishes = finishes;
    }
}

impl Drop for SeenCall {
    fn drop(&mut self) {
        let Witness { oracle, process, .. } = &self.witness;
        if !self.finishes {
            oracle.note(&format_args!(
                "{process:<8} call of {} failed: {}",
                self.shard.lease(),
                Short(&self.record)
            ));
        }
        oracle.observe(&Observation::CallEnded {
            process: Arc::clone(process),
            shard: self.shard.lease().clone(),
            token: self.shard.fencing_token(),
            record: self.record.clone(),
            finishes: self.finishes,
            at: oracle.now(),
        });
    }
}
