"""What the broker is doing, in numbers: asked for over gRPC (``statistics``) or as text for Prometheus."""

from transports.local.monitoring.client import StatisticsError, statistics
from transports.local.monitoring.queues import QueueStatistics

__all__ = ["QueueStatistics", "StatisticsError", "statistics"]
