"""A worker's lock file: there is never one that is not locked while its worker lives."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from studio_celery.supervisor.identity import Identity


def locks(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "run" / "workers").iterdir())


def test_a_lock_file_has_its_name_only_once_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, seen = fcntl.flock, []

    def watched(file: object, operation: int) -> None:
        seen.append([name for name in locks(tmp_path) if name.endswith(".lock")])
        flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", watched)
    one = Identity(tmp_path)
    assert seen == [[]]
    assert locks(tmp_path) == [f"{one.id}.lock"]
    one.close()


def test_whether_a_worker_of_this_host_has_ended_is_known(tmp_path: Path) -> None:
    one, other = Identity(tmp_path), Identity(tmp_path)
    assert not one.is_gone(other.id, other.host)
    other.close()
    assert one.is_gone(other.id, other.host)
    assert not one.is_gone(other.id, "elsewhere")
    assert not one.is_gone(one.id, one.host)
    assert not one.is_gone("never-was", one.host)
    one.close()
