"""kcl-rs, through its Python package. It keeps its leases in DynamoDB."""

import os
import sys

from kcl_rs import RecordProcessorBase, Scheduler

from note import note


class Processor(RecordProcessorBase):
    def initialize(self, initialize_input):
        self.shard = initialize_input.shard_id

    def process_records(self, process_records_input):
        for record in process_records_input.records:
            note(shard=self.shard, number=record.sequence_number, data=record.binary_data.decode())
        process_records_input.checkpointer.checkpoint()

    def lease_lost(self, lease_lost_input):
        pass

    def shard_ended(self, shard_ended_input):
        shard_ended_input.checkpointer.checkpoint()
        note(ended=self.shard)

    def shutdown_requested(self, shutdown_requested_input):
        shutdown_requested_input.checkpointer.checkpoint()


stream, mode = sys.argv[1:]
polling = {"max_records": 1000, "idle_time_between_reads_millis": 250} if mode == "polling" else {}
Scheduler(
    stream_name=stream,
    application_name=f"kcl-rs-{os.getpid()}",
    record_processor_factory=Processor,
    region=os.environ["AWS_REGION"],
    initial_position="TRIM_HORIZON",
    retrieval_mode="POLLING" if mode == "polling" else "FANOUT",
    **polling,
).run()
