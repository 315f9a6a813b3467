"""Run the tests that take long: real time constants, many rounds, soaks. Write what came of them to docs/torture.md."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "torture.md"
#: How many rounds tests make here, unless the environment says otherwise; some are tests of `make test`, with more of
#: the same.
ROUNDS = {"CRASH_ROUNDS": "50", "FUZZ_REQUESTS": "2000", "STUDIO_TEST_CHILDREN": "1000", "ATTEMPT_ROUNDS": "10"}
#: Tests of `make test` that such variables concern.
AGAIN = (
    "tests/integration/test_local_crash_rounds.py",
    "tests/integration/test_local_fuzz.py",
    "tests/integration/test_celery_pools.py",
)
HEAD = """# Torture

What `make torture` found: tests under real time constants, with many rounds, and soaks. `make test` runs the same
faults once, with all times at a twentieth.

"""


def main() -> int:
    """Run everything, write the report, and return pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "--torture", "--numprocesses", "6", f"--junitxml={results}"]
        asked = sys.argv[1:] or ["tests/torture", *AGAIN]
        code = subprocess.run([*command, *asked], cwd=ROOT, env={**ROUNDS, **os.environ}, check=False).returncode
        REPORT.write_text(report(results))
    print(f"the report is in {REPORT.relative_to(ROOT)}")
    return code


def report(results: Path) -> str:
    """Return the report on pytest's results, as Markdown."""
    cases = list(ElementTree.parse(results).iter("testcase"))
    failed = sum(outcome(case) == "failed" for case in cases)
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "grpcio"))
    lines = [
        f"{HEAD}Last run: {when}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}: "
        f"{len(cases)} tests, {failed} failed.\n",
        "| test | outcome | seconds | figures |",
        "| --- | --- | --- | --- |",
    ]
    for case in sorted(cases, key=lambda case: (case.get("classname", ""), case.get("name", ""))):
        figures = "; ".join(f"{each.get('name')}: {each.get('value')}" for each in case.iter("property"))
        name = case.get("name", "").replace("_", " ").removeprefix("test ")
        lines.append(f"| {name} | {outcome(case)} | {float(case.get('time', 0)):.0f} | {figures} |")
    return "\n".join(lines) + "\n"


def outcome(case: ElementTree.Element) -> str:
    """Return what became of a test."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


if __name__ == "__main__":
    sys.exit(main())
