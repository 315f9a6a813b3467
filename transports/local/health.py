"""The service ``grpc.health.v1``: serving, from the start to the stop; who watches is told of the stop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from transports.local.http2 import Call, Method, Unary

_SERVING, _NOT_SERVING, _UNKNOWN = "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"


class Health:
    """Answers for some services, and for the server as a whole, whose name is empty."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = frozenset(["", *services])
        self._stopping = asyncio.Event()

    def methods(self) -> Mapping[str, Method]:
        """Return the service's methods by full name."""
        return {"/grpc.health.v1.Health/Check": Unary(self._check), "/grpc.health.v1.Health/Watch": Unary(self._watch)}

    def stop(self) -> None:
        """Tell those who watch that nothing is served any more, and end their watches."""
        self._stopping.set()

    def _check(self, call: Call, data: bytes) -> None:
        service = _service_of(call, data)
        if service is None:
            return
        if service in self._services:
            call.answer(_status(_NOT_SERVING if self._stopping.is_set() else _SERVING))
        else:
            call.finish(grpc.StatusCode.NOT_FOUND, f"There is no service {service[:100]!r} here.")

    def _watch(self, call: Call, data: bytes) -> None:
        service = _service_of(call, data)
        if service is not None:
            call.run(self._tell(call, known=service in self._services))

    async def _tell(self, call: Call, *, known: bool) -> None:
        """Report a service's state now, and its end."""
        await call.write(_status(_SERVING if known else _UNKNOWN))
        await self._stopping.wait()
        if known:
            await call.write(_status(_NOT_SERVING))


def _service_of(call: Call, data: bytes) -> str | None:
    """Return the service that is asked for; None if the request cannot be read, which is answered."""
    try:
        service: str = health_pb2.HealthCheckRequest.FromString(data).service
    except DecodeError:
        call.finish(grpc.StatusCode.INVALID_ARGUMENT, "The request is not a valid HealthCheckRequest.")
        return None
    return service


def _status(name: str) -> bytes:
    found: bytes = health_pb2.HealthCheckResponse(status=name).SerializeToString()
    return found
