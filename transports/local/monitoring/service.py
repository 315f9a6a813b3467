"""The service ``studio.broker.v1.Statistics``: how full the subscriptions are, for who may list them.

``List`` takes and gives a ``google.protobuf.Struct``, which every gRPC client can write: ``{"project": "P"}`` (all
projects without it), answered by ``{"subscriptions": [{"name", "topic", "waiting", "leased", "oldest_age_seconds",
"consumers"}]}``. It needs ``pubsub.subscriptions.list``; a token for some subscriptions sees those.
"""

from __future__ import annotations

from google.protobuf import struct_pb2

from transports.local.access import Caller
from transports.local.engine import Engine
from transports.local.errors import PermissionDeniedError
from transports.local.monitoring.counters import Counters
from transports.local.monitoring.queues import QueueStatistics, read

SERVICE = "studio.broker.v1.Statistics"
LIST = f"/{SERVICE}/List"
#: The class of requests and responses.
STRUCT = struct_pb2.Struct

_PERMISSION = "pubsub.subscriptions.list"


def answer(engine: Engine, counters: Counters, caller: Caller, request: struct_pb2.Struct) -> struct_pb2.Struct:
    """Answer ``List``."""
    project = request.fields["project"].string_value if "project" in request.fields else ""
    found = visible(read(engine, counters, f"projects/{project}" if project else ""), caller)
    response = STRUCT()
    response.update({"subscriptions": [each.to_dict() for each in found]})
    return response


def visible(found: list[QueueStatistics], caller: Caller) -> list[QueueStatistics]:
    """Return what a caller may see.

    Raises:
        PermissionDeniedError: The caller's role may see nothing.
    """
    if caller.token is not None and _PERMISSION not in caller.token.role.permissions:
        raise PermissionDeniedError(_PERMISSION, "")
    return [each for each in found if caller.may("pubsub.subscriptions.get", each.name)]
