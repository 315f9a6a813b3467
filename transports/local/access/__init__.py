"""Who may do what: roles, what each request needs, tokens on disk, and the guard that puts them together.

On loopback the broker is open unless tokens are required; on any other address they always are. A role has the
permissions of Google's predefined role of the same name, for everything or for topics, subscriptions and snapshots
whose ids fit the token's patterns. A revoked token is refused at once, and its streams end within seconds.
"""

from transports.local.access.guard import Caller, Guard
from transports.local.access.roles import Role
from transports.local.access.tokens import Token, TokenError, TokenFile

__all__ = ["Caller", "Guard", "Role", "Token", "TokenError", "TokenFile"]
