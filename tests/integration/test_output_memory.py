"""Output of any size passes through bounded memory."""

from __future__ import annotations

from pathlib import Path

from output_memory import measure


def test_a_hundred_megabytes_of_output_need_little_memory_at_both_ends(tmp_path: Path) -> None:
    measure(tmp_path, 100 * 10**6).check()
