"""Google Cloud Pub/Sub as a kombu transport: a broker for Celery whose tasks may run for days.

URL
    ``pubsub://PROJECT``                       Google, with Application Default Credentials
    ``pubsub://PROJECT?credentials=key.json``  Google, with this key
    ``pubsub://PROJECT?endpoint=europe-west1-pubsub.googleapis.com``  one region
    ``pubsub://HOST:PORT/PROJECT``             a server without TLS: the local broker, Google's emulator
    ``?prefix=NAME-``                          before all topics and subscriptions, default ``celery-``

    Without PROJECT it is the credentials' own. ``PUBSUB_EMULATOR_HOST`` is honoured unless the URL names a server or an
    endpoint. ``prefix``, ``endpoint`` and ``credentials`` may also be transport options.

Guarantees
    *Published is stored.* `publish` returns when the server has confirmed, or raises within `publish_timeout_seconds`.
    A publish that was repeated because its answer was lost may arrive twice.

    *At least once.* A message is redelivered until it is acknowledged. Its lease is renewed for as long as this process
    lives and refers to it, over closed channels and reconnects; it lasts a tenth of the time the message has been held,
    between 45 and 600 seconds, so that short work is redelivered soon after a crash and long work survives long cuts. A
    redelivery of what is worked on in this very process is recognised and not dispatched. An acknowledgement is
    repeated until the server confirms it.

    *The prefetch limit is exact*, over all queues of a channel, and nothing lies hidden in a buffer: streams are open
    only while there is room. What is not dispatched when a consumer or channel ends is given back at once.

    *Errors are raised.* A missing subscription, a revoked key, a missing permission come out of `drain_events` or the
    event loop, never as an empty queue. A server that is out of reach for a while is waited for.

Queues
    Direct and fanout exchanges. A route is a topic, a queue a subscription of it; `names` says how they are called. A
    lasting queue never expires and keeps messages for 31 days. Queues that are exclusive or auto-deleted are deleted
    with the last channel that declared them, or by the server after a day. Sizes are not known and given as 0.

    Declaring creates what is missing, once per process. Where that is not permitted, a warning names the permission and
    it is assumed that somebody else has created it.

Options
    `options.Options` lists them with defaults; they go into ``broker_transport_options``.

Messages
    ``message.defer(seconds)`` lets a message come back later without holding a slot; see `transports.defer`.

Processes
    No thread, socket or gRPC object exists before the first connection. A process may fork later on: calls are parked
    for the moment of the fork, and a child opens connections of its own.
"""

from transports.pubsub.transport import Transport

__all__ = ["Transport"]
