"""Chords: what happens when a part returns, and the join of all parts by whoever returns the last one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from celery import states
from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from celery.result import GroupResult, result_from_tuple
from celery.worker import state as worker_state

from studio_celery.backend.chords import Census, Chord, part_index
from studio_celery.backend.expiry import late_message_seconds
from studio_celery.errors import StoreError
from studio_celery.submission.request import EXPERIMENT_TASK

logger = logging.getLogger(__name__)

#: Longest pause between two tries to tell the store of an experiment's end, seconds.
INSIST_SECONDS = 30.0


class Overtaken(Exception):
    """Another delivery of the same part has finished the chord meanwhile."""


class Joiner:
    """The chords of one backend."""

    def __init__(self, backend: Any, chord_of: Callable[[str], Chord]) -> None:
        self._backend = backend
        self._chord_of = chord_of

    def begin(self, group_id: str, header: GroupResult | None) -> None:
        """Before the header is published. None if it is made while it is published."""
        kept = {"result": header.as_tuple() if header is not None else None}
        self._chord_of(group_id).begin(_bytes(self._backend.encode(kept)))

    def part_returned(self, request: Any, state: str, result: Any) -> None:
        """Count a part; the last one joins all and publishes the body."""
        chord = self._chord_of(request.group)
        part: dict[str, Any] = {"id": request.id, "index": request.group_index, "status": state}
        if request.task != EXPERIMENT_TASK or self._backend.experiment_meta(request.id) is None:
            part["result"] = self._backend.encode_result(result, state)
        chord.return_part(request.id, _bytes(self._backend.encode(part)))
        census = chord.census()
        if not census.has_header and not chord.is_done:
            if self._is_long_over(request):
                logger.info("One more message of %s came: its chord %s is long over.", request.id, request.group)
                return
            self._fail(request, ChordError(f"GroupResult {request.group} no longer exists"))
            chord.finish()
            return
        complete = chord.complete(census)
        if complete is not None and chord.claim(request.id):
            self._finish(chord, complete, request)

    def _is_long_over(self, request: Any) -> bool:
        """Whether this is an experiment that ended so long ago that its chord may have been forgotten since."""
        if request.task != EXPERIMENT_TASK:
            return False
        settled_at = self._backend.settled_at(request.id)
        late = late_message_seconds(self._backend)
        return bool(math.isfinite(settled_at) and self._backend.store.now() - settled_at > late)

    def _finish(self, chord: Chord, census: Census, request: Any) -> None:
        """Publish the body, or tell it what went wrong; then nothing can publish it again."""
        try:
            values = self._join(chord, census)
        except StoreError:
            raise  # asked again when the part is
        except Overtaken:
            return
        except ChordError as exc:
            logger.error("Chord %s: %s", request.group, exc)
            self._fail(request, exc)
        except Exception as exc:
            logger.exception("Chord %s cannot be joined.", request.group)
            self._fail(request, _caused(f"Join error: {exc!r}", exc))
        else:
            self._publish(request, values)
        chord.finish()

    def _publish(self, request: Any, values: list[Any]) -> None:
        callback = maybe_signature(request.chord, app=self._backend.app)
        try:
            self._backend.app.amqp._retry_publish(callback.delay, values)
        except Exception as exc:
            logger.exception("The body of chord %s cannot be published.", request.group)
            self._fail(request, _caused(f"Callback error: {exc!r}", exc))

    def _fail(self, request: Any, error: ChordError) -> None:
        callback = maybe_signature(request.chord, app=self._backend.app)
        try:
            raise error  # Celery stores where it was raised
        except ChordError:
            self._backend.chord_error_from_stack(callback, error)

    def _join(self, chord: Chord, census: Census) -> list[Any]:
        """Values of all parts in the order and structure of the header, what was added last; `ChordError` for one."""
        fetched = self._backend.fetch(sorted(census.parts))
        header_body = chord.header()
        if header_body is None or None in fetched.values():
            raise Overtaken
        parts = {key: self._backend.decode(body) for key, body in fetched.items()}
        kept = self._backend.decode(header_body)
        if not kept["result"]:
            return [self._value(part) for part in sorted(parts.values(), key=part_index)]
        header = result_from_tuple(kept["result"], self._backend.app)
        values = self._values(header, chord, parts)
        more = [key.replace("/more/", "/part/", 1) for key in census.more]
        return values + [self._value(parts[key]) for key in more]

    def _values(self, group: GroupResult, chord: Chord, parts: Mapping[str, Mapping[str, Any]]) -> list[Any]:
        values: list[Any] = []
        for result in group.results:
            if isinstance(result, GroupResult):
                values.append(self._values(result, chord, parts))
            else:
                part = parts.get(chord.part_key(result.id))
                values.append(self._value(part or {"id": result.id}))
        return values

    def _value(self, part: Mapping[str, Any]) -> Any:
        """What one part is worth to the body."""
        meta = part if "result" in part else self._backend.get_task_meta(part["id"], cache=False)
        if meta["status"] not in states.READY_STATES:
            raise ChordError(f"Dependency {part['id']} has not returned")
        value = meta["result"]
        if meta["status"] in states.EXCEPTION_STATES:
            value = self._backend.exception_to_python(value)
        if meta["status"] in states.PROPAGATE_STATES:
            raise _caused(f"Dependency {part['id']} raised {value!r}", value)
        return value


def insist(request: Any, call: Callable[[], Any]) -> Any:
    """Call; what concerns an experiment is asked again until the store answers, or this worker is to stop.

    Its message is acknowledged after that only, so what is given up here is done at its next delivery.
    """
    pause = 1.0
    while True:
        try:
            return call()
        except StoreError as exc:
            # The exit code it stops with, and 0 equals False.
            stopping = worker_state.should_stop is not None and worker_state.should_stop is not False
            if getattr(request, "task", None) != EXPERIMENT_TASK or stopping:
                raise
            logger.warning("The end of %s is told to the store again in %g s: %s", request.id, pause, exc)
            time.sleep(pause)
            pause = min(INSIST_SECONDS, pause * 2)


def _caused(message: str, cause: Any) -> ChordError:
    error = ChordError(message)
    if isinstance(cause, Exception):
        error.__cause__ = cause
    return error


def _bytes(payload: Any) -> bytes:
    return payload if isinstance(payload, bytes) else payload.encode()
