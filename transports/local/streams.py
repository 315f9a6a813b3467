"""``StreamingPull``: messages go out as they become ready and fit; acknowledgements and heartbeats come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from transports.local import rules, wire
from transports.local.catalog import Attached
from transports.local.dispatch.delivery import Consumer
from transports.local.engine import Engine
from transports.local.errors import InvalidArgumentError
from transports.local.wire import Message


@dataclass(frozen=True, slots=True)
class Pipe:
    """A stream's two ends."""

    requests: AsyncIterator[Message]
    write: Callable[[Message], Awaitable[None]]


async def serve_stream(engine: Engine, pipe: Pipe) -> None:
    """Serve one stream until the client closes its end.

    What was written stays leased when the stream ends, until its deadline; what was taken and not written does not.

    Raises:
        RequestError: The subscription is missing or was deleted, a request is wrong, or the broker is stopping.
    """
    first = await anext(pipe.requests, None)
    if first is None:
        return
    rules.check_subscription_name(first.subscription)
    rules.check_ack_deadline(first.stream_ack_deadline_seconds)
    attached = engine.require_attached(first.subscription)
    consumer = Consumer(
        ack_deadline_seconds=first.stream_ack_deadline_seconds,
        max_messages=first.max_outstanding_messages,
        max_bytes=first.max_outstanding_bytes,
    )
    await _settle(engine, attached, first, pipe)
    await _first_to_end(_listen(engine, attached, consumer, pipe), _feed(engine, attached, consumer, pipe))


async def _listen(engine: Engine, attached: Attached, consumer: Consumer, pipe: Pipe) -> None:
    async for request in pipe.requests:
        if request.subscription:
            raise InvalidArgumentError("Only the first request of a stream names the subscription.")
        if request.stream_ack_deadline_seconds:
            rules.check_ack_deadline(request.stream_ack_deadline_seconds)
            consumer.ack_deadline_seconds = request.stream_ack_deadline_seconds
        await _settle(engine, attached, request, pipe)


async def _feed(engine: Engine, attached: Attached, consumer: Consumer, pipe: Pipe) -> None:
    while True:
        found = await engine.deliveries(attached, consumer)
        response = _response(attached)
        response.received_messages.extend(wire.write_delivery(each) for each in found)
        try:
            await pipe.write(response)
        except BaseException:
            engine.undo(attached, [each.ack_id for each in found])
            raise


async def _settle(engine: Engine, attached: Attached, request: Message, pipe: Pipe) -> None:
    """Do what a request says about messages: acknowledge some, move the deadlines of others.

    With exactly-once delivery the client is told for which ack ids that was done.
    """
    if len(request.modify_deadline_seconds) != len(request.modify_deadline_ack_ids):
        raise InvalidArgumentError("A stream request must have as many modified deadlines as ack ids to modify.")
    for seconds in request.modify_deadline_seconds:
        rules.check_extension(seconds)
    name, response = attached.settings.name, _response(attached)
    for ack_id, seconds in zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True):
        stale = engine.modify_ack_deadline(name, [ack_id], seconds)
        confirmation = response.modify_ack_deadline_confirmation
        (confirmation.invalid_ack_ids if stale else confirmation.ack_ids).append(ack_id)
    if request.ack_ids:
        stale = await engine.acknowledge(name, request.ack_ids)
        response.acknowledge_confirmation.invalid_ack_ids.extend(stale)
        response.acknowledge_confirmation.ack_ids.extend(set(request.ack_ids) - set(stale))
    if attached.settings.exactly_once and (request.ack_ids or request.modify_deadline_ack_ids):
        await pipe.write(response)


def _response(attached: Attached) -> Message:
    """Return an empty response that tells Google's clients how the subscription delivers."""
    response = wire.request_type("StreamingPullResponse")()
    response.subscription_properties.exactly_once_delivery_enabled = attached.settings.exactly_once
    response.subscription_properties.message_ordering_enabled = attached.settings.ordered
    return response


async def _first_to_end(*parts: Awaitable[None]) -> None:
    """Run parts at the same time until one ends; stop the others; raise what it raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
