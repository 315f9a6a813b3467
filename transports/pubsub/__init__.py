"""Google Cloud Pub/Sub as a kombu transport: a broker for Celery whose tasks may run for days.

URL
    ``pubsub://PROJECT``                       Google, with Application Default Credentials
    ``pubsub://PROJECT?credentials=key.json``  Google, with this key
    ``pubsub://PROJECT?endpoint=europe-west1-pubsub.googleapis.com``  one region
    ``pubsub://HOST:PORT/PROJECT``             a server without TLS: the local broker, Google's emulator
    ``pubsub://HOST:PORT/PROJECT?ca=ca.pem``   a local broker with TLS, trusted by this certificate
    ``?prefix=NAME-``                          before all topics and subscriptions, default ``celery-``

    Without PROJECT it is the credentials' own. ``PUBSUB_EMULATOR_HOST`` is honoured unless the URL names a server or an
    endpoint. ``prefix``, ``endpoint``, ``credentials`` and ``ca`` may also be transport options, and have to be where
    kombu is given several URLs to try in turn: it does not pass on what follows a question mark. A token for a local
    broker comes from the option `token_file`, ``PUBSUB_TOKEN`` or ``PUBSUB_TOKEN_FILE``, never from the URL.

Guarantees
    *Published is stored.* `publish` returns when the server has confirmed, or raises within `publish_timeout_seconds`.
    A publish that was repeated because its answer was lost may arrive twice. ``with transports.bulk():`` confirms
    thousands of messages in a few calls.

    *At least once.* A message is redelivered until it is acknowledged. Its lease is renewed for as long as this process
    lives and refers to it, over closed channels and reconnects; it lasts a tenth of the time the message has been held,
    between 45 and 600 seconds, so that short work is redelivered soon after a crash and long work survives long cuts. A
    redelivery of what is worked on in this very process is recognised and not dispatched. An acknowledgement is
    repeated until the server confirms it. A lease that was lost all the same is logged and told to `on_lease_lost`.
    With the option `exactly_once`, Pub/Sub itself sees to it that only one consumer holds a message.

    *The prefetch limit is exact*, over all queues of a channel, and nothing lies hidden in a buffer: streams are open
    only while there is room. What is not dispatched when a consumer or channel ends is given back at once.

    *Errors are raised.* A missing subscription, a revoked key, a missing permission come out of `drain_events` or the
    event loop, never as an empty queue. A server that is out of reach for a while is waited for, and one that hangs is
    noticed (`watchdog_seconds`).

Queues
    Direct, fanout and topic exchanges. A route is a topic, a queue a subscription of it; `topology.names` says how they
    are called. A queue gets what is published to an exchange and key of its own name as if they were the default
    exchange, which saves Celery half of the topics. Which keys of a topic exchange a queue wants is known to those who
    declared its bindings: its consumers must.

    A lasting queue never expires and keeps messages for 31 days. Queues that are exclusive or auto-deleted are deleted
    with the last channel that declared them, or by the server after a day; topics that killed processes left behind
    are swept by workers. Declaring creates what is missing, once per process.

    Sizes are known from the local broker, and from Google with the extra ``monitoring``; else they are given as -1, a
    purge counts 0, and ``if_empty`` and ``if_unused`` are refused.

Messages
    ``message.defer(seconds)`` lets a message come back later without holding a slot; see `transports.defer`.

    *Priorities* are AMQP's, higher first: for queues with an ``x-max-priority`` (Celery's ``task_queue_max_priority``),
    or for all lasting queues with the option `priority_steps`. Each step is a subscription of its own. Publishers have
    to know the same, by declaring the same queue or by the same option.

    *ETA and countdown* of any length: a message that is not due is put back under a lease that ends when it is, so it
    takes up neither memory nor a slot; what would outlive the server's retention is published anew. It is handed to
    Celery when it is due, without its ``eta``, for which Celery would raise the prefetch limit; the time is in
    ``delivery_info["eta"]``.

    *Too old:* a message past its ``expiration`` or its queue's ``x-message-ttl`` is dropped.

    *Set aside:* what cannot be decoded, or was given back `max_requeues` times to this process, goes to the hook
    `on_dead_letter`, else to the topic ``{prefix}dead~{queue}``; `DeadLetterDesk` lists it, publishes it again, drops
    it. Where neither is possible it comes back every ten minutes, with an error in the log, and is not lost.

    ``delivery_info`` has ``redelivered``, and ``delivery_count`` where the server counts (under a dead-letter policy),
    else None.

Permissions
    A publisher needs ``roles/pubsub.publisher``, a consumer ``roles/pubsub.subscriber``, and nothing else; then it is
    for somebody else to create topics and subscriptions, as `names` calls them, and what needs more is off: remote
    control, events, ``rpc://`` results, dead-letter topics. One warning names the permission that is missing.
    ``roles/pubsub.editor`` allows everything.

Options
    `options.Options` lists them with units and defaults; they go into ``broker_transport_options``.

Processes
    No thread, socket or gRPC object exists before the first connection. A process may fork later on: calls are parked
    for the moment of the fork, and a child opens connections of its own.
"""

from transports.pubsub.dead.desk import DeadLetterDesk
from transports.pubsub.dead.letter import DeadLetter
from transports.pubsub.transport import Transport

__all__ = ["DeadLetter", "DeadLetterDesk", "Transport"]
