"""What is measured of the transport, and who is: floors are columns of their own."""

from __future__ import annotations

from board import Measure

OURS_EMULATOR = "ours, emulator"
RIVAL = "kombu gcpubsub, emulator"
OURS_LOCAL = "ours, local broker"
REDIS = "Redis"
FLOOR_EMULATOR = "floor, emulator"
FLOOR_LOCAL = "floor, local broker"
#: Celery into kombu's `memory://`: what `delay()` costs before any transport.
CELERY_ALONE = "Celery alone"
WHO = (OURS_EMULATOR, RIVAL, OURS_LOCAL, REDIS, FLOOR_EMULATOR, FLOOR_LOCAL, CELERY_ALONE)
#: The floor of the server on which each of ours runs.
FLOOR_OF = {OURS_EMULATOR: FLOOR_EMULATOR, OURS_LOCAL: FLOOR_LOCAL}


DELAY = Measure("delay() one after the other; floor: the client's unary call", "messages/s")
STUB = Measure("a bare gRPC stub, raw protobuf", "messages/s")
BULK_1000 = Measure("1,000 at once; floor: Celery alone, then batches of 1,000", "messages/s")
BULK_5000 = Measure("5,000 at once; floor: Celery alone, then batches of 1,000", "messages/s")
BATCH_100 = Measure("batches of 100 by the unary call", "messages/s")
BATCH_1000 = Measure("batches of 1,000 by the unary call", "messages/s")
END_TO_END = Measure("tasks, from the first delay() to the last task's start", "tasks/s")
BACKLOG = Measure("tasks, from a backlog", "tasks/s")
PAUSE = Measure("longest pause between two of these tasks", "s", 2)
LOST = Measure("lost of these tasks", "messages")
TWICE = Measure("run twice of these tasks", "messages")
LATENCY = Measure("idle: publish to start of task, median; floor: publish to receipt", "ms", 1)
LATENCY_95 = Measure("idle: publish to start of task, 95th percentile", "ms", 1)
PRIORITIES = Measure("the same with five queues of four priorities, median", "ms", 1)
PRIORITIES_95 = Measure("the same with five queues of four priorities, 95th percentile", "ms", 1)
STOP_IDLE = Measure("SIGTERM to exit, idle", "s", 2)
STOP_BUSY = Measure("end of the running task to exit, after SIGTERM", "s", 2)
KILLED = Measure("kill -9 to the task's start on another worker", "s", 1)
LOST_ON_EXIT = Measure("lost when the publisher exits at once, of 10", "messages")

MEASURES = (
    DELAY,
    STUB,
    BULK_1000,
    BULK_5000,
    BATCH_100,
    BATCH_1000,
    END_TO_END,
    BACKLOG,
    PAUSE,
    LOST,
    TWICE,
    LATENCY,
    LATENCY_95,
    PRIORITIES,
    PRIORITIES_95,
    STOP_IDLE,
    STOP_BUSY,
    KILLED,
    LOST_ON_EXIT,
)
