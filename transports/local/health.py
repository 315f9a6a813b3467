"""The service ``grpc.health.v1``: serving, from the start to the stop; who watches is told of the stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVING, _NOT_SERVING, _UNKNOWN = "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"


class Health(health_pb2_grpc.HealthServicer):
    """Answers for some services, and for the server as a whole, whose name is empty.

    gRPC's own servicer does not end its watches, which would hold up every stop of the broker.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = frozenset(["", *services])
        self._stopping = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve this on a server, too."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    def stop(self) -> None:
        """Tell those who watch that nothing is served any more, and end their watches."""
        self._stopping.set()

    async def Check(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Report a service's state."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {request.service[:100]!r} here.")
        return health_pb2.HealthCheckResponse(status=_NOT_SERVING if self._stopping.is_set() else _SERVING)

    async def Watch(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> None:
        """Report a service's state now, and its end."""
        known = request.service in self._services
        await context.write(health_pb2.HealthCheckResponse(status=_SERVING if known else _UNKNOWN))
        await self._stopping.wait()
        if known:
            await context.write(health_pb2.HealthCheckResponse(status=_NOT_SERVING))
