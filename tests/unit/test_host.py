"""Whether the host is going down, by what systemd and the file system say."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio_celery.runtimes.host import closes, going_down


def booted_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A host whose systemd answers so; where its facts are."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "systemctl"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "run" / "systemd" / "system").mkdir(parents=True)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("script", "goes"),
    [
        ('[ "$1" = is-system-running ] && echo stopping; exit 1', True),
        ("echo running", False),
        ("echo degraded; exit 1", False),
        ("echo 'Failed to connect to bus' >&2; exit 1", False),
        ("exec sleep 600", False),
    ],
)
def test_systemd_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, goes: bool) -> None:
    # Longer than any answer here takes but the one that never comes.
    monkeypatch.setattr("studio_celery.runtimes.host.ANSWER_SECONDS", 0.5 if "sleep" in script else 60.0)
    assert going_down(booted_with(tmp_path, monkeypatch, script)) is goes


def test_without_systemd_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = booted_with(tmp_path, monkeypatch, "echo stopping")
    (run / "systemd" / "system").rmdir()
    assert not going_down(run)
    monkeypatch.setenv("PATH", "")
    (run / "systemd" / "system").mkdir()
    assert not going_down(run)


def test_a_host_that_lets_nobody_in_goes_down(tmp_path: Path) -> None:
    assert not closes(tmp_path)
    (tmp_path / "nologin").touch()
    assert closes(tmp_path)
    assert going_down(tmp_path)
