"""Writes down what a client saw, one line of JSON at a time."""

import json
import os
import threading

_lock = threading.Lock()
_log = open(f"seen-{os.getpid()}.jsonl", "a", encoding="utf-8")


def note(**entry):
    with _lock:
        _log.write(json.dumps(entry) + "\n")
        _log.flush()


def shards_once():
    """Returns a function that says of each shard id only once that it is new."""
    known = set()

    def is_new(shard):
        with _lock:
            new = shard not in known
            known.add(shard)
            return new

    return is_new
