#!/bin/sh
# SplitShard of ministack 1.5.33 deletes the shard at once, with its unread records: it is not listed, and unknown to
# GetShardIterator and GetRecords, while its children name it. Kinesis keeps a closed shard for the retention period.
#
# Needs python3 with its venv module. Exit code 0: as described; 1: it behaves otherwise by now; 2: it could not be tried.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ministack==1.5.33 boto3==1.43.106 || exit 2
"$folder/venv/bin/python" - <<'PYTHON'
import os, socket, subprocess, sys, time
from importlib.metadata import version

import boto3

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = subprocess.Popen(
    [sys.executable, "-m", "ministack"],
    env={**os.environ, "GATEWAY_PORT": str(port)},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)
try:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    else:
        print("ministack does not answer")
        sys.exit(2)
    kinesis = boto3.client(
        "kinesis",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    kinesis.create_stream(StreamName="trucks", ShardCount=1)
    put = lambda data: kinesis.put_record(StreamName="trucks", PartitionKey="k", Data=data)

    def read(shard):
        iterator = kinesis.get_shard_iterator(StreamName="trucks", ShardId=shard, ShardIteratorType="TRIM_HORIZON")
        answer = kinesis.get_records(ShardIterator=iterator["ShardIterator"])
        return [record["Data"].decode() for record in answer["Records"]]

    parent = put(b"unread")["ShardId"]
    print("ministack", version("ministack"), "boto3", version("boto3"))
    print("before the split:", {parent: read(parent)})
    kinesis.split_shard(StreamName="trucks", ShardToSplit=parent, NewStartingHashKey=str(2**127))
    listed = kinesis.list_shards(StreamName="trucks")["Shards"]
    print("after the split:", {shard["ShardId"]: read(shard["ShardId"]) for shard in listed})
    print("parents of the listed shards:", [shard.get("ParentShardId") for shard in listed])
    try:
        answer = read(parent)
    except kinesis.exceptions.ResourceNotFoundException as error:
        answer = str(error)
    print("the parent:", answer)
    as_described = (
        parent not in [shard["ShardId"] for shard in listed]
        and [shard.get("ParentShardId") for shard in listed] == [parent, parent]
        and isinstance(answer, str)
    )
    print("as described" if as_described else "NOT as described")
    sys.exit(0 if as_described else 1)
finally:
    server.terminate()
    server.wait()
PYTHON
