"""Templates to text that any browser can be sent."""

from __future__ import annotations

import re
from typing import Any

from flask import render_template

#: What arguments that were not valid text on the submitter's machine contain; it cannot be encoded.
_SURROGATES = re.compile("[\ud800-\udfff]")


def page(template: str, **values: Any) -> str:
    """The rendered template."""
    return _SURROGATES.sub("\ufffd", render_template(template, **values))
