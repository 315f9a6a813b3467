"""A gigabyte of output through real processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from output_memory import measure


def test_a_gigabyte_of_output_needs_little_memory_at_both_ends(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    peaks = measure(tmp_path, 2**30)
    for process, size in asdict(peaks).items():
        record_property(process, f"{size / 1e6:.0f} MB")
    peaks.check()
