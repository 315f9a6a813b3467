"""A gRPC server over asyncio: HTTP/2 (RFC 9113) with what gRPC needs of it, for few and short Python steps per call.

``Server`` asks ``find`` for the method of a path: ``Unary`` is a function that is called with the request as soon as it
is there, in the turn of the event loop that read it; ``Streaming`` is a coroutine that runs from the beginning. Both
get a ``Call``, through which they answer. A call that is written to after its client has gone raises ``GoneError``.

What a client does against the rules ends its stream or its connection with the code that RFC 9113 names, and nothing
else; what it can make us keep is limited, and what it can make us do in vain as well.
"""

from transports.local.http2.calls import Call
from transports.local.http2.errors import GoneError, StatusError
from transports.local.http2.messages import MAX_MESSAGE_BYTES
from transports.local.http2.methods import Method, Streaming, Unary
from transports.local.http2.server import Server

__all__ = ["MAX_MESSAGE_BYTES", "Call", "GoneError", "Method", "Server", "StatusError", "Streaming", "Unary"]
