"""A store that fails as a test says: a wrapper of the one door to obstore, in this process or in others.

In this process::

    faults = Faults()
    store = faulty_store(url, faults)                  # a `Store` like any other, for a `Supervisor`, a `Client`, …
    faults.add(Fault("error", method="create", key="*/journal/*", times=2))
    faults.cut()                                       # every call fails from now on …
    faults.heal()                                      # … until now; `faults.cut(seconds=3)` heals by itself

In a worker or a command, which are processes of their own (`Studio` of `processes.py`)::

    faults = Faults(tmp_path / "faults.json")          # the plan is a file, read again by each process when it changes
    worker = studio.worker("q", **faults.variables())  # STUDIO_CONFIG names a configuration file that installs it
    faults.cut()                                       # from now on, in every process that was given the variables
    assert faults.hits()                               # what was done to calls, by all those processes

A test that has a `celeryconfig.py` or a program of its own calls `install(Faults(path))` there instead, before the
first `Store` is made. Give each worker a file of its own to cut off one of them.

Kinds of faults: "error" raises before the call; "lost" carries it out and raises as if no answer had come; "repeated"
carries it out twice and gives the second answer, as a client does that was left without the first (a create then finds
its own object); "slow" waits and goes on. Rules are tried in order, then `Chance`, which is random but seeded.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import studio_celery.store
from studio_celery.errors import StoreError
from studio_celery.store import Item, Objects, Store
from studio_celery.store.forked import open_objects

Kind = Literal["error", "lost", "repeated", "slow"]


@dataclass(frozen=True, kw_only=True)
class Chance:
    """Random faults of every call: how probable each kind is, 0 to 1. The same seed decides alike in each process."""

    seed: int
    error: float = 0.0
    lost: float = 0.0
    repeated: float = 0.0
    slow: float = 0.0
    slow_seconds: float = 0.05
    #: Only calls of these keys, a pattern.
    key: str = "*"


@dataclass(frozen=True)
class Fault:
    """A fault of the calls that match; methods are those of `Objects`, method and key may be patterns."""

    kind: Kind
    method: str = "*"
    key: str = "*"
    #: Only if this is part of the bytes that are written, as `'"kind": "started"'` is of a journal entry.
    holding: str = ""
    #: So many matching calls go through first.
    skip: int = 0
    #: How many calls it is for, in each process; None: all.
    times: int | None = None
    #: Of "slow".
    seconds: float = 0.0

    def matches(self, method: str, key: str, data: bytes) -> bool:
        """Whether it is for such a call."""
        return fnmatchcase(method, self.method) and fnmatchcase(key, self.key) and self.holding.encode() in data


@dataclass(frozen=True)
class Plan:
    """All that is to go wrong."""

    faults: tuple[Fault, ...] = ()
    chance: Chance | None = None
    #: Seconds since 1970 until when nothing answers.
    down_until: float = 0.0
    #: How often everything was taken back: after that rules count anew.
    healed: int = 0

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """Rebuild from JSON."""
        chance = Chance(**data["chance"]) if data["chance"] else None
        return cls(tuple(Fault(**fault) for fault in data["faults"]), chance, data["down_until"], data["healed"])


class Faults:
    """The plan, and what came of it. With a `path` it is shared with other processes. Safe to use from any thread."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._plan = Plan()
        self._text = ""
        self._used: dict[Fault, int] = {}
        self._random = random.Random()
        self._hits: list[str] = []
        if path is not None and not path.exists():
            self._change()

    # -- the test's side -------------------------------------------------------------------------------------------

    def add(self, fault: Fault) -> None:
        """Add a rule; equal rules count together."""
        with self._lock:
            self._change(faults=(*self._look().faults, fault))

    def set_chance(self, chance: Chance | None) -> None:
        """Make all calls fail at random, or with None no longer."""
        with self._lock:
            self._change(chance=chance)

    def cut(self, seconds: float = 1e9) -> None:
        """Let nothing answer, for so long or until `heal`."""
        with self._lock:
            self._change(down_until=time.time() + seconds)

    def heal(self) -> None:
        """Take everything back."""
        with self._lock:
            self._change(faults=(), chance=None, down_until=0.0, healed=self._look().healed + 1)

    def hits(self) -> list[str]:
        """ "kind method key" of each call that a fault met, of all processes."""
        if self._path is None:
            return list(self._hits)
        log = self._path.with_suffix(".hits")
        return log.read_text().splitlines() if log.exists() else []

    def variables(self) -> dict[str, str]:
        """Environment of a process whose store is to follow this plan."""
        assert self._path is not None
        config = self._path.with_suffix(".py")
        config.write_text(
            f"import sys\nfrom pathlib import Path\nsys.path.append({str(Path(__file__).parent)!r})\n"
            f"from faulty_store import Faults, install\ninstall(Faults(Path({str(self._path)!r})))\n"
        )
        return {"STUDIO_CONFIG": str(config)}

    def _change(self, **changes: Any) -> None:
        self._adopt(replace(self._look(), **changes))
        if self._path is not None:
            self._text = json.dumps(asdict(self._plan))
            temporary = self._path.with_suffix(".new")
            temporary.write_text(self._text)
            temporary.replace(self._path)

    # -- the store's side ------------------------------------------------------------------------------------------

    def meet(self, method: str, key: str, data: bytes = b"") -> Kind | None:
        """What is to be done with a call that comes now; waits if that is part of it."""
        with self._lock:
            kind, wait = self._decide(self._look(), method, key, data)
            if kind is not None:
                self._note(kind, method, key)
        time.sleep(wait)
        return kind

    def _decide(self, plan: Plan, method: str, key: str, data: bytes) -> tuple[Kind | None, float]:
        if time.time() < plan.down_until:
            return "error", 0.0
        wait = 0.0
        for fault in plan.faults:
            if not fault.matches(method, key, data) or not self._use(fault):
                continue
            if fault.kind != "slow":
                return fault.kind, wait
            self._note("slow", method, key)
            wait += fault.seconds
        if plan.chance is None or not fnmatchcase(key, plan.chance.key):
            return None, wait
        kind, more = self._draw(plan.chance)
        if more:
            self._note("slow", method, key)
        return kind, wait + more

    def _use(self, fault: Fault) -> bool:
        used = self._used[fault] = self._used.get(fault, 0) + 1
        return used > fault.skip and (fault.times is None or used <= fault.skip + fault.times)

    def _draw(self, chance: Chance) -> tuple[Kind | None, float]:
        wait = chance.slow_seconds if self._random.random() < chance.slow else 0.0
        draw = self._random.random()
        kinds: tuple[Kind, ...] = ("error", "lost", "repeated")
        for kind in kinds:
            draw -= getattr(chance, kind)
            if draw < 0:
                return kind, wait
        return None, wait

    def _note(self, kind: str, method: str, key: str) -> None:
        self._hits.append(f"{kind} {method} {key}")
        if self._path is not None:
            with self._path.with_suffix(".hits").open("a") as log:
                log.write(f"{kind} {method} {key}\n")

    def _look(self) -> Plan:
        if self._path is not None and self._path.exists() and (text := self._path.read_text()) != self._text:
            self._text = text
            self._adopt(Plan.from_dict(json.loads(text)))
        return self._plan

    def _adopt(self, plan: Plan) -> None:
        if plan.chance is not None and plan.chance != self._plan.chance:
            self._random.seed(plan.chance.seed)
        if plan.healed != self._plan.healed:
            self._used.clear()
        self._plan = plan


class FaultyObjects(Objects):
    """The door, with somebody in it. Every method of `Objects` that asks the store passes through `_through`."""

    def __init__(self, inner: Objects, faults: Faults) -> None:
        self.url = inner.url
        self.root = inner.root
        self._inner = inner
        self._faults = faults

    def _through(self, method: str, key: str, call: Callable[[], Any], data: bytes | Path | None = None) -> Any:
        kind = self._faults.meet(method, key, data if isinstance(data, bytes) else b"")
        if kind == "error":
            raise self._away(method, key)
        answer = call()
        if kind == "lost":
            raise self._away(method, key)
        return call() if kind == "repeated" else answer

    def _away(self, method: str, key: str) -> StoreError:
        return StoreError(f"The store {self.url} does not answer ({method} {key}): said a test. Try again later.")

    def create(self, key: str, data: bytes) -> bool:
        return bool(self._through("create", key, lambda: self._inner.create(key, data), data))

    def put(self, key: str, data: bytes | Path) -> None:
        self._through("put", key, lambda: self._inner.put(key, data), data)

    def put_durably(self, key: str, data: bytes) -> None:
        self._through("put", key, lambda: self._inner.put_durably(key, data), data)

    def get_dated(self, key: str) -> tuple[bytes, float]:
        found: tuple[bytes, float] = self._through("get_dated", key, lambda: self._inner.get_dated(key))
        return found

    def get_range(self, key: str, start: int, length: int, e_tag: str | None = None) -> bytes:
        return bytes(self._through("get_range", key, lambda: self._inner.get_range(key, start, length, e_tag)))

    def stream(self, key: str) -> Iterator[bytes]:
        """Each piece is a call: it can break in the middle."""
        pieces = self._through("stream", key, lambda: self._inner.stream(key))
        for piece in pieces:
            yield bytes(self._through("stream", key, lambda piece=piece: piece))  # type: ignore[misc]

    def head(self, key: str) -> Item:
        item: Item = self._through("head", key, lambda: self._inner.head(key))
        return item

    def listing(self, prefix: str) -> list[Item]:
        return list(self._through("listing", prefix, lambda: self._inner.listing(prefix)))

    def folders(self, prefix: str) -> list[str]:
        return list(self._through("folders", prefix, lambda: self._inner.folders(prefix)))

    def delete(self, key: str) -> None:
        self._through("delete", key, lambda: self._inner.delete(key))

    def delete_all(self, keys: Iterable[str]) -> None:
        named = list(keys)
        self._through("delete_all", named[0] if named else "", lambda: self._inner.delete_all(named))


def faulty_store(url: str, faults: Faults) -> Store:
    """A store of this process that follows the plan."""
    store = Store(url)
    store.objects = FaultyObjects(store.objects, faults)
    return store


@dataclass
class _Installed:
    """What this process opens stores with; a configuration file is run more than once."""

    faults: Faults | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_installed = _Installed()


def install(faults: Faults) -> None:
    """Have every `Store` that this process makes from now on follow the plan."""
    with _installed.lock:
        if _installed.faults is not None:
            return
        _installed.faults = faults
        # Where `Store` looks it up.
        studio_celery.store.open_objects = lambda url: FaultyObjects(open_objects(url), faults)  # type: ignore[attr-defined]
