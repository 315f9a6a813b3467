"""What is measured of the local broker, and who is: floors are columns of their own."""

from __future__ import annotations

from board import Measure

LOCAL = "local broker"
#: The same with its data in memory.
DISKLESS = "local broker, data in memory"
EMULATOR = "emulator"
ECHO = "floor: bare grpc.aio"
#: The local broker's server.
OWN = "floor: bare server of the broker"
SQLITE = "floor: SQLite commits"
SYNC = "floor: fdatasync"
WHO = (LOCAL, DISKLESS, EMULATOR, ECHO, OWN, SQLITE, SYNC)
#: The servers among them.
SERVERS = (LOCAL, DISKLESS, EMULATOR, ECHO, OWN)

SINGLE = Measure("single publishes, each confirmed, one client", "messages/s")
SINGLE_8 = Measure("the same, eight clients in processes of their own", "messages/s")
BATCH_100 = Measure("batches of 100, each confirmed", "messages/s")
BATCH_1000 = Measure("batches of 1,000, each confirmed", "messages/s")
DELIVER = Measure("one stream, at most 1,000 outstanding, acknowledged by 100", "messages/s")
ACK = Measure("acknowledgements, one to a request", "messages/s")
ACK_100 = Measure("acknowledgements, 100 to a request", "messages/s")
LATENCY = Measure("idle: publish to receipt on a stream, median", "ms", 2)
LATENCY_95 = Measure("idle: publish to receipt on a stream, 95th percentile", "ms", 2)
IDLE = Measure("processor with 200 idle streams", "% of a core", 2)
#: Those of which more is better.
RATES = (SINGLE, SINGLE_8, BATCH_100, BATCH_1000, DELIVER, ACK, ACK_100)
MEASURES = (*RATES, LATENCY, LATENCY_95, IDLE)

#: Messages that wait in each broker of the second table.
BACKLOGS = (0, 100_000, 1_000_000)


def waiting(who: str, count: int) -> str:
    """Return the column of a server in which so many messages wait."""
    return f"{who}, {count:,} waiting"


WHO_WAITING = (*(waiting(LOCAL, count) for count in BACKLOGS), *(waiting(EMULATOR, count) for count in BACKLOGS))

FILL = Measure("filling, four batches of 1,000 on their way", "messages/s")
WAITING_SINGLE = Measure("single publishes", "messages/s")
WAITING_BATCH = Measure("publishing batches of 100", "messages/s")
WAITING_DELIVER = Measure("delivering as above, oldest first", "messages/s")
START = Measure("start of the process until it is ready", "s", 2)
MEMORY = Measure("resident memory with that backlog", "MB")
MEMORY_AFTER = Measure("resident memory, started with it, after delivering", "MB")
FLAT = (WAITING_SINGLE, WAITING_BATCH, WAITING_DELIVER)
MEASURES_WAITING = (FILL, *FLAT, START, MEMORY, MEMORY_AFTER)
