#!/bin/sh
# ministack 1.5.33 numbers records with leading zeros, which the Kinesis API forbids (`0|([1-9]\d{0,128})`), and compares numbers as texts.
# The same number as the API spells it gives an iterator behind the last record: no record, and no error.
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
    numbers = [put(data)["SequenceNumber"] for data in (b"first", b"second", b"third")]

    def read(kind, number):
        iterator = kinesis.get_shard_iterator(
            StreamName="trucks",
            ShardId="shardId-000000000000",
            ShardIteratorType=kind,
            StartingSequenceNumber=number,
        )["ShardIterator"]
        return [record["Data"].decode() for record in kinesis.get_records(ShardIterator=iterator)["Records"]]

    second = numbers[1]
    print("ministack", version("ministack"), "boto3", version("boto3"))
    print("sequence number of the second record:", second)
    seen = {}
    for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
        for spelling in (second, second.lstrip("0")):
            seen[kind, spelling == second] = read(kind, spelling)
            print(kind, spelling, "->", seen[kind, spelling == second])
    expected = {
        ("AT_SEQUENCE_NUMBER", True): ["second", "third"],
        ("AT_SEQUENCE_NUMBER", False): [],
        ("AFTER_SEQUENCE_NUMBER", True): ["third"],
        ("AFTER_SEQUENCE_NUMBER", False): [],
    }
    as_described = second.startswith("0") and seen == expected
    print("as described" if as_described else f"NOT as described, which was {expected}")
    sys.exit(0 if as_described else 1)
finally:
    server.terminate()
    server.wait()
PYTHON
