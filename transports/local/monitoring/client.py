"""Asking a running broker for its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict

from transports.local.errors import BrokerError
from transports.local.monitoring.queues import QueueStatistics
from transports.local.monitoring.service import LIST, STRUCT

#: Seconds that a broker may take to answer.
ANSWER_SECONDS = 10.0


class StatisticsError(BrokerError):
    """A broker gave no statistics; the text says why."""


def statistics(
    address: str, project: str = "", *, token: str | None = None, ca: Path | None = None
) -> Sequence[QueueStatistics]:
    """Ask the broker at ``host:port`` how full a project's subscriptions are, or those of all projects.

    ``token`` is the secret of a viewer or editor, where the broker wants one; ``ca`` the certificate to trust, where it
    has TLS.

    Raises:
        StatisticsError: The broker does not answer, or refuses.
    """
    request = STRUCT()
    request.update({"project": project})
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with _channel(address, ca) as channel:
        ask = channel.unary_unary(
            LIST, request_serializer=struct_pb2.Struct.SerializeToString, response_deserializer=STRUCT.FromString
        )
        try:
            response = ask(request, timeout=ANSWER_SECONDS, metadata=metadata)
        except grpc.RpcError as exc:
            raise StatisticsError(_sentence(address, exc)) from exc
    return [QueueStatistics.from_dict(each) for each in MessageToDict(response).get("subscriptions", [])]


def _channel(address: str, ca: Path | None) -> Any:
    options = (("grpc.enable_http_proxy", 0),)
    if ca is None:
        return grpc.insecure_channel(address, options=options)
    try:
        credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    except OSError as exc:
        raise StatisticsError(f"Cannot read the CA certificate {ca}: {exc.strerror}.") from exc
    return grpc.secure_channel(address, credentials, options=options)


def _sentence(address: str, error: grpc.RpcError) -> str:
    match error.code():
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{address} gives no statistics: it is not a local broker, or an older one."
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"No broker answers at {address} ({error.details()}): is it running, and has it TLS?"
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return f"The broker at {address} refuses: {error.details()} Use a token with the role viewer."
    return f"The broker at {address} gave no statistics: {error.code().name}: {error.details()}"
