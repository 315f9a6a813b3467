"""Kombu transports of this project: importing this package registers the URL scheme ``pubsub`` with kombu.

    import transports
    app = Celery(broker="pubsub://my-project")

Importing has no other effect, and imports neither ``grpc`` nor ``google``. Without the import, name the class:
``broker_transport = "transports.pubsub:Transport"``. The manual is the docstring of `transports.pubsub`.
"""

from kombu.transport import TRANSPORT_ALIASES

from transports.pubsub.publishing.bulk import bulk

__all__ = ["bulk"]

TRANSPORT_ALIASES.setdefault("pubsub", "transports.pubsub:Transport")
