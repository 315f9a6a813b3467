"""What the model of the protocol is made of: worlds, and the plan that says how much may happen in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

from protocol_book import Fold

from studio_celery import journal as real
from studio_celery.experiment import Attempt
from studio_celery.journal import Action, Observation, Rules, Standing, State

#: Containers are alive, ended by themselves, were killed, or vanished without an end (the host went down).
ALIVE, ENDED, KILLED, VANISHED = "alive", "ended", "killed", "vanished"

RULES = Rules()
NOW, LONG = 10.0**7, 10.0**6

#: A thread has no message, holds one, or held one whose lease has expired.
NO_MESSAGE, HOLDS, EXPIRED = range(3)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many of what: the host of each process, and how often each fault may strike."""

    hosts: tuple[int, ...] = (0, 1)
    messages: int = 1
    #: Deliveries that a process takes at a time.
    threads: int = 1
    max_attempts: int = 9
    crashes: int = 0
    host_crashes: int = 0
    cuts: int = 0
    stops: int = 0
    lost_answers: int = 0
    failed_starts: int = 0
    #: Whether faults strike a process that has nothing in hand, too: what is left then is a plan with fewer workers.
    idle_faults: bool = False

    @property
    def budget(self) -> tuple[int, ...]:
        """What may strike, in the order of `FAULTS`."""
        return self.crashes, self.host_crashes, self.cuts, self.stops, self.lost_answers, self.failed_starts


FAULTS = ("crash", "host crash", "cut", "stop", "lost answer", "failed start")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is searched: the real functions. A test breaks one rule at a time and sees that the search finds it."""

    fold: Fold = real.fold
    decide: Callable[[State, Observation, Rules], Action] = real.decide
    decide_onlooker: Callable[[State, Observation, Rules], Action | None] = real.decide_onlooker
    decide_found: Callable[[State, int, Observation], Any] = real.decide_found
    standing: Callable[[State, int, int], Standing] = real.standing
    sign_of_life: Callable[[Attempt, float | None], float] = real.sign_of_life
    #: An entry is created only if its number is free.
    creates_once: bool = True
    #: On one host, one start of an experiment at a time, from the last look into the journal on.
    doorway: bool = True
    #: Who starts ends what former attempts left on the host.
    puts_down_former: bool = True


class Thread(NamedTuple):
    """What one thread is about to do, and what it remembers."""

    at: str
    message: int
    number: int = 0
    epoch: int = 0
    data: Any = None


class Process(NamedTuple):
    """One worker process; each restart is another life, with another name."""

    life: int = 0
    alive: bool = True
    cut: bool = False
    threads: tuple[Thread, ...] = ()

    @property
    def works(self) -> bool:
        """Whether it runs and reaches store and broker."""
        return self.alive and not self.cut


class World(NamedTuple):
    """Everything at one moment."""

    journal: int
    queue: int
    processes: tuple[Process, ...]
    #: For each host: (attempt, how it is) of what was started there and not removed.
    containers: tuple[tuple[tuple[int, str], ...], ...]
    #: What is left of each kind of fault.
    faults: tuple[int, ...]
    #: (attempt, epoch) under which the output is stored.
    chunks: frozenset[tuple[int, int]] = frozenset()
    #: The patience has passed since the last heartbeat, or there was none.
    silent: bool = True
    #: The patience has passed since the owner became owner.
    owned_long_ago: bool = False
    #: What somebody who looks at an experiment that is to be stopped has read, and decided to write.
    onlooker: tuple[int, Action] | None = None

    def with_process(self, p: int, process: Process) -> World:
        return self._replace(processes=(*self.processes[:p], process, *self.processes[p + 1 :]))

    def with_container(self, host: int, number: int, how: str | None) -> World:
        """One container there as it is said, or removed; the others as they are."""
        there = {**dict(self.containers[host]), number: how}
        left = tuple(sorted((n, h) for n, h in there.items() if h is not None))
        return self._replace(containers=(*self.containers[:host], left, *self.containers[host + 1 :]))

    def with_fault(self, fault: str) -> World | None:
        """The world in which this fault has struck once more; None if it may not."""
        index = FAULTS.index(fault)
        left = self.faults[index]
        if not left:
            return None
        return self._replace(faults=(*self.faults[:index], left - 1, *self.faults[index + 1 :]))

    def cut_off(self, p: int) -> World:
        """A process reaches nobody any more: the leases of its messages run out, and its threads do not know."""
        process = self.processes[p]
        held = sum(thread.message == HOLDS for thread in process.threads)
        threads = tuple(t._replace(message=min(t.message, 1) * EXPIRED) for t in process.threads)
        return self._replace(queue=self.queue + held).with_process(p, process._replace(cut=True, threads=threads))

    def without_life(self, p: int) -> World:
        """A process is killed: its messages go back, its containers stay."""
        process = self.processes[p]
        held = sum(thread.message == HOLDS for thread in process.threads)
        dead = Process(life=process.life, alive=False)
        return self._replace(queue=self.queue + held).with_process(p, dead)


def name(p: int, process: Process) -> str:
    """What a process is called in journals."""
    return f"w{p}.{process.life}"


#: (what kind of step, who takes it): steps of one label are the same for fairness.
Label = tuple[Hashable, ...]
Steps = Iterator[tuple[Label, World]]
