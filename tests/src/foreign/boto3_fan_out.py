"""boto3, by enhanced fan-out: a subscription for each shard, from its beginning to its end."""

import sys
import threading
import time

import boto3

from note import note, shards_once

stream = sys.argv[1]
ended = set()
is_new = shards_once()
kinesis = boto3.client("kinesis")
arn = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
consumer = kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="boto3")["Consumer"]["ConsumerARN"]
while True:
    described = kinesis.describe_stream_consumer(ConsumerARN=consumer)
    if described["ConsumerDescription"]["ConsumerStatus"] == "ACTIVE":
        break
    time.sleep(0.1)


def read(shard):
    position = {"Type": "TRIM_HORIZON"}
    while True:
        answer = kinesis.subscribe_to_shard(ConsumerARN=consumer, ShardId=shard, StartingPosition=position)
        for event in answer["EventStream"]:
            event = event["SubscribeToShardEvent"]
            for record in event["Records"]:
                note(shard=shard, number=record["SequenceNumber"], data=record["Data"].decode())
            if event.get("ChildShards"):
                assert not event.get("ContinuationSequenceNumber"), "an end has nothing after it"
                note(ended=shard)
                ended.add(shard)
                for child in event["ChildShards"]:
                    if ended.issuperset(child["ParentShards"]) and is_new(child["ShardId"]):
                        threading.Thread(target=read, args=(child["ShardId"],)).start()
                return
            number = event["ContinuationSequenceNumber"]
            position = {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": number}
        time.sleep(5)


for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
    if is_new(shard["ShardId"]):
        threading.Thread(target=read, args=(shard["ShardId"],)).start()
