"""A local broker: Google Pub/Sub for one machine, without an account.

Google's client library, pointed at its address without credentials, cannot tell the difference for what it does.
``Broker`` runs it in a thread, ``serve`` in the foreground, ``python -m transports.local --data DIR`` as a process.

Guarantees
    - A message is on disk (SQLite, synced) before ``Publish`` answers; one copy for each subscription there was.
    - At least once: it is delivered until it is acknowledged, and an answered ``Acknowledge`` is on disk too. Kill the
      broker at any moment; on the same directory it comes back with every confirmed, unacknowledged message.
    - Oldest first, at once: a message goes to a consumer that waits, without polling. A lease that runs out, or is
      given back (deadline 0), makes it ready again; every delivery has an ack id of its own, and an older one does
      nothing. The ack id of a lease that ran out is good until the message is delivered again.
    - Leases are in memory. After a restart everything unacknowledged is ready again, and ack ids from before are good,
      to acknowledge or to renew, until their message is delivered again.
    - ``max_outstanding_messages`` and ``max_outstanding_bytes`` of a stream are kept exactly.
    - Messages older than the subscription's retention (10 minutes to 31 days, usually 7 days) are dropped.
    - One broker per data directory. A damaged file is set aside under another name, never deleted.

Not implemented; asked for, it answers ``UNIMPLEMENTED`` with a sentence
    Filters, ordering (``enable_message_ordering``), dead letters, retry policies, push, export, retained acknowledged
    messages, snapshots, schemas, message transforms, topic retention, detaching, IAM policies.

Different from Google's service
    - Expiration policies and the exactly-once flag are stored and shown, and not acted on.
    - ``TestIamPermissions`` permits whatever is asked for: who reaches the broker may use it. It therefore listens on
      loopback addresses only.
    - Seeking to a time drops what was published until then; it does not bring back what was acknowledged, and does not
      reach into the future.
"""

from transports.local.broker import Broker, serve
from transports.local.errors import BrokerError, StartError

__all__ = ["Broker", "BrokerError", "StartError", "serve"]
