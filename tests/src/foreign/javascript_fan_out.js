// The JavaScript SDK, by enhanced fan-out: a subscription for each shard, from its beginning to its end.

const fs = require('fs');
const {
  DescribeStreamConsumerCommand,
  DescribeStreamSummaryCommand,
  KinesisClient,
  ListShardsCommand,
  RegisterStreamConsumerCommand,
  SubscribeToShardCommand,
} = require('@aws-sdk/client-kinesis');

const stream = process.argv[2];
const kinesis = new KinesisClient({});
const ended = new Set();
const known = new Set();
const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis));
const note = (entry) => fs.appendFileSync(`seen-${process.pid}.jsonl`, `${JSON.stringify(entry)}\n`);

async function read(consumer, shard) {
  let position = { Type: 'TRIM_HORIZON' };
  for (;;) {
    const request = { ConsumerARN: consumer, ShardId: shard, StartingPosition: position };
    const answer = await kinesis.send(new SubscribeToShardCommand(request));
    for await (const { SubscribeToShardEvent: event } of answer.EventStream) {
      if (!event) continue;
      for (const record of event.Records) {
        note({ shard, number: record.SequenceNumber, data: Buffer.from(record.Data).toString() });
      }
      if (event.ChildShards && event.ChildShards.length > 0) {
        if (event.ContinuationSequenceNumber) throw new Error('an end has nothing after it');
        note({ ended: shard });
        ended.add(shard);
        for (const child of event.ChildShards) {
          if (child.ParentShards.every((parent) => ended.has(parent))) start(consumer, child.ShardId);
        }
        return;
      }
      position = { Type: 'AFTER_SEQUENCE_NUMBER', SequenceNumber: event.ContinuationSequenceNumber };
    }
    await pause(5000);
  }
}

function start(consumer, shard) {
  if (known.has(shard)) return;
  known.add(shard);
  read(consumer, shard).catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

async function main() {
  const summary = await kinesis.send(new DescribeStreamSummaryCommand({ StreamName: stream }));
  const arn = summary.StreamDescriptionSummary.StreamARN;
  const registered = { StreamARN: arn, ConsumerName: 'javascript' };
  const { Consumer: consumer } = await kinesis.send(new RegisterStreamConsumerCommand(registered));
  for (;;) {
    const command = new DescribeStreamConsumerCommand({ ConsumerARN: consumer.ConsumerARN });
    const { ConsumerDescription: described } = await kinesis.send(command);
    if (described.ConsumerStatus === 'ACTIVE') break;
    await pause(100);
  }
  const { Shards: shards } = await kinesis.send(new ListShardsCommand({ StreamName: stream }));
  for (const shard of shards) start(consumer.ConsumerARN, shard.ShardId);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
