"""Turns: which stream sends next."""

from __future__ import annotations

from collections import OrderedDict

from transports.local.http2.flows import Flow


class Turns:
    """The streams that have something to send, each in its turn.

    Those that found no room in the connection's window stand apart, and are not touched before there is some. Then
    they come first.
    """

    def __init__(self) -> None:
        self._ready: OrderedDict[Flow, None] = OrderedDict()
        self._starved: OrderedDict[Flow, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ready) + len(self._starved)

    def add(self, flow: Flow) -> None:
        """Have a stream take its turn, behind the others."""
        if flow not in self._starved:
            self._ready[flow] = None

    def discard(self, flow: Flow) -> None:
        self._ready.pop(flow, None)
        self._starved.pop(flow, None)

    def take(self, *, room: bool) -> Flow | None:
        """Take out the stream whose turn it is; without ``room`` in the connection's window, one that needs none."""
        if room and self._starved:
            return self._starved.popitem(last=False)[0]
        while self._ready:
            flow, _ = self._ready.popitem(last=False)
            if room or not flow.pieces:
                return flow
            self._starved[flow] = None
        return None
