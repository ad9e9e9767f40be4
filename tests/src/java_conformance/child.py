"""A record processor of the MultiLangDaemon: writes down what it is given, one file per process.

The daemon sends a line of JSON and waits for the answer of the same name; a checkpoint is asked for in between.
"""

import base64
import json
import os
import sys


def send(message):
    # The daemon looks for lines; an empty one before keeps anything else that was printed apart.
    sys.stdout.write("\n" + json.dumps(message) + "\n")
    sys.stdout.flush()


def checkpoint():
    send({"action": "checkpoint", "sequenceNumber": None, "subSequenceNumber": None})
    return json.loads(sys.stdin.readline()).get("error")


def main(folder):
    log = open(os.path.join(folder, f"{os.getpid()}.jsonl"), "a", encoding="utf-8")

    def note(**entry):
        log.write(json.dumps(entry) + "\n")
        log.flush()

    shard = None
    for line in sys.stdin:
        if not line.strip():
            continue
        message = json.loads(line)
        action = message["action"]
        if action == "initialize":
            shard = message["shardId"]
            note(began=shard)
        elif action == "processRecords":
            for record in message["records"]:
                data = base64.b64decode(record["data"]).decode("utf-8")
                note(shard=shard, number=record["sequenceNumber"], data=data)
            checkpoint()
        elif action in ("shardEnded", "shutdownRequested"):
            error = checkpoint()
            if action == "shardEnded" and error is None:
                note(ended=shard)
        send({"action": "status", "responseFor": action})


main(sys.argv[1])
