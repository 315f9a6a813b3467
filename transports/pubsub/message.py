"""A message that a consumer was given."""

from __future__ import annotations

import weakref
from typing import Any

from kombu.message import Message as KombuMessage

from transports.pubsub.receiving.parcel import Parcel


class Message(KombuMessage):
    """Acknowledge it with `ack`, give it back with `requeue`, drop it with `reject`, or `defer` it.

    All of them work from any thread, and also after the channel was closed. While its channel is open a message is kept
    until it is settled; after that, as long as somebody still refers to it.
    """

    def __init__(self, parcel: Parcel, *, channel: Any, tag: int, counted: bool) -> None:
        payload = parcel.payload
        properties = payload["properties"]
        super().__init__(
            body=payload["body"],
            channel=channel,
            delivery_tag=tag,
            content_type=payload.get("content-type"),
            content_encoding=payload.get("content-encoding"),
            headers=payload.get("headers"),
            properties=properties,
            delivery_info=properties.get("delivery_info"),
            postencode="utf-8",
        )
        self._state: str
        self.lease = parcel.lease
        self._allotment = parcel.allotment
        #: Whether it takes up a slot of the prefetch limit.
        self.counted = counted
        self._finalizer: Any = None

    def defer(self, seconds: float) -> None:
        """Let it be delivered again, to anybody, after so many seconds (at most 600); its slot is free at once."""
        if self.acknowledged:
            raise self.MessageStateError("this message was settled before: it can be settled once")
        self.channel.basic_defer(self.delivery_tag, seconds)
        self._state = "REQUEUED"

    def give_back_when_forgotten(self, keeper: Any) -> None:
        """Have the lease given back when nothing refers to this message any more."""
        self._finalizer = weakref.finalize(self, keeper.forget, self.lease)
        self._finalizer.atexit = False

    def settle(self, *, put_off: bool = False) -> None:
        """Note that the lease is dealt with; `put_off`: the server still counts the message."""
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._allotment is not None:
            if put_off:
                self._allotment.spend()
            else:
                self._allotment.settle()
