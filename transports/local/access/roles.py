"""The roles and their permissions: those of Google's predefined roles ``roles/pubsub.*`` of the same names.

Source: https://cloud.google.com/pubsub/docs/access-control
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Role(Enum):
    """What a token is for."""

    #: Publish, and nothing else: a submitter's key.
    PUBLISHER = "publisher"
    #: Consume from subscriptions that exist, and nothing else: a worker's key.
    SUBSCRIBER = "subscriber"
    #: See what there is, and how much waits.
    VIEWER = "viewer"
    #: Everything but giving access to others.
    EDITOR = "editor"

    @property
    def permissions(self) -> frozenset[str]:
        """What the role permits, as ``pubsub.topics.publish``."""
        return _PERMISSIONS[self]


def _named(**verbs: str) -> frozenset[str]:
    return frozenset(f"pubsub.{kind}.{verb}" for kind, listed in verbs.items() for verb in listed.split())


_PERMISSIONS: Mapping[Role, frozenset[str]] = {
    Role.PUBLISHER: _named(topics="publish"),
    Role.SUBSCRIBER: _named(subscriptions="consume", topics="attachSubscription", snapshots="seek"),
    Role.VIEWER: _named(
        topics="get list",
        subscriptions="get list",
        snapshots="get list",
        schemas="get list listRevisions validate",
    ),
    Role.EDITOR: _named(
        topics="attachSubscription create delete detachSubscription get list publish update updateTag",
        subscriptions="consume create delete get list update",
        snapshots="create delete get list seek update",
        schemas="attach commit create delete get list listRevisions rollback validate",
    ),
}
