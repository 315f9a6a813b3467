"""Kill the broker again and again at any moment, set its clock back: no message is lost, none that was done returns."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pubsub_client import LIMIT_SECONDS, PubSub
from pubsub_load import Account, Load
from pubsub_servers import ServerProcess, broker_process

#: How often the broker is killed; a torture run does it more often.
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "3"))
SEED = int(os.environ.get("CRASH_SEED", "20261122"))
#: Answered requests after which the broker is killed, at least and at most.
STEPS = (20, 400)


@contextmanager
def client(address: str) -> Iterator[PubSub]:
    """Connect to a broker; the same project each time."""
    with PubSub(address) as server:
        server.project = "projects/rounds"
        yield server


def test_what_was_confirmed_comes_and_what_was_acknowledged_does_not_come_back(tmp_path: Path) -> None:
    chance, account = random.Random(SEED), Account()
    with broker_process(tmp_path) as process, client(process.address) as server:
        subscription = server.setup(ack_deadline_seconds=10)
    for number in range(ROUNDS):
        with broker_process(tmp_path) as process, client(process.address) as server:
            load = Load(server, subscription, account, seed=SEED + number)
            load.wait_for_steps(chance.randint(*STEPS))
            process.kill()
            load.join()
        print(f"round {number + 1}: {account}")
    with broker_process(tmp_path) as process, client(process.address) as server:
        left = deliver_all(server, subscription, account)
        assert "damaged" not in process.output
    assert account.acknowledged
    assert not account.returned, f"acknowledged and delivered again: {account}"
    assert account.owed <= left, f"lost {account.owed - left}: {account}"
    assert account.confirmed <= account.delivered | account.asked


def deliver_all(server: PubSub, subscription: str, account: Account) -> set[str]:
    """Receive and acknowledge until nothing is owed any more; return what came."""
    left: set[str] = set()
    end = time.monotonic() + LIMIT_SECONDS * 2
    while not account.owed <= left and time.monotonic() < end:
        received = server.pull(subscription)
        received += server.start_pull(subscription, 1000, at_once=True).result().received_messages
        account.receive(each.message.message_id for each in received)
        left |= {each.message.message_id for each in received}
        server.acknowledge(subscription, *received)
    return left


class TestClock:
    #: Runs a broker whose clock is an hour behind as soon as, and as long as, a file exists.
    PROGRAM = """
import os, sys, time
real, real_ns, flag = time.time, time.time_ns, sys.argv.pop(1)
time.time = lambda: real() - 3600 * os.path.exists(flag)
time.time_ns = lambda: real_ns() - 3_600_000_000_000 * os.path.exists(flag)
from transports.local.__main__ import main
sys.exit(main())
"""

    def test_publish_times_never_go_back_in_a_running_broker(self, tmp_path: Path) -> None:
        with self.broker(tmp_path) as process, client(process.address) as server:
            subscription = server.setup()
            server.publish("before")
            (tmp_path / "back").touch()
            server.publish("after")
            self.check_order(server, subscription, 2)

    def test_nor_over_a_restart(self, tmp_path: Path) -> None:
        with self.broker(tmp_path) as process, client(process.address) as server:
            subscription = server.setup()
            server.publish("before")
            process.kill()
        (tmp_path / "back").touch()
        with self.broker(tmp_path) as process, client(process.address) as server:
            server.publish("after")
            self.check_order(server, subscription, 2)

    def test_a_message_from_the_future_is_delivered_and_acknowledged(self, tmp_path: Path) -> None:
        with self.broker(tmp_path) as process, client(process.address) as server:
            subscription = server.setup()
            server.publish("one")
            (tmp_path / "back").touch()
            server.acknowledge(subscription, *server.pull(subscription))
            assert server.ready(subscription) == []

    def check_order(self, server: PubSub, subscription: str, count: int) -> None:
        """Check that later ids have later times."""
        received = sorted(server.pull(subscription, count), key=lambda each: int(each.message.message_id))
        times = [each.message.publish_time for each in received]
        assert times == sorted(times)

    @contextmanager
    def broker(self, folder: Path) -> Iterator[ServerProcess]:
        """Run a broker whose clock the file `back` sets back."""
        options = [str(folder / "back"), "--port=0", f"--data={folder / 'data'}"]
        process = ServerProcess([sys.executable, "-c", self.PROGRAM, *options], ready=r"^ready (\S+)")
        process.wait_until_ready()
        try:
            yield process
        finally:
            process.stop()
