"""The web page: what the store holds, live, with a stop button. Only this machine can reach it.

There is no authentication, so it listens on loopback only, answers loopback names only, and changes nothing without a
CSRF token. Pages are complete without JavaScript; a small script keeps them up to date.
"""

from studio_celery.web.app import create_app
from studio_celery.web.serve import serve

__all__ = ["create_app", "serve"]
