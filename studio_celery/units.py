"""Bytes and durations between people's units and ours (bytes, seconds)."""

from __future__ import annotations

import re

from studio_celery.errors import UsageError

_BYTE_UNITS = {"": 1, "b": 1, "k": 2**10, "kib": 2**10, "kb": 10**3, "m": 2**20, "mib": 2**20, "mb": 10**6}
_BYTE_UNITS |= {"g": 2**30, "gib": 2**30, "gb": 10**9, "t": 2**40, "tib": 2**40, "tb": 10**12}
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_DURATION_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([dhms])")


def parse_bytes(text: str) -> int:
    """ "8g", "512 MiB", "1000000" to bytes; k, m, g and t are binary, kb, mb, gb and tb decimal."""
    match = _BYTES.fullmatch(text)
    unit = _BYTE_UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"{text!r} is not a size: write a number with k, m, g or t behind it, as in 8g.")
    return int(float(match[1]) * unit)


def format_bytes(count: int) -> str:
    """4.7 GiB for 5046586573."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{count} B" if unit == "B" else f"{size:.1f}".removesuffix(".0") + f" {unit}"
        size /= 1024
    raise AssertionError(count)


def parse_duration(text: str) -> float:
    """ "5h", "48h2m10s", "1.5d" or plain seconds to seconds; more than 0."""
    cleaned = text.strip().lower()
    parts = _DURATION.findall(cleaned)
    if parts and "".join(number + unit for number, unit in parts) == cleaned:
        seconds = sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
    elif re.fullmatch(r"\d+(\.\d+)?", cleaned):
        seconds = float(cleaned)
    else:
        seconds = 0.0
    if seconds <= 0:
        raise UsageError(f"{text!r} is not a duration: write it as in 90s, 30m, 5h or 2d12h.")
    return seconds


def format_duration(seconds: float) -> str:
    """ "5h", "2d 3h", "1m 30s": the two greatest units that are not 0."""
    if seconds < 1:
        return f"{seconds:.1f}s"
    rest, parts = int(seconds), []
    for unit, size in _DURATION_UNITS.items():
        count, rest = divmod(rest, int(size))
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
