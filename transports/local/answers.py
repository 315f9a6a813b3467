"""How errors are told to clients: status codes, and Google's details of a refused permission."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from transports.local.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    NotSupportedError,
    OutOfRangeError,
    PermissionDeniedError,
    RequestError,
    StaleAckIdsError,
    UnauthenticatedError,
    UnavailableError,
)
from transports.local.http2 import Call

_CODES: Mapping[type[RequestError], grpc.StatusCode] = {
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    NotSupportedError: grpc.StatusCode.UNIMPLEMENTED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
#: Most characters of a text in an answer; all of its metadata has room for 8 KiB, four bytes to a character.
_MAX_CHARACTERS = 500
#: What a client reads when the broker has a bug.
_BUG = "The broker has a bug; its log has the traceback."


def code_of(error: BaseException) -> grpc.StatusCode:
    """Return the status code that an error is answered with."""
    for cls in type(error).__mro__:
        if cls in _CODES:
            return _CODES[cls]
    return grpc.StatusCode.INTERNAL


def refuse(call: Call, error: Exception) -> None:
    """End a request with an error of ours, or with INTERNAL if it is none."""
    text = _shortened(str(error)) if isinstance(error, RequestError) else _BUG
    call.finish(code_of(error), text, _details(error))


def _details(error: Exception) -> tuple[tuple[str, bytes], ...]:
    """Return what Google's libraries read of an error: which permission is missing on what, which ack ids are stale."""
    if isinstance(error, PermissionDeniedError):
        facts = {"permission": error.permission, "resource": _shortened(error.resource)}
        return _packed(code_pb2.PERMISSION_DENIED, error, "IAM_PERMISSION_DENIED", "iam.googleapis.com", facts)
    if isinstance(error, StaleAckIdsError):
        facts = dict.fromkeys(error.ack_ids, "PERMANENT_FAILURE_INVALID_ACK_ID")
        return _packed(code_pb2.INVALID_ARGUMENT, error, "EXACTLY_ONCE_ACKID_FAILURE", "pubsub.googleapis.com", facts)
    return ()


def _shortened(text: str) -> str:
    """Leave out the middle of what repeats a long request: with more, clients get another status than the right one."""
    if len(text) <= _MAX_CHARACTERS:
        return text
    return f"{text[: _MAX_CHARACTERS // 2]}[…]{text[-_MAX_CHARACTERS // 2 :]}"


def _packed(
    code: int, error: Exception, reason: str, domain: str, facts: Mapping[str, str]
) -> tuple[tuple[str, bytes], ...]:
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=facts))
    status: Any = status_pb2.Status(code=code, message=_shortened(str(error)), details=[info])
    return (("grpc-status-details-bin", status.SerializeToString()),)
