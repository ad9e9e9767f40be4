"""Asks an external scaler every method once, and prints the answers as JSON."""

import json
import sys

import grpc

import externalscaler_pb2 as messages
import externalscaler_pb2_grpc as service

address, application = sys.argv[1:]
with grpc.insecure_channel(address) as channel:
    scaler = service.ExternalScalerStub(channel)
    scaled = messages.ScaledObjectRef(
        name="trucks", namespace="default", scalerMetadata={"application": application}
    )
    try:
        active = scaler.IsActive(scaled, timeout=30)
        first = next(scaler.StreamIsActive(scaled, timeout=30))
        specs = scaler.GetMetricSpec(scaled, timeout=30).metricSpecs
        asked = messages.GetMetricsRequest(scaledObjectRef=scaled, metricName=specs[0].metricName)
        values = scaler.GetMetrics(asked, timeout=30).metricValues
        answers = {
            "is_active": active.result,
            "first_of_stream": first.result,
            "specs": [[spec.metricName, spec.targetSize, spec.targetSizeFloat] for spec in specs],
            "values": [[value.metricName, value.metricValue, value.metricValueFloat] for value in values],
        }
    except grpc.RpcError as error:
        answers = {"error": error.code().name}
print(json.dumps(answers))
