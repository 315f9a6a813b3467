"""The life of experiments on one worker: what to do with a message, what to adopt, how to stop.

`Supervisor.handle` is called once for each delivery and returns when the experiment has ended or somebody else looks
after it. Everything is decided in the journal, so it does not matter how often or where a message is delivered.
"""

from studio_celery.supervisor.ledger import Detached
from studio_celery.supervisor.outcome import Deferred, Ended
from studio_celery.supervisor.supervisor import Supervisor

__all__ = ["Deferred", "Detached", "Ended", "Supervisor"]
