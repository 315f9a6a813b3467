"""Write `docs/settings.md` from the settings themselves; a test sees to it that the page is current."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from studio_celery.settings import Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"

HEADER = """# Settings

Every setting can be given as a flag where a command has one, as an environment variable, or as `studio_<name>` in
`celeryconfig.py`; in this order. Times are in seconds, or written as `30s`, `5m`, `2h`; sizes in bytes, or as `500m`.

| variable | default | meaning |
| --- | --- | --- |
"""


def render() -> str:
    """The whole page."""
    rows = []
    for option in dataclasses.fields(Settings):
        default = "" if option.default is None else f"`{option.default}`"
        rows.append(f"| `STUDIO_{option.name.upper()}` | {default} | {option.metadata['help']} |")
    return HEADER + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
