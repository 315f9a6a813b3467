"""Snapshots and seeking, of the service ``google.pubsub.v1.Subscriber``: requests in, answers out, no network."""

from __future__ import annotations

import uuid

from transports.local import paging, resources, rules, wire
from transports.local.engine import Engine
from transports.local.errors import InvalidArgumentError
from transports.local.model import Snapshot
from transports.local.wire import Message


class SnapshotService:
    """Each method takes a request message and returns the response message, or raises a ``RequestError``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create_snapshot(self, request: Message) -> Message:
        rules.check_subscription_name(request.subscription)
        rules.check_labels(request.labels)
        project = "/".join(request.subscription.split("/")[:2])
        name = request.name or f"{project}/snapshots/snapshot-{uuid.uuid4().hex}"
        rules.check_snapshot_name(name)
        wanted = Snapshot(name, topic="", expires_us=0, labels=dict(request.labels))
        return resources.write_snapshot(await self._engine.replays.create_snapshot(wanted, request.subscription))

    async def get_snapshot(self, request: Message) -> Message:
        rules.check_snapshot_name(request.snapshot)
        return resources.write_snapshot(self._engine.catalog.snapshot(request.snapshot).settings)

    async def list_snapshots(self, request: Message) -> Message:
        rules.check_project(request.project)
        found = {each.name: each for each in self._engine.catalog.snapshots(request.project)}
        page = paging.page(list(found), request)
        return wire.request_type("ListSnapshotsResponse")(
            snapshots=[resources.write_snapshot(found[name]) for name in page.names], next_page_token=page.next_token
        )

    async def update_snapshot(self, request: Message) -> Message:
        wanted = request.snapshot
        rules.check_snapshot_name(wanted.name)
        if list(request.update_mask.paths) != ["labels"]:
            raise InvalidArgumentError("Only a snapshot's labels can be changed: the update mask must be 'labels'.")
        rules.check_labels(wanted.labels)
        return resources.write_snapshot(await self._engine.replays.label_snapshot(wanted.name, dict(wanted.labels)))

    async def delete_snapshot(self, request: Message) -> Message:
        rules.check_snapshot_name(request.snapshot)
        await self._engine.replays.delete_snapshot(request.snapshot)
        return wire.EMPTY()

    async def seek(self, request: Message) -> Message:
        rules.check_subscription_name(request.subscription)
        match request.WhichOneof("target"):
            case "time":
                await self._engine.replays.seek_to_time(request.subscription, request.time.ToMicroseconds())
            case "snapshot":
                rules.check_snapshot_name(request.snapshot)
                await self._engine.replays.seek_to_snapshot(request.subscription, request.snapshot)
            case _:
                raise InvalidArgumentError("A seek must name a time or a snapshot.")
        return wire.request_type("SeekResponse")()
