// lifion-kinesis, which keeps its state in DynamoDB.

const fs = require('fs');
const Kinesis = require('lifion-kinesis');

const [stream, mode] = process.argv.slice(2);
const note = (entry) => fs.appendFileSync(`seen-${process.pid}.jsonl`, `${JSON.stringify(entry)}\n`);
const credentials = {
  accessKeyId: process.env.AWS_ACCESS_KEY_ID,
  secretAccessKey: process.env.AWS_SECRET_ACCESS_KEY,
  region: process.env.AWS_REGION,
};
const say = (...words) => console.error(...words);
const client = new Kinesis({
  ...credentials,
  consumerGroup: 'foreign',
  dynamoDb: { ...credentials, endpoint: process.env.AWS_ENDPOINT_URL_DYNAMODB, tableName: `lifion-${process.pid}` },
  endpoint: process.env.AWS_ENDPOINT_URL_KINESIS,
  initialPositionInStream: 'TRIM_HORIZON',
  logger: { debug: say, error: say, warn: say },
  pollDelay: 250,
  shouldParseJson: false,
  streamName: stream,
  useEnhancedFanOut: mode === 'fan-out',
});
client.on('data', ({ records, shardId }) => {
  for (const { data, sequenceNumber } of records) {
    note({ shard: shardId, number: sequenceNumber, data: data.toString() });
  }
});
client.on('error', say);
client.startConsumer().catch((error) => {
  say(error);
  process.exit(1);
});
