"""What one worker process of the model does next: `supervisor` step by step, around the real decisions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from protocol_book import OUTPUT, Violation, reader
from protocol_world import ALIVE, ENDED, HOLDS, KILLED, NO_MESSAGE, RULES, Steps, Thread, World, name

from studio_celery.experiment import Attempt
from studio_celery.journal import (
    UNANSWERED,
    Action,
    Adopt,
    Claim,
    DeclareLost,
    Defer,
    End,
    Enqueue,
    GiveBack,
    Kind,
    Observation,
    PutDown,
    Return,
    Standing,
    State,
    leaves_to_others,
)
from studio_celery.runtimes.contract import Exit
from studio_celery.supervisor.verdict import judge

if TYPE_CHECKING:
    from protocol_model import Model

#: Where a thread holds the doorway of its host.
DOORWAY = "doorway"

#: What goes on without the store.
OFFLINE = (DOORWAY, "failed start", "clear")

#: Every journal is read anew before a decision, so what a thread remembers of one is its number.
Moves = Iterator[tuple[str, World]]


class Worker:
    """One process at one moment."""

    def __init__(self, model: Model, world: World, p: int) -> None:
        self.model, self.world, self.p = model, world, p
        self.process = world.processes[p]
        self.protocol = model.protocol
        self.host = model.plan.hosts[p]
        self.name = name(p, self.process)
        self.here = dict(world.containers[self.host])
        self.state = model.state(world)
        #: Its threads but the one that is about to do something.
        self.rest = self.process.threads

    def steps(self) -> Steps:
        """With the message that it may get, with what it finds on its host, and of its threads."""
        if self.process.works:
            if self.world.queue and len(self.rest) < self.model.plan.threads:
                world = self.world._replace(queue=self.world.queue - 1)
                yield ("deliver", self.p), self._decide(world, HOLDS)
            yield from self._look_around()
        for i, thread in enumerate(self.process.threads):
            self.rest = self.process.threads[:i] + self.process.threads[i + 1 :]
            for what, after in self._step(thread):
                yield (what, self.p, thread.at, thread.number), after

    def _step(self, thread: Thread) -> Moves:
        if self.world.silent and self.process.works and self._owns(thread):
            yield "beat", self.world._replace(silent=False)
        if self.process.works or thread.at in OFFLINE:
            yield from getattr(self, f"_{thread.at.replace(' ', '_')}")(thread)
        elif thread.at == "act":
            yield "step", self._finish(self.world, thread)

    # -- a delivery: `Supervisor._handle` --------------------------------------------------------------------------

    def _decide(self, world: World, message: int) -> World:
        """Read the journal, look, decide; what needs no entry is done at once."""
        state = self.model.state(world)
        action = self.protocol.decide(state, self._observe(world, state), RULES)
        if isinstance(action, Return):
            return self._with(world, None)
        if isinstance(action, Defer):
            return self._finish(world, Thread("", message))
        return self._with(world, Thread("act", message, data=(world.journal, action)))

    def _observe(self, world: World, state: State) -> Observation:
        ours, live = self._in_charge(), state.live
        if live is None:
            return Observation(ours=ours, since_failure_seconds=RULES.retry_ceiling_seconds)  # pauses pass
        return Observation(
            heartbeat_age_seconds=self.model.silence(world, live),
            ours=ours,
            mine=not ours and live.worker == self.name,
            owner_gone=self._gone(live),
            here=live.number in dict(world.containers[self.host]),
        )

    def _in_charge(self) -> bool:
        return bool(self.rest)

    def _gone(self, attempt: Attempt) -> bool:
        """Whether its latest owner was on this host, and is dead."""
        at = next(p for p in range(len(self.world.processes)) if attempt.worker.startswith(f"w{p}."))
        other = self.world.processes[at]
        on_this_host = self.model.plan.hosts[at] == self.host
        return on_this_host and not (other.alive and name(at, other) == attempt.worker)

    def _again(self, world: World, thread: Thread) -> World:
        """Decide again; without a message there is nothing more to decide."""
        return self._with(world, None) if thread.message == NO_MESSAGE else self._decide(world, thread.message)

    def _finish(self, world: World, thread: Thread) -> World:
        """Give the message back."""
        return self._with(world._replace(queue=world.queue + (thread.message == HOLDS)), None)

    def _act(self, thread: Thread) -> Moves:
        read, action = thread.data
        if read != self.world.journal and self.protocol.creates_once:
            yield "step", self._again(self.world, thread)
            return
        yield "step", self._carry_out(self.world, thread, action)
        if world := self.world.with_fault("lost answer"):
            written = self._carry_out(world, thread, action)
            if written.journal != world.journal:
                yield "lost answer", self._finish(written, thread)

    def _carry_out(self, world: World, thread: Thread, action: Action) -> World:
        live = self.state.live
        match action:
            case Claim(number):
                after = self.model.write(world, Kind.CLAIMED, self.name, attempt=number, host=str(self.host))
                return self._became_owner(after, thread, "prepare") if after != world else self._again(world, thread)
            case Adopt(number) if live and number in self.here:
                data = {"attempt": number, "log_offset": reader(number, world.chunks).stored(live)}
                after = self.model.write(world, Kind.ADOPTED, self.name, host=str(self.host), **data)
                if after != world:
                    return self._became_owner(after, thread, "follow" if live.started_at else "note")
            case Enqueue():
                world = self.model.write(world, Kind.QUEUED, self.name)
            case DeclareLost(number):
                self.model.check_loss(world)
                world = self.model.write(world, Kind.LOST, self.name, attempt=number, reason="r")
            case GiveBack():
                data = {"class": UNANSWERED, "reason": "r", "epoch": self.state.owner_epoch}
                world = self.model.write(world, Kind.RELEASED, self.name, **data)
            case End(kind):
                world = self.model.write(world, kind, self.name, reason="r")
        return self._again(world, thread)

    def _became_owner(self, world: World, thread: Thread, at: str) -> World:
        live = self.model.state(world).live
        assert live is not None
        return self._with(world, Thread(at, thread.message, live.number, live.epoch))

    # -- an attempt: `AttemptRun` ----------------------------------------------------------------------------------

    def _standing(self, thread: Thread) -> Standing:
        return self.protocol.standing(self.state, thread.number, thread.epoch)

    def _owns(self, thread: Thread) -> bool:
        return self.state.live is not None and self.state.live.epoch == thread.epoch

    def _prepare(self, thread: Thread) -> Moves:
        if world := self.world.with_fault("failed start"):
            yield "failed start", self._with(world, self._released(thread))
        match self._standing(thread):
            case Standing.STOP:
                yield "step", self._with(self.world, self._to_end(thread, Kind.STOPPED, reason="r"))
            case Standing.SUPERSEDED | Standing.HANDED_OVER:
                yield "step", self._with(self.world, thread._replace(at="clear"))
            case Standing.OWNER if not (self.protocol.doorway and self._door_is_taken()):
                yield "step", self._with(self.world, thread._replace(at=DOORWAY))

    def _door_is_taken(self) -> bool:
        neighbours = [q for p, q in enumerate(self.world.processes) if self.model.plan.hosts[p] == self.host]
        return any(thread.at == DOORWAY for process in neighbours for thread in process.threads)

    def _doorway(self, thread: Thread) -> Moves:
        world = self.world
        if self.protocol.puts_down_former:
            for number in self.here:
                world = self._removed(world, number, thread.epoch)
        world = world.with_container(self.host, thread.number, ALIVE)
        yield "step", self._with(world, thread._replace(at="note"))
        if after := world.with_fault("failed start"):
            yield "failed start", self._with(after, thread._replace(at="failed start"))

    def _failed_start(self, thread: Thread) -> Moves:
        """It seemed to fail, and runs: what is found is put down."""
        world = self._removed(self.world, thread.number, thread.epoch)
        yield "step", self._with(world, self._released(thread, began=True))

    def _released(self, thread: Thread, **data: bool) -> Thread:
        return self._to_end(thread, Kind.RELEASED, **{"class": "engine", "reason": "r", **data})

    def _to_end(self, thread: Thread, kind: Kind, **data: object) -> Thread:
        return thread._replace(at="end", data=(kind, tuple(sorted(data.items()))))

    def _note(self, thread: Thread) -> Moves:
        world = self.model.write(self.world, Kind.STARTED, self.name, epoch=thread.epoch)
        yield "step", self._with(world, thread._replace(at="follow"))

    def _follow(self, thread: Thread) -> Moves:
        how, killed = self.here.get(thread.number), self.world.with_container(self.host, thread.number, KILLED)
        match self._standing(thread):
            case Standing.HANDED_OVER:
                yield "look", self._again(self.world, thread)
                yield "copy", self._copied(self.world, thread)
                return
            case Standing.SUPERSEDED | Standing.STOP if how == ALIVE:
                self._check_right(thread.number, thread.epoch)
                yield "look", self._with(killed, thread._replace(at="exit"))
        world = self.world.with_container(self.host, thread.number, ENDED) if how == ALIVE else self.world
        yield "step", self._with(world, thread._replace(at="exit"))

    def copied_before(self) -> World:
        """Whether an owner has stored output by now matters to nobody before it is struck: so it is settled then."""
        for thread in self.process.threads:
            if thread.at == "follow" and self._owns(thread):
                return self._copied(self.world, thread)
        return self.world

    def _copied(self, world: World, thread: Thread) -> World:
        """The output is stored under the thread's epoch, from where that epoch begins."""
        begins = dict(self.state.attempts[thread.number - 1].log_epochs)[thread.epoch]
        return world._replace(chunks=world.chunks | {(thread.number, thread.epoch)}) if begins < len(OUTPUT) else world

    def _exit(self, thread: Thread) -> Moves:
        if not self._owns(thread):
            yield "step", self._with(self.world, thread._replace(at="clear"))
            return
        how = self.here.get(thread.number)
        ends = {ENDED: Exit(exit_code=0), KILLED: Exit(signal=15)}
        verdict = judge(ends.get(how or "", Exit(lost="r")), self.state, ran_too_long=False)
        world = self._copied(self.world, thread)
        yield "step", self._with(world, self._to_end(thread, verdict.kind, **verdict.data))

    def _end(self, thread: Thread) -> Moves:
        kind, data = thread.data
        world = self.model.write(self.world, kind, self.name, epoch=thread.epoch, **dict(data))
        if world != self.world and not self._owns(thread):
            raise Violation(f"{self.name} writes {kind} and is not the owner")
        yield "step", self._with(world, thread._replace(at="clear", data=None))

    def _clear(self, thread: Thread) -> Moves:
        world = self.world
        if self._standing(thread) is not Standing.HANDED_OVER:
            world = self._removed(world, thread.number, thread.epoch)
        if self.process.cut or leaves_to_others(self.state, self.name):
            yield "step", self._finish(world, thread)
        else:
            yield "step", self._again(world, thread)

    # -- what is on the host: `TakeOver` ---------------------------------------------------------------------------

    def _look_around(self) -> Steps:
        for number in self.here:
            last = self.state.attempts[number - 1]
            mine, gone = last.worker == self.name, self._gone(last)
            seen = Observation(ours=self._in_charge(), mine=mine, owner_gone=gone, lingers=True)
            match self.protocol.decide_found(self.state, number, seen):
                case Adopt() as action:
                    thread = Thread("act", NO_MESSAGE, data=(self.world.journal, action))
                    yield ("take over", self.p, number), self._with(self.world, thread)
                case PutDown():
                    # What is over stays so: nothing can come between the look and the deed that matters.
                    yield ("take over", self.p, number), self._removed(self.world, number, None)

    def _removed(self, world: World, number: int, epoch: int | None) -> World:
        self._check_right(number, epoch)
        return world.with_container(self.host, number, None)

    def _check_right(self, number: int, epoch: int | None) -> None:
        live = self.state.live
        if live and live.number == number and live.epoch != epoch and number in self.here:
            raise Violation(f"{self.name} stops attempt {number}, which {live.worker} owns")

    def _with(self, world: World, thread: Thread | None) -> World:
        """The world in which the thread at work is about to do that, or has ended."""
        threads = self.rest if thread is None else (*self.rest, thread)
        ordered = tuple(sorted(threads, key=lambda t: (t.at, t.number, t.epoch, t.message)))
        return world.with_process(self.p, self.process._replace(threads=ordered))
