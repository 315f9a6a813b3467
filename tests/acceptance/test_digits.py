"""The example on real data: requirements installed, progress in the log, artifacts kept, an accuracy worth the name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from processes import Studio

EXAMPLES = Path(__file__).parents[2] / "examples"

#: First bytes of every PNG file.
PNG = b"\x89PNG\r\n\x1a\n"


def test_the_example_trains_a_classifier(studio: Studio) -> None:
    shutil.copytree(EXAMPLES, studio.work / "examples", ignore=shutil.ignore_patterns("artifacts"))
    studio.broker()
    studio.worker("q")
    experiment = studio.submit("--queue", "q", "examples/digits.py", "--epochs", "15", "--seed", "3")
    record = studio.ended(experiment, seconds=400)
    log = studio.log(experiment).decode()
    assert record["status"] == "finished", log
    assert re.findall(r"epoch +(\d+)/15", log) == [str(n) for n in range(1, 16)]
    (accuracy,) = re.findall(r"test accuracy: (0\.\d+)", log)
    assert float(accuracy) > 0.95
    (artifact,) = record["artifacts"]
    assert (artifact["tag"], artifact["files"]) == ("output", 2)
    done = studio.command("studio", "artifacts", experiment, "-o", "results")
    assert done.returncode == 0, done.stderr
    assert (studio.work / "results/output/confusion-matrix.png").read_bytes().startswith(PNG)
    assert (studio.work / "results/output/model.joblib").stat().st_size > 10_000
