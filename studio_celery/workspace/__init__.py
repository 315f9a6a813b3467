"""A workspace: the directory that goes with a script, captured at one machine and restored at another.

`locate` finds the directory, `capture` packs it, `restore` unpacks it.

Guarantees: a workspace over the limit is refused before anything is written; the same content gives the same archive,
byte for byte (same zlib assumed), whatever its times, owners and place; nothing that `restore` does touches anything
outside its destination. Every refusal is a `WorkspaceError`, a sentence with cause and next step.

What is left out: what the ignore files say (`studio_celery.workspace.ignore`), version control's own directories,
caches of Python tools, virtual environments, and sockets, pipes and devices. The script itself is never left out.
"""

from studio_celery.workspace.archive import Archive, capture
from studio_celery.workspace.restore import restore
from studio_celery.workspace.root import locate

__all__ = ["Archive", "capture", "locate", "restore"]
