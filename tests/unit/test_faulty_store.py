"""The faulty store itself: what it does to calls, and that other processes follow its plan."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_store import Chance, Fault, Faults, faulty_store
from studio import environment

from studio_celery.errors import StoreError
from studio_celery.store import Store


def test_an_error_comes_before_the_call_and_a_lost_answer_after_it(tmp_path: Path) -> None:
    faults = Faults()
    objects = faulty_store(str(tmp_path), faults).objects
    faults.add(Fault("error", key="one", times=1))
    faults.add(Fault("lost", key="two", times=1))
    for key in ("one", "two"):
        with pytest.raises(StoreError, match="does not answer"):
            objects.create(key, b"x")
    assert (objects.exists("one"), objects.exists("two")) == (False, True)
    assert faults.hits() == ["error create one", "lost create two"]


def test_a_repeated_create_finds_its_own_object(tmp_path: Path) -> None:
    faults = Faults()
    objects = faulty_store(str(tmp_path), faults).objects
    faults.add(Fault("repeated", holding="mine", times=1))
    assert not objects.create("one", b"this is mine")
    assert objects.create("two", b"this is mine")


def test_rules_wait_for_their_turn_and_end(tmp_path: Path) -> None:
    faults = Faults()
    objects = faulty_store(str(tmp_path), faults).objects
    faults.add(Fault("error", method="put", skip=1, times=1))
    objects.put("a", b"")
    with pytest.raises(StoreError):
        objects.put("a", b"")
    objects.put("a", b"")
    faults.cut()
    with pytest.raises(StoreError):
        objects.listing("")
    faults.heal()
    assert [item.key for item in objects.listing("")] == ["a"]


def test_the_same_seed_fails_the_same_calls(tmp_path: Path) -> None:
    def run() -> list[str]:
        faults = Faults()
        objects = faulty_store(str(tmp_path), faults).objects
        faults.set_chance(Chance(seed=7, error=0.2, lost=0.2, repeated=0.2))
        for number in range(50):
            try:
                objects.put(str(number), b"")
            except StoreError:
                continue
        return faults.hits()

    first = run()
    assert 10 < len(first) < 50
    assert run() == first


def test_a_command_in_a_process_of_its_own_follows_the_plan(tmp_path: Path) -> None:
    Store(str(tmp_path / "home" / "store")).check()
    faults = Faults(tmp_path / "faults.json")
    variables = {**os.environ, **environment(tmp_path / "home"), **faults.variables()}
    command = [str(Path(sys.executable).parent / "studio"), "ls"]
    faults.cut()
    cut = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert (cut.returncode, cut.stderr.count("\n")) == (1, 1)
    assert "does not answer" in cut.stderr
    faults.heal()
    healed = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert healed.returncode == 0
    assert faults.hits()
