"""The process's heap: memory that was used for one request is there for the next one.

A batch of a megabyte lies in memory several times on its way to the disk. If malloc gives all of it back to the kernel
when the batch is done, the next one waits for as many pages to be found and cleared: longer than for all of its copies.
"""

from __future__ import annotations

#: Bytes of a block that is freed, of which twice as many stay with the process from then on.
_BLOCK_BYTES = 8 << 20


def keep_heap() -> None:
    """Have malloc keep up to 16 MiB at the end of the heap that nobody uses.

    glibc learns it from the largest block that it was given back: mallopt(3), M_MMAP_THRESHOLD. Elsewhere this is
    without effect.
    """
    bytes(_BLOCK_BYTES)
