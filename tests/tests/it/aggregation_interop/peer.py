"""Packs and unpacks with Amazon's aws-kinesis-agg what a request on standard input asks for. Binary data travels as hex."""

import base64
import json
import sys

from aws_kinesis_agg.aggregator import RecordAggregator
from aws_kinesis_agg.deaggregator import deaggregate_records


def pack(request):
    aggregator = RecordAggregator(request["limit"])
    packed = []
    for key, hash_key, data in request["records"]:
        packed.append(aggregator.add_user_record(key, bytes.fromhex(data), hash_key))
    packed.append(aggregator.clear_and_get())
    contents = [record.get_contents() for record in packed if record is not None]
    return [[key, hash_key, data.hex()] for key, hash_key, data in contents]


def unpack(request):
    user_records = []
    for number, data in enumerate(request["records"]):
        record = {
            "kinesisSchemaVersion": "1.0",
            "sequenceNumber": str(number),
            "approximateArrivalTimestamp": 0,
            "partitionKey": "outer",
            "data": base64.b64encode(bytes.fromhex(data)),
        }
        for user_record in deaggregate_records([{"kinesis": record}]):
            inner = user_record["kinesis"]
            user_records.append(
                [
                    int(inner["sequenceNumber"]),
                    inner.get("subSequenceNumber"),
                    inner["partitionKey"],
                    inner.get("explicitHashKey"),
                    base64.b64decode(inner["data"]).hex(),
                ]
            )
    return user_records


request = json.load(sys.stdin)
json.dump({"pack": pack, "unpack": unpack}[request["do"]](request), sys.stdout)
