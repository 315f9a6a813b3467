"""Everything that can be called on the broker, by path; the rest of Google's services is refused in words."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from transports.local import methods
from transports.local.engine import Engine
from transports.local.handlers import Adapter
from transports.local.http2 import Method, StatusError
from transports.local.monitoring import service
from transports.local.subscriber import SubscriberService

#: What is answered for a path that is nobody's.
_UNKNOWN = "There is no such method here."


class Services:
    """Finds a method by its path; the rest of Google's services is refused in words."""

    def __init__(self, found: Mapping[str, Method]) -> None:
        self._methods = found

    def find(self, path: str) -> Method:
        """Return a method.

        Raises:
            StatusError: There is none.
        """
        if path in self._methods:
            return self._methods[path]
        said = (
            f"The local broker does not implement {path.rpartition('/')[2]}."
            if path.startswith(methods.PREFIXES)
            else _UNKNOWN
        )
        raise StatusError(grpc.StatusCode.UNIMPLEMENTED, said)


def handlers(engine: Engine, adapter: Adapter) -> dict[str, Method]:
    """Return the methods of Google's services and ours by full name."""
    quick, unary = methods.quick_methods(engine), methods.unary_methods(engine)
    return {
        **{name: adapter.quick(name, method) for name, method in quick.items()},
        **{name: adapter.unary(name, method, request) for name, (method, request) in unary.items()},
        methods.PULL: adapter.pull(SubscriberService(engine)),
        methods.STREAMING_PULL: adapter.stream(engine),
        service.LIST: adapter.statistics(engine),
    }
