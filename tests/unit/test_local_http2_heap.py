"""The heap keeps what large requests need, so that the next ones find it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Says how many pages a process gets from the kernel for fifty times a few blocks of a megabyte.
COUNT = """
import resource
from transports.local.http2.heap import keep_heap

def work():
    for _ in range(50):
        blocks = [b"x" * (1 << 20) for _ in range(5)]
        del blocks

{}
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc learns how much to keep")
def test_what_was_given_back_is_there_for_the_next_time() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", COUNT.format(line)], capture_output=True, check=True).stdout)
        for line in ("keep_heap()", "")
    )
    assert kept * 10 < given_back
