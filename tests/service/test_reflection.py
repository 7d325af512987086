"""Reflection as tools use it, under both of its names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from tests.service.harness import Harness, serving

NAMES = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


async def ask(harness: Harness, name: str, *requests: pb.ServerReflectionRequest) -> list[pb.ServerReflectionResponse]:
    method: Any = harness.channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )
    return [response async for response in method(iter(requests))]


@pytest.mark.asyncio
@pytest.mark.parametrize("name", NAMES)
async def test_services_messages_and_methods_are_found_by_their_names(tmp_path: Path, name: str) -> None:
    symbols = ["RunService", "RunService.SubmitRun", "Submission", "RunService.Absent", "Absent.SubmitRun"]
    async with serving(tmp_path) as harness:
        listed, *found = await ask(
            harness,
            name,
            pb.ServerReflectionRequest(list_services=""),
            *(pb.ServerReflectionRequest(file_containing_symbol=f"turnkeeper.v1.{symbol}") for symbol in symbols),
        )
    services = {service.name for service in listed.list_services_response.service}
    assert {"turnkeeper.v1.RunService", "turnkeeper.v1.SessionService", "grpc.health.v1.Health", *NAMES} <= services
    # The file that was asked for comes first, what it imports behind it.
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0]).name
        for answer in found[:3]
    ]
    assert files == ["turnkeeper/v1/run_service.proto"] * 3
    assert [answer.WhichOneof("message_response") for answer in found[3:]] == ["error_response"] * 2
