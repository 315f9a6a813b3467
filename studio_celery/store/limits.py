"""What a store can hold at all: how long a key may be, and in how many parts a large object is sent."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from studio_celery.errors import StoreRefusal

MIB = 2**20

#: Bytes of a key in a bucket, with the prefix of the store: S3's and Google's limit.
KEY_BYTES = 1024

#: Bytes that obstore needs behind the name of a file for the one that it writes first: `#` and a number.
STAGING_BYTES = 4

#: Parts that an upload may have: the buckets' limit is 10,000, and the size of a part is a whole number of MiB.
MOST_PARTS = 9000

#: Least size of a part, bytes, which S3 asks for; what is smaller is sent at once.
LEAST_PART = 5 * MIB

#: Bytes of one upload on their way at a time, as far as its parts are smaller: on a slow link each part takes longer.
TOGETHER_BYTES = 20 * MIB

#: What buckets answer to a key or a size that they never take.
_NEVER = frozenset(f"<Code>{code}</Code>" for code in ("KeyTooLongError", "EntityTooLarge", "InvalidObjectName"))


def check_file_key(root: Path, key: str) -> None:
    """`StoreRefusal` if no file below the directory `root` can be called so; `OSError` if that cannot be found out."""
    *folders, name = (len(part.encode()) for part in key.split("/"))
    most_name, most_path = os.pathconf(root, "PC_NAME_MAX"), os.pathconf(root, "PC_PATH_MAX")
    if max([*folders, name + STAGING_BYTES]) > most_name:
        raise StoreRefusal(f"The store {root} can have no name of more than {most_name} bytes: shorten one in {key}.")
    # The path of the root, a slash, and the zero byte at the end.
    if len(os.fsencode(root)) + 1 + len(key.encode()) + STAGING_BYTES + 1 > most_path:
        raise StoreRefusal(f"The store {root} can have no path of more than {most_path} bytes: shorten {key}.")


def check_bucket_key(url: str, key: str) -> None:
    """`StoreRefusal` if no object of the bucket can be called so."""
    prefix = urlsplit(url).path.strip("/")
    if len(prefix.encode()) + bool(prefix) + len(key.encode()) > KEY_BYTES:
        raise StoreRefusal(f"The store {url} can have no key of more than {KEY_BYTES} bytes: shorten {key}.")


def never_taken(answer: str) -> bool:
    """Whether a bucket's answer to a write says that it will never take it."""
    return any(code in answer for code in _NEVER)


def parts_of(size: int) -> tuple[int, int]:
    """Size of the parts in which so many bytes are sent, and how many at a time."""
    part = max(LEAST_PART, -(-size // (MOST_PARTS * MIB)) * MIB)
    return part, max(1, TOGETHER_BYTES // part)
