"""The transport under its real time constants, and under everything at once for many minutes.

Not part of `make test`: `make torture` runs it and writes the report.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from celery_worker_bench import WorkerBench
from cut_proxy import CutProxy
from fault_proxy import FaultProxy
from kombu import Connection, Queue
from kombu.message import Message
from pubsub_client import PubSub
from studio import wait_for

from transports.pubsub.link import links
from transports.pubsub.options import Options

#: Minutes of the soak, and of holding one message.
MINUTES = float(os.environ.get("TORTURE_MINUTES", "10"))
#: Seconds after which a killed worker's task has to run elsewhere.
TAKEOVER_SECONDS = 60.0
QUEUE = Queue("gpu")

Record = Callable[[str, object], None]


class Side:
    """One consumer with the options that users get, and what it was given."""

    def __init__(self, address: str, project: str, **options: object) -> None:
        self.connection = Connection(f"pubsub://{address}/{project}", transport_options=options)
        self.messages: list[Message] = []
        self.consumer = self.connection.Consumer(QUEUE, on_message=self.messages.append, prefetch_count=1)
        self.consumer.consume()

    def gets_something(self, seconds: float) -> bool:
        """Wait for a message at most so long; errors of the connection are those of a network that is cut."""
        before, ends_at = len(self.messages), time.monotonic() + seconds
        while len(self.messages) == before and time.monotonic() < ends_at:
            try:
                self.connection.drain_events(timeout=ends_at - time.monotonic())
            except TimeoutError:
                break
        return len(self.messages) > before


@pytest.fixture
def publish(local_pubsub: PubSub) -> Iterator[Callable[[str], None]]:
    """Publish to the queue, past all proxies; links are closed at the end."""
    project = local_pubsub.project.removeprefix("projects/")

    def send(body: str) -> None:
        with Connection(f"pubsub://{local_pubsub.address}/{project}") as connection:
            connection.Producer().publish(body, routing_key="gpu", declare=[QUEUE])

    yield send
    links.close()


def project_of(pubsub: PubSub) -> str:
    return pubsub.project.removeprefix("projects/")


@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_a_cut_of_two_thirds_of_the_lease_costs_nothing(
    how: str, local_pubsub: PubSub, publish: Callable[[str], None]
) -> None:
    publish("work")
    floor = Options().lease_floor_seconds
    with CutProxy(local_pubsub.address) as cable:
        holder = Side(cable.address, project_of(local_pubsub))
        assert holder.gets_something(30)
        other = Side(local_pubsub.address, project_of(local_pubsub))
        assert not other.gets_something(floor / 2)
        getattr(cable, how)()
        assert not other.gets_something(floor * 2 / 3 - Options().renew_fraction * floor)
        cable.restore()
        assert not other.gets_something(2 * floor)
        holder.messages[0].ack()
        assert not other.gets_something(2 * floor)


def test_a_cut_longer_than_the_lease_hands_over_and_says_so(
    local_pubsub: PubSub, publish: Callable[[str], None], record_property: Record
) -> None:
    publish("work")
    lost: list[str] = []
    with CutProxy(local_pubsub.address) as cable:
        holder = Side(cable.address, project_of(local_pubsub), on_lease_lost=lost.append)
        assert holder.gets_something(30)
        cable.freeze()
        began = time.monotonic()
        other = Side(local_pubsub.address, project_of(local_pubsub))
        assert other.gets_something(TAKEOVER_SECONDS)
        record_property("seconds until elsewhere", round(time.monotonic() - began, 1))
        wait_for("word of the lost lease", lambda: lost, TAKEOVER_SECONDS)
        other.messages[0].ack()
        cable.restore()
        assert not holder.gets_something(60)


def test_a_message_that_is_held_for_long_is_leased_ever_longer_and_never_twice(
    local_pubsub: PubSub, publish: Callable[[str], None], record_property: Record
) -> None:
    publish("work")
    with FaultProxy(local_pubsub.address) as proxy:
        holder = Side(proxy.address, project_of(local_pubsub))
        assert holder.gets_something(30)
        other = Side(local_pubsub.address, project_of(local_pubsub))
        assert not other.gets_something(MINUTES * 60)
        asked = [call.seconds for call in proxy.calls("ModifyAckDeadline") if call.seconds is not None]
        assert asked == sorted(asked)
        assert asked[0] == 45
        assert asked[-1] >= min(600, MINUTES * 60 / 10 - 30)
        record_property("renewals", len(asked))
        record_property("longest lease in seconds", asked[-1])
        holder.messages[0].ack()
        assert not other.gets_something(5)


def test_the_task_of_a_killed_worker_runs_elsewhere_within_a_minute(
    local_broker_address: str, tmp_path: Path, record_property: Record
) -> None:
    bench = WorkerBench(tmp_path, local_broker_address, broker_transport_options={})
    with bench.worker("threads") as first:
        bench.send("work", "long", 3600)
        bench.noted("begin long")
        first.kill()
        began = time.monotonic()
        with bench.worker("threads"):
            wait_for("the second start", lambda: bench.notes.count("begin long") == 2, TAKEOVER_SECONDS)
            record_property("seconds until elsewhere", round(time.monotonic() - began, 1))
    links.close()


def test_nothing_is_lost_while_everything_fails(local_pubsub: PubSub, tmp_path: Path, record_property: Record) -> None:
    seed = int(os.environ.get("TORTURE_SEED", random.SystemRandom().randrange(2**32)))
    record_property("seed", seed)
    chance = random.Random(seed)
    published, done = tmp_path / "published", tmp_path / "done"
    with CutProxy(local_pubsub.address) as cable, ExitStack() as stack:
        url = f"pubsub://{cable.address}/{project_of(local_pubsub)}"
        publishers = [stack.enter_context(Member("publish", url, published)) for _ in range(2)]
        consumers = [stack.enter_context(Member("consume", url, done)) for _ in range(3)]
        faults: Counter[str] = Counter()
        ends_at = time.monotonic() + MINUTES * 60
        while time.monotonic() < ends_at:
            time.sleep(chance.uniform(0.5, 4))
            faults[harm(chance, cable, consumers, publishers)] += 1
        for member in publishers:
            member.kill()
        confirmed = set(lines(published))
        wait_for("what was confirmed", lambda: confirmed <= set(lines(done)), 180)
    counts = Counter(lines(done))
    assert len(confirmed) > MINUTES * 30
    record_property("confirmed", len(confirmed))
    record_property("done more than once", sum(1 for count in counts.values() if count > 1))
    record_property("faults", dict(faults))


class Member:
    """A process of the soak that is started again whenever it was killed."""

    def __init__(self, role: str, url: str, notes: Path) -> None:
        script = Path(__file__).with_name("soak_member.py")
        self._command = [sys.executable, str(script), role, url, str(notes)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Member:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def start(self) -> None:
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        self._process = subprocess.Popen(self._command, env=environ)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


def harm(chance: random.Random, cable: CutProxy, consumers: list[Member], publishers: list[Member]) -> str:
    """Do one bad thing, and say which."""
    what = chance.choice(["cut", "freeze", "kill a consumer", "kill a publisher", "nothing", "nothing"])
    if what in ("cut", "freeze"):
        with interrupted(cable, what):
            time.sleep(chance.choice([0.1, 1.0, 5.0]))
    elif what.startswith("kill"):
        member = chance.choice(consumers if what.endswith("consumer") else publishers)
        member.kill()
        member.start()
    return what


@contextmanager
def interrupted(cable: CutProxy, how: str) -> Iterator[None]:
    getattr(cable, how)()
    try:
        yield
    finally:
        cable.restore()


def lines(path: Path) -> list[str]:
    """Return the lines of a file that are complete."""
    return path.read_text().split("\n")[:-1] if path.exists() else []
