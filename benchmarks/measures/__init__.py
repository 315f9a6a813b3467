"""The measurements: each takes a `Bench` and puts its figures on the board."""

from measures.killing import killing
from measures.latency import latency, priorities
from measures.leaving import leaving
from measures.publishing import bulk, publishing
from measures.stopping import stopping
from measures.working import working

#: In the order in which they run.
ALL = {
    "publish": publishing,
    "bulk": bulk,
    "work": working,
    "latency": latency,
    "priorities": priorities,
    "stop": stopping,
    "leave": leaving,
    "kill": killing,
}

__all__ = ["ALL"]
