"""The AWS CLI, by polling: one shard after the other, each call a process of its own."""

import base64
import json
import os
import subprocess
import sys

from note import note

stream = sys.argv[1]
aws = os.path.join(os.path.dirname(sys.executable), "aws")


def call(operation, *arguments):
    command = [aws, "kinesis", operation, "--output", "json", "--no-cli-pager", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


iterators = {}
ended = set()
while True:
    for shard in call("list-shards", "--stream-name", stream)["Shards"]:
        shard_id = shard["ShardId"]
        parents = {shard.get("ParentShardId"), shard.get("AdjacentParentShardId")} - {None}
        if shard_id in ended or not ended.issuperset(parents):
            continue
        if shard_id not in iterators:
            named = ["--stream-name", stream, "--shard-id", shard_id, "--shard-iterator-type", "TRIM_HORIZON"]
            iterators[shard_id] = call("get-shard-iterator", *named)["ShardIterator"]
        answer = call("get-records", "--shard-iterator", iterators[shard_id])
        for record in answer["Records"]:
            data = base64.b64decode(record["Data"]).decode()
            note(shard=shard_id, number=record["SequenceNumber"], data=data)
        iterators[shard_id] = answer.get("NextShardIterator")
        if not iterators[shard_id]:
            assert answer["ChildShards"], "an end has children"
            note(ended=shard_id)
            ended.add(shard_id)
