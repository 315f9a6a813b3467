"""A local broker: Google Pub/Sub for one machine, without an account.

Google's client library, pointed at its address without credentials, cannot tell the difference for what it does.
``Broker`` runs it in a thread, ``serve`` in the foreground, ``python -m transports.local --data DIR`` as a process.

Guarantees
    - A message is on disk (SQLite, synced) before ``Publish`` answers; one copy for each subscription there was.
    - At least once: it is delivered until it is acknowledged. Kill the broker at any moment; on the same directory it
      comes back with every confirmed, unacknowledged message, and with none of which an ``Acknowledge`` was answered.
      A power cut within 50 ms of that answer may bring it back, but not with exactly-once delivery: then it is synced
      before it is answered.
    - Oldest first, at once: a message goes to a consumer that waits, without polling. A lease that runs out, or is
      given back (deadline 0), makes it ready again; every delivery has an ack id of its own, and an older one does
      nothing. The ack id of a lease that ran out is good until the message is delivered again.
    - Exactly once, where a subscription asks for it: only the latest ack id is good, and only while its lease runs;
      others are refused as by Google, in words that Google's library understands, and the good ones of the same request
      are carried out.
    - In order, where a subscription asks for it: of an ordering key, one message after the other and to one consumer at
      a time. Giving a message back, or losing its lease, gives back those after it that are not acknowledged.
    - A lease goes on over a restart to its end, and for 10 seconds (an option) at least, so that workers that live can
      renew; an extension of the last second before a SIGKILL may be forgotten. What was given back before a SIGTERM
      comes again at once. Ack ids from before are good until their message is delivered again.
    - Publish times never go back, and no lease becomes longer, when the machine's clock is set back, over a restart too
      (after a SIGKILL the time goes on from the last delivery or extension).
    - A client that does not answer for 30 seconds (an option) loses its connection and its streams.
    - A backlog of any length costs little memory: some thousand messages of each subscription and what is leased are
      held, the rest is read from the disk when its turn comes. Starting does not read it.
    - Filters, dead letters, retry policies, replays (acknowledged messages that are kept, topics that retain,
      snapshots), labels, detaching and expiration follow Google's documentation. A subscription that nobody used
      expires, one hour after a start at the earliest.
    - ``max_outstanding_messages`` and ``max_outstanding_bytes`` of a stream are kept exactly.
    - Messages older than the subscription's retention (10 minutes to 31 days, usually 7 days) are dropped.
    - What the disk refused has not happened, in memory neither. What is long (seeks, snapshots, deletions) goes in
      pieces, between which others are served; a seek that was not answered may have been carried out in part.
    - One broker per data directory. A damaged file is set aside under another name, never deleted.

To be operated
    - ``python -m transports.local token create|list|revoke`` says who may use it, as ``TokenFile`` does.
    - ``Options``: TLS (a renewed certificate is served without a restart), tokens on loopback too, how long leases
      outlive a restart, a page for Prometheus. ``statistics`` asks a broker how full its queues are.
      ``grpc.health.v1`` is served, to everybody.

Not implemented; asked for, it answers ``UNIMPLEMENTED`` with a sentence
    Push, export to BigQuery, Bigtable and Cloud Storage, schemas, message transforms, ingestion, IAM policies.

Different from Google's service
    - Tokens instead of IAM (``access``): on loopback anybody may do everything unless tokens are required; elsewhere
      the broker does not start without TLS and tokens. A creation is checked against what is created, not its project.
    - Seeking to a time in the future drops what there is; it does not drop what is published until then (nor does
      Google's emulator).
    - Acknowledged messages of an ordering key do not come again when an earlier one of the key is given back.
    - ``TestIamPermissions`` answers by role whether the resource exists or not.
"""

from transports.local.access import Role, Token, TokenError, TokenFile
from transports.local.broker import Broker, serve
from transports.local.errors import BrokerError, StartError
from transports.local.monitoring import QueueStatistics, StatisticsError, statistics
from transports.local.options import Options

__all__ = [
    "Broker",
    "BrokerError",
    "Options",
    "QueueStatistics",
    "Role",
    "StartError",
    "StatisticsError",
    "Token",
    "TokenError",
    "TokenFile",
    "serve",
    "statistics",
]
