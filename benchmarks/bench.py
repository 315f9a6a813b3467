"""What every measurement gets: who is compared, where the floors are, how much, and the board for the figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from board import Board
from calls import Child
from contenders import Contender, Place, environment


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    #: Turns that each contender gets, and `delay()` calls in each.
    publish_turns: int
    publish_count: int
    #: Turns with each size of bulk.
    bulk_turns: int
    bulk_sizes: tuple[int, ...]
    #: Turns with a worker, and tasks in each.
    task_turns: int
    tasks: int
    #: Messages of a latency measurement.
    latency_messages: int
    stop_turns: int
    #: Whether to wait for the tasks of killed workers.
    kill: bool


QUICK = Scale(
    publish_turns=5,
    publish_count=100,
    bulk_turns=2,
    bulk_sizes=(1000,),
    task_turns=1,
    tasks=300,
    latency_messages=20,
    stop_turns=1,
    kill=False,
)
FULL = Scale(
    publish_turns=11,
    publish_count=200,
    bulk_turns=5,
    bulk_sizes=(1000, 5000),
    task_turns=3,
    tasks=2000,
    latency_messages=100,
    stop_turns=3,
    kill=True,
)


@dataclass(frozen=True)
class Bench:
    contenders: Sequence[Contender]
    #: The server's address by the name of its floor.
    floors: Mapping[str, str]
    folder: Path
    scale: Scale
    board: Board

    def place(self, contender: Contender, *, options: Mapping[str, object] | None = None) -> Place:
        return Place(contender, self.folder, options=options)

    @contextmanager
    def floor_children(self) -> Iterator[dict[str, Child]]:
        """Run one process per floor."""
        with ExitStack() as stack:
            script = Path(__file__).parent / "floors.py"
            yield {
                who: stack.enter_context(Child(script, environment({"BENCH_SERVER": address}), self.folder))
                for who, address in self.floors.items()
            }

    @contextmanager
    def publishers(self, contenders: Sequence[Contender] | None = None) -> Iterator[dict[Contender, Child]]:
        """Run one publishing process per contender, each in a place of its own."""
        with ExitStack() as stack:
            yield {
                contender: stack.enter_context(self.place(contender).publisher())
                for contender in contenders or self.contenders
            }
