"""The measurements of the local broker: beside other servers in an `Arena`, and with backlogs."""

from brokers.acknowledging import acknowledging
from brokers.delivering import delivering
from brokers.idling import idling
from brokers.latency import latency
from brokers.publishing import publishing, together

#: In the order in which they run.
ALL = {
    "publish": publishing,
    "together": together,
    "deliver": delivering,
    "acknowledge": acknowledging,
    "latency": latency,
    "idle": idling,
}

__all__ = ["ALL"]
