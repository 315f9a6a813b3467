"""Walks every schedule of a model: nothing that must not be, and nothing that goes on for ever without an end."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator

from protocol_book import Violation
from protocol_model import Model
from protocol_world import Label, World

#: Nobody can count on these, nor on their absence: a fault strikes as often as the plan says, and people may walk away.
UNFAIR = frozenset({"crash", "host crash", "engine crash", "cut", "stop", "lost answer", "failed start"})
OPTIONAL = frozenset({"restart", "heal", "submitter", "client"})

#: A message that is offered again and again to a worker is taken at last; every other step only if it stays possible.
STRONG = frozenset({"deliver"})


class Search:
    """All worlds of a model, each met once."""

    def __init__(self, model: Model, *, most: int = 10**6) -> None:
        self.model = model
        self.worlds: list[World] = []
        #: Steps from each world that are no faults.
        self.steps: list[list[tuple[Label, int]]] = []
        self._numbers: dict[Hashable, int] = {}
        self._parents: list[tuple[int, Label] | None] = []
        self._most = most

    def run(self) -> Search:
        """Meet them all; `Violation`, with the schedule that leads there, if one must not be."""
        waiting = deque([self._meet(None, self.model.first(), None)])
        while waiting:
            at = waiting.popleft()
            try:
                for label, world in self.model.successors(self.worlds[at]):
                    key = self.model.key(world)
                    known = self._numbers.get(key)
                    number = self._meet(key, world, (at, label)) if known is None else known
                    if known is None:
                        waiting.append(number)
                        self.model.check(world)
                    if label[0] not in UNFAIR:
                        self.steps[at].append((label, number))
            except Violation as exc:
                raise Violation(f"{exc}\n{self.schedule(at)}") from None
            if len(self.worlds) > self._most:
                raise Violation(f"more than {self._most} worlds")
        self._check_progress()
        return self

    def _meet(self, key: Hashable, world: World, parent: tuple[int, Label] | None) -> int:
        self._numbers[key] = len(self.worlds)
        self.worlds.append(world)
        self.steps.append([])
        self._parents.append(parent)
        return len(self.worlds) - 1

    def schedule(self, at: int) -> str:
        """How one gets to a world, one step a line."""
        lines = [f"  here: {self.worlds[at]}"]
        while (parent := self._parents[at]) is not None:
            lines.append(f"  {parent[1]}")
            at = parent[0]
        return "\n".join(reversed(lines))

    # -- progress --------------------------------------------------------------------------------------------------

    def _check_progress(self) -> None:
        """No fair schedule stays for ever where the goal is not reached though some worker keeps running."""
        open_ends = {
            number
            for number, world in enumerate(self.worlds)
            if any(process.works for process in world.processes) and not self.model.goal(world)
        }
        for component in self._components(open_ends):
            if stuck := self._fair(component):
                raise Violation(f"no end is reached from here\n{self.schedule(min(stuck))}")

    def _fair(self, component: set[int]) -> set[int] | None:
        """Worlds among which a fair schedule can stay for ever, if there are any."""
        inside = {label for at in component for label, to in self.steps[at] if to in component}
        offered = [{label for label, _ in self.steps[at] if label[0] not in OPTIONAL} for at in component]
        if any(label[0] not in STRONG and label not in inside for label in set.intersection(*offered)):
            return None
        ignored = {label for label in set.union(*offered) if label[0] in STRONG and label not in inside}
        if not ignored:
            return component
        left = {at for at in component if not any(label in ignored for label, _ in self.steps[at])}
        parts = (self._fair(part) for part in self._components(left))
        return next((part for part in parts if part), None)

    def _components(self, among: Iterable[int]) -> Iterator[set[int]]:
        """Strongly connected components of the steps among these worlds (Tarjan, without recursion)."""
        members = set(among)
        order: dict[int, int] = {}
        low: dict[int, int] = {}
        stack: list[int] = []
        on_stack: set[int] = set()
        for root in members:
            if root in order:
                continue
            work = [(root, self._within(root, members))]
            order[root] = low[root] = len(order)
            stack.append(root)
            on_stack.add(root)
            while work:
                at, following = work[-1]
                to = next(following, None)
                if to is not None:
                    if to not in order:
                        order[to] = low[to] = len(order)
                        stack.append(to)
                        on_stack.add(to)
                        work.append((to, self._within(to, members)))
                    elif to in on_stack:
                        low[at] = min(low[at], order[to])
                    continue
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[at])
                if low[at] == order[at]:
                    cut = stack.index(at) if len(stack) < 50 else len(stack) - 1 - stack[::-1].index(at)
                    component = set(stack[cut:])
                    del stack[cut:]
                    on_stack -= component
                    yield component

    def _within(self, at: int, members: set[int]) -> Iterator[int]:
        return iter([to for _, to in self.steps[at] if to in members])
