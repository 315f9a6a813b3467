"""Names that people and scripts chose, as parts of keys that every store can hold, and back."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote_to_bytes

#: Control characters, what is not text, `%`, and `#`, which a local store keeps for its temporary files.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f%#\ud800-\udfff]")


def encode_name(name: str) -> str:
    """A path with every unsafe character percent-encoded; slashes stay."""
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in os.fsencode(found[0])), name)


def decode_name(key: str) -> str:
    """The inverse of `encode_name`."""
    return os.fsdecode(unquote_to_bytes(key))
