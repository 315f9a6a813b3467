"""The backend as Celery calls it: what is kept under which key, and who knows a task's state."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from celery import states
from celery.backends.base import KeyValueStoreBackend
from celery.result import result_from_tuple
from celery.utils.functional import _regen
from kombu.utils.encoding import bytes_to_str
from kombu.utils.url import maybe_sanitize_url

from studio_celery import settings as settings_module
from studio_celery.backend.chords import Chord
from studio_celery.backend.expiry import Cleaner
from studio_celery.backend.gathering import ROUND, Gathering, together
from studio_celery.backend.joining import Joiner, insist
from studio_celery.backend.keys import ROOT, path
from studio_celery.backend.pace import Pace
from studio_celery.backend.place import Place
from studio_celery.errors import SettingsError, StoreError
from studio_celery.experiment import Status
from studio_celery.journal import State
from studio_celery.store import Item, Store
from studio_celery.submission.request import EXPERIMENT_TASK
from studio_celery.world import resolve

#: Marks what Celery knows of an experiment; its state and result are in the journal.
EXPERIMENT = "experiment"

#: Kept states that may be told of an experiment by somebody who did not know that it is one.
_UNSURE = frozenset({states.PENDING, states.REVOKED, states.FAILURE})


class StoreBackend(KeyValueStoreBackend):
    """`result_backend = "studio_celery.backend:StoreBackend"`, the default of this application."""

    supports_native_join = True
    supports_result_compression = True
    task_keyprefix = "results/"
    group_keyprefix = "groups/"
    chord_keyprefix = "chords/"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: One for all threads of the application.
        self.thread_safe = True
        self.options: Mapping[str, Any] = self.app.conf.get("result_backend_transport_options") or {}
        self._place: Place | None = None
        self._joiner = Joiner(self, self.chord)

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires, "url": self.url})

    def as_uri(self, include_password: bool = False) -> str:
        """The store."""
        url = self._store_url()
        return maybe_sanitize_url(url) if "://" in url and not include_password else url

    @property
    def store(self) -> Store:
        """The store of this process."""
        return self._here.store

    @property
    def _here(self) -> Place:
        if self._place is None or self._place.pid != os.getpid():
            services = None if self.url else getattr(self.app, "services", None)
            settings = services.settings if services else settings_module.load()
            self._place = Place(services.store if services else Store(self._store_url()), settings)
        return self._place

    def _store_url(self) -> str:
        services = getattr(self.app, "services", None)
        world = services.world if services else None
        return self.url or (world or resolve(settings_module.load())).store_url

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether asking again can help (`result_backend_always_retry`)."""
        return isinstance(exc, StoreError) and not isinstance(exc, SettingsError)

    # -- keys ------------------------------------------------------------------------------------------------------

    def _path(self, key: Any) -> str:
        prefixes = (self.task_keyprefix, self.group_keyprefix, self.chord_keyprefix)
        return path(_text(key), [_text(prefix) for prefix in prefixes])

    def get(self, key: Any) -> bytes | None:
        """What is kept under a key of Celery's, or None."""
        return self.fetch([self._path(key)]).popitem()[1]

    def mget(self, keys: Any) -> list[bytes | None]:
        """The same for several."""
        paths = [self._path(key) for key in keys]
        found = self.fetch(paths)
        return [found[each] for each in paths]

    def fetch(self, paths: Sequence[str]) -> dict[str, bytes | None]:
        """Objects by their keys in the store; None for what is not there."""
        objects = self.store.objects

        def one(key: str) -> bytes | None:
            with suppress(KeyError):
                return objects.get(key)
            return None

        return dict(zip(paths, together(one, paths), strict=True))

    def set(self, key: Any, value: Any) -> None:
        """Keep a value, bytes or text."""
        self.store.objects.put(self._path(key), value if isinstance(value, bytes) else value.encode())

    def delete(self, key: Any) -> None:
        """Forget a key."""
        self.store.objects.delete(self._path(key))

    # -- states ----------------------------------------------------------------------------------------------------

    def _kept(self, task_id: str) -> dict[str, Any] | None:
        """What Celery itself stored for a task."""
        payload = self.get(self.get_key_for_task(task_id))
        return self.decode_result(payload) if payload else None

    def _get_task_meta_for(self, task_id: Any) -> dict[str, Any]:
        task_id = _text(task_id)
        known = self._here.experiments.knows(task_id)
        kept = None if known else self._kept(task_id)
        if kept and kept["status"] not in _UNSURE and EXPERIMENT not in kept:
            return kept
        state = self._here.experiments.look(task_id)
        if state is None:
            return kept or {"status": states.PENDING, "result": None}
        return self._told(task_id, state, kept)

    def _told(self, task_id: str, state: State, kept: Mapping[str, Any] | None) -> dict[str, Any]:
        """An experiment's meta, with what Celery itself knows of it."""
        kept = (self._kept(task_id) or {}) if kept is None else kept
        if state.status is Status.SUBMITTING and kept.get("status") == states.FAILURE:
            return dict(kept)  # its submission failed half-way, and whoever tried has said so
        return self._here.experiments.meta(state, kept)

    def experiment_meta(self, task_id: Any) -> dict[str, Any] | None:
        """The meta of an experiment, None if this id is no experiment's."""
        state = self._here.experiments.look(_text(task_id))
        return None if state is None else self._told(_text(task_id), state, None)

    def called(self, request: Any) -> list[Any]:
        """What the links and the chain of an experiment have called, as results; none before that was told."""
        kept = insist(request, lambda: self._kept(request.id)) or {}
        return [result_from_tuple(each, app=self.app) for each in kept.get("children") or () if EXPERIMENT in kept]

    def still_runs(self, task_id: Any) -> bool:
        """Whether this is known for an experiment and has not ended: the cheapest look there is, one request."""
        experiments = self._here.experiments
        if not experiments.knows(_text(task_id)):
            return False
        state = experiments.look(_text(task_id))
        return state is not None and not (state.status.terminal or state.status is Status.SUBMITTING)

    def task_result_exists(self, task_id: Any) -> bool:
        """Whether there is a result, or an experiment, of this id."""
        return super().task_result_exists(task_id) or self.experiment_meta(task_id) is not None

    def store_result(self, task_id: Any, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        """Keep a state; what Celery says about an experiment is kept only as far as the journal does not say it."""
        call = super().store_result
        return insist(kwargs.get("request"), lambda: call(task_id, result, state, *args, **kwargs))

    def _store_result(
        self, task_id: Any, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        ordinary = request is not None and getattr(request, "task", None) not in (None, EXPERIMENT_TASK)
        found = None if ordinary else self._here.experiments.look(_text(task_id))
        if found is None or (found.status is Status.SUBMITTING and state == states.FAILURE):
            return super()._store_result(task_id, result, state, traceback=traceback, request=request, **kwargs)
        if state in states.READY_STATES and request is not None:
            meta = self._get_result_meta(result=None, state=state, traceback=None, request=request)
            meta = {"children": meta["children"], "parent_id": meta.get("parent_id"), "group_id": meta.get("group_id")}
            if any(meta.values()):
                kept = {**meta, EXPERIMENT: True, "task_id": _text(task_id), "status": states.SUCCESS, "result": None}
                self.set(self.get_key_for_task(task_id), self.encode(kept))
        return result

    def mark_as_done(self, task_id: Any, result: Any, request: Any = None, store_result: bool = True, **kw: Any) -> Any:
        """As Celery has it; of an experiment it is kept what was called, also where its result is not wanted."""
        if getattr(request, "task", None) == EXPERIMENT_TASK and not request.is_eager:
            # Else one more message would call everything again.
            request.ignore_result, store_result = False, True
        return super().mark_as_done(task_id, result, request, store_result, **kw)

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait_for(
        self,
        task_id: Any,
        timeout: float | None = None,
        interval: float | None = None,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> dict[str, Any]:
        """The meta of a task as soon as it is ready; pauses grow with the time already waited."""
        self._ensure_not_eager()
        pace = Pace(self.options, timeout, interval)
        while True:
            if not self.still_runs(task_id):
                meta: dict[str, Any] = self.get_task_meta(task_id)
                if meta["status"] in states.READY_STATES:
                    return meta
            if on_interval:
                on_interval()
            pace.pause()

    def get_many(
        self,
        task_ids: Any,
        timeout: float | None = None,
        interval: float | None = None,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        max_iterations: int | None = None,
        READY_STATES: Any = states.READY_STATES,  # noqa: N803
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, meta) of tasks as they become ready."""
        pace = Pace(self.options, timeout, interval)
        ids = [_text(task_id) for task_id in task_ids]
        gathering = Gathering(self, ids, READY_STATES, len(ids) if max_iterations else ROUND)
        rounds = 0
        while gathering.pending:
            found = gathering.round()
            for task_id, meta in found:
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta
            rounds += 1
            if not gathering.pending or (max_iterations and rounds >= max_iterations):
                return
            if not found:
                if on_interval:
                    on_interval()
                pace.pause()

    # -- chords ----------------------------------------------------------------------------------------------------

    def chord(self, group_id: Any) -> Chord:
        """The chord whose header is this group."""
        return Chord(self.store.objects, self._path(self.get_key_for_chord(group_id)))

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Before a chord's header is published."""
        self.ensure_chords_allowed()
        lazy = isinstance(header_result_args[1], _regen)
        header = None if lazy else self.app.GroupResult(*header_result_args)
        self._ensure_retryable(self._joiner.begin, header_result_args[0], header)

    def set_chord_size(self, group_id: Any, chord_size: int) -> None:
        """Before the last of a chord's header is published."""
        self._ensure_retryable(self.chord(group_id).set_size, chord_size)

    def add_to_chord(self, chord_id: Any, result: Any) -> None:
        """A part of a chord adds another to it."""
        self._ensure_retryable(self.chord(chord_id).add, result.id)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """A part of a chord has ended; the last one publishes the body."""
        if request.group and request.id:
            returned = self._joiner.part_returned
            insist(request, lambda: self._ensure_retryable(returned, request, state, result))

    # -- many, and old ---------------------------------------------------------------------------------------------

    def list_results(self) -> dict[str, Item]:
        """All kept results, by their keys in the store, for the price of a listing."""
        listed = self.store.objects.listing(f"{ROOT}/{_text(self.task_keyprefix).rstrip('/')}")
        return {item.key: item for item in listed}

    def result_path(self, task_id: Any) -> str:
        """Where a task's result is kept in the store."""
        return self._path(self.get_key_for_task(task_id))

    def settled_at(self, task_id: Any) -> float:
        """When an experiment ended, on the store's clock; now and later if it has not, long ago if it is none."""
        return self._here.experiments.settled_at(_text(task_id))

    def cleanup(self) -> None:
        """Drop what is older than `result_expires`; never an experiment, nor what one that still runs will need."""
        if self.expires:
            Cleaner(self).clean()


def _text(value: Any) -> str:
    return str(bytes_to_str(value))
