"""A model of the protocol: worker processes that crash, restart and are cut off, over the real fold and decisions.

Between two steps of a thread anything else may happen. What is real here: `fold`, `decide`, `decide_onlooker`,
`decide_found`, `standing`, `leaves_to_others`, `sign_of_life`, `judge`, `LogReader`. What is modelled: the loops around
them in `supervisor`, the store's create-if-absent, the queue, containers, and time, of which only "longer than the
patience" is left.

A process that is cut off reaches neither store nor broker; its containers and the rest of its code run on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

from protocol_book import OUTPUT, Book, Violation, shown
from protocol_worker import Worker
from protocol_world import ALIVE, LONG, NOW, RULES, VANISHED, Plan, Process, Protocol, Steps, Thread, World, name

from studio_celery.experiment import Attempt, Status
from studio_celery.journal import DeclareLost, End, Kind, Observation, State


class Model:
    """Gives the successors of a world."""

    def __init__(self, plan: Plan, protocol: Protocol | None = None) -> None:
        self.plan = plan
        self.protocol = protocol or Protocol()
        self.book = Book(self.protocol.fold, plan.max_attempts)

    def first(self) -> World:
        """Recorded and published; whether the submitter lives to write `queued` is open."""
        processes = (Process(),) * len(self.plan.hosts)
        hosts = max(self.plan.hosts) + 1
        return World(self.book.first, self.plan.messages, processes, ((),) * hosts, self.plan.budget)

    def state(self, world: World) -> State:
        return self.book.states[world.journal]

    def goal(self, world: World) -> bool:
        """It has ended, all messages are acknowledged, and nothing is left where a worker could clear it away."""
        working = [p for p, process in enumerate(world.processes) if process.works]
        return (
            self.state(world).status.terminal
            and not world.queue
            and not any(world.containers[self.plan.hosts[p]] for p in working)
            and not any(world.processes[p].threads for p in working)
        )

    def successors(self, world: World) -> Steps:
        """All that can happen next, with who does it."""
        yield from self._others(world)
        yield from self._faults(world)
        processes = world.processes[:1] if self._alike(world) else world.processes
        for p, process in enumerate(processes):
            if process.alive:
                yield from ((label, after) for label, after in Worker(self, world, p).steps() if after != world)

    def _alike(self, world: World) -> bool:
        """Whether all workers are alike still: then the first message may as well go to the first of them."""
        hosts = len(set(self.plan.hosts))
        return hosts in (1, len(self.plan.hosts)) and set(world.processes) == {Process()} and self.state(world).seq < 3

    def _others(self, world: World) -> Steps:
        """Time, and people: the submitter and whoever looks at what is to be stopped may die on the way."""
        state = self.state(world)
        if state.seq == 1:
            yield ("submitter",), self.write(world, Kind.QUEUED, "alice")
        if state.stop_requested_by and not state.status.terminal:
            yield from self._look_on(world, state)
        if state.live and not (world.silent and world.owned_long_ago) and not self._beats(world, state.live):
            yield ("time",), world._replace(silent=True, owned_long_ago=True)

    def _look_on(self, world: World, state: State) -> Steps:
        """Whoever runs `studio stop`, or `studio ls` after it (`overdue.settle`): time passes between look and deed."""
        if world.onlooker is not None:
            (read, action), world = world.onlooker, world._replace(onlooker=None)
            if read != world.journal and self.protocol.creates_once:
                yield ("client",), world
            elif isinstance(action, DeclareLost):
                self.check_loss(world)
                yield ("client",), self.write(world, Kind.LOST, "alice", attempt=action.number, reason="r")
            elif isinstance(action, End):
                yield ("client",), self.write(world, action.kind, "alice", reason="r")
            return
        silent = self.silence(world, state.live) if state.live else 0.0
        action = self.protocol.decide_onlooker(state, Observation(heartbeat_age_seconds=silent), RULES)
        if action is not None:
            yield ("client",), world._replace(onlooker=(world.journal, action))

    def silence(self, world: World, live: Attempt) -> float:
        """Seconds since the owner's last sign of life, by the real rule for what is one."""
        owned = dataclasses.replace(live, owned_stored_at=NOW - LONG * world.owned_long_ago)
        return NOW - self.protocol.sign_of_life(owned, NOW - LONG * world.silent)

    def _beats(self, world: World, live: Attempt) -> bool:
        """Whether some thread writes heartbeats for the live attempt."""
        return any(
            process.works and name(p, process) == live.worker and thread.epoch == live.epoch
            for p, process in enumerate(world.processes)
            for thread in process.threads
        )

    def _faults(self, world: World) -> Steps:
        for p, process in enumerate(world.processes):
            if not process.alive:
                yield ("restart", p), world.with_process(p, Process(life=process.life + 1))
                continue
            if process.cut:
                yield ("heal", p), world.with_process(p, process._replace(cut=False))
            if process.threads or self.plan.idle_faults:
                for before in {world, Worker(self, world, p).copied_before()}:
                    yield from self._strikes(before, p)
        for host, there in enumerate(world.containers):
            if there and (after := world.with_fault("host crash")):
                yield ("host crash", host), self._crash(after, host)
                yield ("engine crash", host), self._vanish(after, host)
        if after := world.with_fault("stop"):  # also when it has ended: whoever asks may have looked before that
            yield ("stop",), self.write(after, Kind.STOP_REQUESTED, "alice")

    def _strikes(self, world: World, p: int) -> Steps:
        if after := world.with_fault("crash"):
            yield ("crash", p), after.without_life(p)
        if not world.processes[p].cut and (after := world.with_fault("cut")):
            yield ("cut", p), after.cut_off(p)

    def _crash(self, world: World, host: int) -> World:
        for p, process in enumerate(world.processes):
            if self.plan.hosts[p] == host and process.alive:
                world = world.without_life(p)
        return self._vanish(world, host)

    def _vanish(self, world: World, host: int) -> World:
        for number, how in world.containers[host]:
            world = world.with_container(host, number, VANISHED if how == ALIVE else how)
        return world

    def write(self, world: World, kind: Kind, by: str, **data: Any) -> World:
        """The world with one more entry, or as it is if the entry is refused."""
        after = self.book.append(world.journal, kind, by, **data)
        if after is None:
            return world
        world = world._replace(journal=after)
        if kind in (Kind.CLAIMED, Kind.ADOPTED):
            world = world._replace(owned_long_ago=False, silent=world.silent or kind is Kind.CLAIMED)
        state = self.state(world)
        if state.live is None:
            world = world._replace(owned_long_ago=False, silent=True)
        struck = sum(self.plan.budget) - sum(world.faults)
        if state.interrupted > struck:
            raise Violation(f"{state.interrupted} attempts were interrupted by {struck} faults")
        if state.status is Status.FINISHED and shown(state, world.chunks) != OUTPUT:
            raise Violation(f"finished, and its output is shown as {shown(state, world.chunks)!r}")
        return world

    def key(self, world: World) -> Hashable:
        """The same for worlds that have the same future: entries, epochs and dead processes have no names there."""
        state, names = self.state(world), {name(p, q): p for p, q in enumerate(world.processes) if q.alive}
        there = {number for host in world.containers for number, _ in host}
        return (
            (state.status, state.stop_requested_by, state.interrupted, len(state.attempts), state.seq == 1),
            # Whoever had an attempt last matters as long as something of it is there.
            tuple(
                [(a.number, names.get(a.worker, f"dead {a.host}")) for a in state.attempts[:-1] if a.number in there]
            ),
            tuple(
                (names.get(a.worker, f"dead {a.host}"), a.over, a.started_at, self._log_key(world, a))
                for a in state.attempts[-1:]
            ),
            tuple([(q.alive, q.cut, *[self._thread_key(world, state, t) for t in q.threads]) for q in world.processes]),
            (world.queue, world.containers, world.faults, world.silent, world.owned_long_ago),
            world.onlooker and (world.onlooker[0] == world.journal and world.onlooker[1]),
        )

    def _log_key(self, world: World, attempt: Attempt) -> Hashable:
        return tuple([(start, (attempt.number, epoch) in world.chunks) for epoch, start in attempt.log_epochs])

    def _thread_key(self, world: World, state: State, thread: Thread) -> Hashable:
        if thread.at == "act":
            read, action = thread.data
            return thread.at, thread.message, action if read == world.journal else None
        owns = state.attempts[thread.number - 1].epoch == thread.epoch
        return thread.at, thread.message, thread.number, owns, thread.data

    def check_loss(self, world: World) -> None:
        """An owner that was never cut off is never declared lost while it lives."""
        live = self.state(world).live
        if live and not self.plan.cuts and self._beats(world, live):
            raise Violation(f"attempt {live.number} is declared lost, and {live.worker} looks after it")

    def check(self, world: World) -> None:
        """What must hold in every world."""
        for there in world.containers:
            if sum(how == ALIVE for _, how in there) > 1:
                raise Violation("two containers are alive on one host")
        everywhere = [number for there in world.containers for number, _ in there]
        if len(everywhere) > len(set(everywhere)):
            raise Violation("one attempt was started on two hosts")
