"""File names: how deep they may be, and how people see them, who must not see every byte that a name may hold."""

from __future__ import annotations

#: Levels of directories that a workspace may have: Python's own tools to make and remove trees recurse, and give up at
#: about a thousand.
MAX_DEPTH = 200


def shown(path: object) -> str:
    """The path with control characters and bytes that are not UTF-8 written as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(path)
    )
