"""What a `FaultProxy` does with calls, and what it writes down about them. Pure.

A rule is an action for some calls: those of a method, about a resource, the next few of them. Methods go by their short
names ("Publish"), resources by full names; both may be patterns ("*", "*/celery-gpu").
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import parse_qs

from google.iam.v1 import iam_policy_pb2
from google.pubsub_v1 import types
from grpc import StatusCode

#: Fields of requests that name what the request is about, the telling ones first.
_RESOURCE_FIELDS = ("resource", "name", "subscription", "topic", "project")
#: Requests that are not called after their method.
_REQUESTS = {"CreateTopic": "Topic", "CreateSubscription": "Subscription"}
#: What the service says to a key that lacks a permission.
NOT_AUTHORIZED = "User not authorized to perform this action."


@dataclass(frozen=True)
class Answer:
    """Answer with a status; the server never hears of the call."""

    code: StatusCode
    details: str = "said the fault proxy"
    trailing: tuple[tuple[str, str | bytes], ...] = ()


@dataclass(frozen=True)
class Delay:
    """Wait before anything else happens to the call."""

    seconds: float


@dataclass(frozen=True)
class LoseAnswer:
    """Have the server carry the call out, and tell the client that it is unavailable; means nothing to a stream."""


@dataclass(frozen=True)
class Swallow:
    """Never answer, and tell the server nothing; a stream opens and stays silent."""


Action = Answer | Delay | LoseAnswer | Swallow


@dataclass
class Call:
    """One call that came; `code` is None as long as it is under way, and CANCELLED if the client went meanwhile."""

    method: str
    resource: str
    metadata: dict[str, str | bytes]
    #: Of Acknowledge and ModifyAckDeadline.
    ack_ids: tuple[str, ...] = ()
    #: The lease that a ModifyAckDeadline asks for; None for other methods.
    seconds: int | None = None
    #: Monotonic.
    at: float = field(default_factory=time.monotonic)
    code: StatusCode | None = None


@dataclass
class Rule:
    """An action for the calls that match; `end` takes it back."""

    method: str
    action: Action
    resource: str = "*"
    #: How many calls it is still for; None: all.
    times: int | None = None

    def end(self) -> None:
        self.times = 0

    def matches(self, call: Call) -> bool:
        if isinstance(self.action, LoseAnswer) and call.method == "StreamingPull":
            return False
        return self.times != 0 and fnmatchcase(call.method, self.method) and fnmatchcase(call.resource, self.resource)


@dataclass(frozen=True)
class Role:
    """What one of Google's predefined roles allows."""

    methods: frozenset[str]
    permissions: frozenset[str]

    def refuses(self, method: str) -> bool:
        return method not in self.methods and method != "TestIamPermissions"


#: https://cloud.google.com/pubsub/docs/access-control#roles
ROLES = {
    "publisher": Role(frozenset({"Publish"}), frozenset({"pubsub.topics.publish"})),
    "subscriber": Role(
        frozenset({"Pull", "StreamingPull", "Acknowledge", "ModifyAckDeadline", "Seek"}),
        frozenset({"pubsub.subscriptions.consume", "pubsub.topics.attachSubscription", "pubsub.snapshots.seek"}),
    ),
}


class Rules:
    """The rules of a proxy. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self.role: Role | None = None

    def add(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()
            self.role = None

    def actions(self, call: Call) -> Iterator[Action]:
        """Yield what is to be done with a call, in this order, until one thing decides its fate."""
        with self._lock:
            matching = [rule for rule in self._rules if rule.matches(call)]
            role = self.role
        for rule in matching:
            if self._use(rule):
                yield rule.action
        if role is not None and role.refuses(call.method):
            yield Answer(StatusCode.PERMISSION_DENIED, NOT_AUTHORIZED)

    def _use(self, rule: Rule) -> bool:
        """Take one of the times a rule is for; False: none was left."""
        with self._lock:
            if rule.times:
                rule.times -= 1
                return True
            return rule.times is None


def read_call(method: str, data: bytes, metadata: Sequence[tuple[str, str | bytes]]) -> Call:
    """Return what a serialized request of a method says."""
    call = Call(method, "", dict(metadata))
    if method == "TestIamPermissions":
        call.resource = iam_policy_pb2.TestIamPermissionsRequest.FromString(data).resource
        return call
    kind = getattr(types, _REQUESTS.get(method, f"{method}Request"), None)
    if kind is None:
        call.resource = _routed(call)
        return call
    request = kind.deserialize(data)
    named = (getattr(request, name, "") for name in _RESOURCE_FIELDS)
    call.resource = next((name for name in named if name and isinstance(name, str)), "") or _routed(call)
    if method in ("Acknowledge", "ModifyAckDeadline"):
        call.ack_ids = tuple(request.ack_ids)
    if method == "ModifyAckDeadline":
        call.seconds = request.ack_deadline_seconds
    return call


def permitted(role: Role, data: bytes) -> bytes:
    """Answer a serialized TestIamPermissions request as the service answers a key with this role."""
    request = iam_policy_pb2.TestIamPermissionsRequest.FromString(data)
    allowed = [each for each in request.permissions if each in role.permissions]
    answer: bytes = iam_policy_pb2.TestIamPermissionsResponse(permissions=allowed).SerializeToString()
    return answer


def _routed(call: Call) -> str:
    """Return the resource of which only the routing header is left."""
    fields = parse_qs(str(call.metadata.get("x-goog-request-params", "")))
    return next((value for values in fields.values() for value in values), "")
