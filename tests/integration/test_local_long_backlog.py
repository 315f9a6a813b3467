"""A long backlog: it costs little memory, and neither the start nor a delivery has to read it."""

from __future__ import annotations

from pathlib import Path

from pubsub_client import PubSub, texts
from pubsub_servers import broker_process

#: Messages of 1 KB; each thousand in memory would cost a megabyte and more.
MESSAGES = 60_000
#: Bytes by which the broker may grow; most of it is what a client's thousand messages take on their way.
GROWTH_BYTES = 60_000_000


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has."""
    (line,) = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def test_a_long_backlog_stays_on_disk_and_is_delivered_in_order(tmp_path: Path) -> None:
    with broker_process(tmp_path) as process, PubSub(process.address) as server:
        before = resident_bytes(process.pid)
        subscription, project = server.setup(), server.project
        for start in range(0, MESSAGES, 1000):
            server.publish(*(f"{number:06}{'x' * 1000}" for number in range(start, start + 1000)))
        assert resident_bytes(process.pid) - before < GROWTH_BYTES
    with broker_process(tmp_path) as process, PubSub(process.address) as server:
        server.project = project
        before = resident_bytes(process.pid)
        seen: list[str] = []
        while len(seen) < 5000:
            received = server.pull(subscription, 500)
            seen += [body[:6] for body in texts(received)]
            server.acknowledge(subscription, *received)
        assert seen == [f"{number:06}" for number in range(5000)]
        assert resident_bytes(process.pid) - before < GROWTH_BYTES
        server.subscriber.delete_subscription(subscription=subscription)
        assert server.publish("as ever")
