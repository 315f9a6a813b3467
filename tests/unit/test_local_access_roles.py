"""Roles have the permissions of Google's; every method of the broker says what it needs."""

from __future__ import annotations

import pytest
from google.pubsub_v1 import types

from transports.local import methods
from transports.local.access import Role
from transports.local.access.permissions import Need, is_known, needs

PUBLISH, CONSUME, ATTACH = "pubsub.topics.publish", "pubsub.subscriptions.consume", "pubsub.topics.attachSubscription"


class TestRoles:
    def test_a_publisher_publishes_and_nothing_else(self) -> None:
        assert Role.PUBLISHER.permissions == {PUBLISH}

    def test_a_subscriber_consumes_what_is_there(self) -> None:
        assert Role.SUBSCRIBER.permissions == {CONSUME, ATTACH, "pubsub.snapshots.seek"}

    def test_a_viewer_changes_nothing(self) -> None:
        verbs = {each.rpartition(".")[2] for each in Role.VIEWER.permissions}
        assert verbs == {"get", "list", "listRevisions", "validate"}

    def test_an_editor_may_do_what_the_others_may_and_gives_no_access(self) -> None:
        others = Role.PUBLISHER.permissions | Role.SUBSCRIBER.permissions | Role.VIEWER.permissions
        assert others < Role.EDITOR.permissions
        assert not any("IamPolicy" in each for each in Role.EDITOR.permissions)


class TestNeeds:
    @pytest.mark.parametrize(
        ("method", "request_", "expected"),
        [
            ("Publish", types.PublishRequest(topic="t"), [Need(PUBLISH, "t")]),
            ("UpdateTopic", types.UpdateTopicRequest(topic={"name": "t"}), [Need("pubsub.topics.update", "t")]),
            ("ListTopics", types.ListTopicsRequest(project="projects/p"), [Need("pubsub.topics.list", "projects/p")]),
            (
                "CreateSubscription",
                types.Subscription(name="s", topic="t"),
                [Need("pubsub.subscriptions.create", "s"), Need(ATTACH, "t")],
            ),
            ("Acknowledge", types.AcknowledgeRequest(subscription="s"), [Need(CONSUME, "s")]),
            ("Seek", types.SeekRequest(subscription="s", time="2020-01-01T00:00:00Z"), [Need(CONSUME, "s")]),
            (
                "Seek",
                types.SeekRequest(subscription="s", snapshot="n"),
                [Need(CONSUME, "s"), Need("pubsub.snapshots.seek", "n")],
            ),
            (
                "UpdateSubscription",
                types.UpdateSubscriptionRequest(
                    subscription={"name": "s", "dead_letter_policy": {"dead_letter_topic": "d"}}
                ),
                [Need("pubsub.subscriptions.update", "s"), Need(PUBLISH, "d")],
            ),
            ("Surprise", types.SeekRequest(), [Need("pubsub.Surprise", "")]),
        ],
    )
    def test_a_request_needs_these(self, method: str, request_: object, expected: list[Need]) -> None:
        assert needs(f"/google.pubsub.v1.Any/{method}", type(request_).pb(request_)) == expected

    def test_every_method_that_the_broker_serves_is_known(self) -> None:
        class Anything:
            def __getattr__(self, name: str) -> object:
                return None

        served = [*methods.unary_methods(Anything()), methods.PULL, methods.STREAMING_PULL]  # type: ignore[arg-type]
        assert [each for each in served if not is_known(each)] == []

    def test_an_unknown_method_needs_what_no_role_has(self) -> None:
        (need,) = needs("/google.pubsub.v1.Publisher/Surprise", None)
        assert not any(need.permission in role.permissions for role in Role)
