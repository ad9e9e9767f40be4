"""boto3, by polling: a thread for each shard, children after the end of all their parents."""

import sys
import threading
import time

import boto3

from note import note, shards_once

stream = sys.argv[1]
ended = set()
is_new = shards_once()
kinesis = boto3.client("kinesis")


def read(shard):
    iterator = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
    iterator = iterator["ShardIterator"]
    while iterator:
        answer = kinesis.get_records(ShardIterator=iterator)
        assert answer["ResponseMetadata"]["RequestId"]
        for record in answer["Records"]:
            note(shard=shard, number=record["SequenceNumber"], data=record["Data"].decode())
        iterator = answer.get("NextShardIterator")
        time.sleep(0.25)
    assert answer["ChildShards"], "an end has children"
    note(ended=shard)
    ended.add(shard)
    for child in answer["ChildShards"]:
        if ended.issuperset(child["ParentShards"]) and is_new(child["ShardId"]):
            threading.Thread(target=read, args=(child["ShardId"],)).start()


for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
    if is_new(shard["ShardId"]):
        threading.Thread(target=read, args=(shard["ShardId"],)).start()
