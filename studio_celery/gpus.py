"""The cards of this host, and who holds them; the one door to `pynvml`.

A card is held by a lock on `STUDIO_HOME/run/cards/<id>.lock`, so that no two worker processes give away the same one
and a killed worker holds none. A container outlives its worker: cards that live containers name are never given away,
whatever the locks say.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType

import pynvml

from studio_celery.errors import SettingsError

logger = logging.getLogger(__name__)

#: An index, a UUID, or a part of a card (MIG): what the driver takes, and what can be a file name.
CARD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]*")

#: What the driver answers about a card that fell off the bus, hangs, or is not there any more.
LOST = (
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
)


class Reservation:
    """Cards that nobody else on this host gets until they are released."""

    def __init__(self, ids: tuple[str, ...], locks: list[int]) -> None:
        self.ids = ids
        self._locks = locks

    def release(self) -> None:
        """Give them back; a second time does nothing."""
        while self._locks:
            os.close(self._locks.pop())

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Cards:
    """The cards that workers of one `STUDIO_HOME` may give to scripts. Every method may be called from any thread."""

    def __init__(self, setting: str | None, home: Path) -> None:
        """`setting`: ids separated by commas, "none", or None for all that the driver shows."""
        self._setting = setting
        self._directory = home / "run" / "cards"

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """What there is, free or not."""
        return detect() if self._setting is None else parse(self._setting)

    def reserve(self, count: int, in_use: Callable[[], set[str]]) -> Reservation | None:
        """Hold `count` cards, or none of them and None; `in_use` names those of containers that live."""
        with self._lock("all", wait=True):
            taken = _indices(in_use() | set(lost(self.ids)))
            free = [card for card in self.ids if not _indices({card}) & taken]
            return self._hold(free, count)

    def reserve_exactly(self, ids: Iterable[str]) -> Reservation | None:
        """Hold the cards of an attempt that is adopted; None if another process holds one of them."""
        wanted = list(ids)
        with self._lock("all", wait=True):
            return self._hold(wanted, len(wanted))

    def _hold(self, candidates: list[str], count: int) -> Reservation | None:
        held: dict[str, _Lock] = {}
        for card in candidates:
            if len(held) == count:
                break
            lock = self._lock(card)
            if lock.held:
                held[card] = lock
        if len(held) < count:
            for lock in held.values():
                lock.release()
            return None
        return Reservation(tuple(held), [lock.fd for lock in held.values()])

    def _lock(self, name: str, *, wait: bool = False) -> _Lock:
        self._directory.mkdir(parents=True, exist_ok=True)
        return _Lock(self._directory / f"{name}.lock", wait=wait)


class _Lock:
    """A lock on a file; it ends with the process."""

    def __init__(self, path: Path, *, wait: bool) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self.held = True
        except BlockingIOError:
            self.held = False
            self.release()

    def release(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def parse(setting: str) -> tuple[str, ...]:
    """The ids in a setting: "0,1", "GPU-8f6d…", or "none"."""
    ids = tuple(part.strip() for part in setting.split(",") if part.strip())
    if ids in ((), ("none",)):
        return ()
    wrong = [card for card in ids if not CARD_ID.fullmatch(card) or card in ("all", "none", "void")]
    if wrong or len(set(ids)) < len(ids):
        raise SettingsError(f"The cards {setting!r} cannot be used: write different ids, like 0,1, or none.")
    return ids


def detect() -> tuple[str, ...]:
    """Indices of all cards; without a driver there are none."""
    return tuple(_uuids().values())


def lost(cards: Iterable[str]) -> tuple[str, ...]:
    """Those that the driver has lost, or that ask for a reset; none where no driver can be asked."""
    asked = tuple(cards)
    if not asked:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(card for card in asked if _is_lost(card))
    finally:
        pynvml.nvmlShutdown()


def _is_lost(card: str) -> bool:
    try:
        if card.isdigit():
            pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(int(card)))
        elif card.startswith("GPU-"):
            pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(card))
    except pynvml.NVMLError as exc:
        return exc.value in LOST
    return False


def _indices(cards: set[str]) -> set[str]:
    """The same cards by index where they are named by UUID, so that two ways of naming one card do meet."""
    if not any(card.startswith("GPU-") for card in cards):
        return cards
    indices = _uuids()
    return {indices.get(card, card) for card in cards}


def _uuids() -> dict[str, str]:
    """UUID to index of each card that the driver shows."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        return {uuid: str(i) for i in range(pynvml.nvmlDeviceGetCount()) if (uuid := _uuid(i))}
    finally:
        pynvml.nvmlShutdown()


def _uuid(index: int) -> str | None:
    """UUID of a card; None if the driver has lost it."""
    try:
        return _text(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)))
    except pynvml.NVMLError as exc:
        logger.warning("Card %d cannot be used: %s.", index, exc)
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
