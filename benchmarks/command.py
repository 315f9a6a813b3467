"""What the commands of all benchmarks share: their options, where the report goes, how long each part took."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from machine import described
from table import Report, as_markdown, as_text


def arguments(description: str, names: Sequence[str], *, quick: str) -> argparse.Namespace:
    """Read the command line; ``names`` are those of the measurements, ``quick`` says what a quick run leaves out."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"some of: {', '.join(names)}")
    given = parser.parse_args()
    given.only = given.only or list(names)
    return given


def publish(report: Report, samples: object, given: argparse.Namespace) -> None:
    """Print the report, and write what was asked for."""
    print(as_text(report))
    if given.json:
        given.json.write_text(json.dumps(samples, indent=1) + "\n")
    if given.markdown:
        given.markdown.write_text(as_markdown(report, machine=described()))


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Say on stderr how long a measurement took."""
    began = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
