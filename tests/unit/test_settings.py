"""Settings and where they come from."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from studio_celery import settings
from studio_celery.errors import SettingsError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_apply_when_nothing_is_set() -> None:
    found = settings.load(environ={})
    assert (found.runtime, found.heartbeat_seconds, found.workspace_limit) == ("docker", 10.0, 500 * 2**20)
    assert found.home == Path.home() / ".studio"


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    (tmp_path / "celeryconfig.py").write_text("studio_queue = 'file'\nstudio_project = 'file'\nstudio_owner = 'file'\n")
    environ = {"STUDIO_QUEUE": "environment", "STUDIO_PROJECT": "environment"}
    found = settings.load({"queue": "flag", "project": None}, environ)
    assert (found.queue, found.project, found.owner, found.runtime) == ("flag", "environment", "file", "docker")


def test_a_configuration_of_another_application_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "celeryconfig.py").write_text("broker_url = 'redis://'\nraise SystemExit('must not be run')\n")
    assert settings.config_module({}) == {}


def test_a_named_module_applies_whatever_it_sets(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("studio_queue = 'mine'\n")
    assert settings.load(environ={"STUDIO_CONFIG": "mine.py"}).queue == "mine"


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("HEARTBEAT_SECONDS", "30s", 30.0),
        ("HEARTBEAT_SECONDS", "0.5", 0.5),
        ("WORKSPACE_LIMIT", "5g", 5 * 2**30),
        ("WORKSPACE_LIMIT", "1000", 1000),
        ("STORE_IS_SHARED", "yes", True),
        ("CONCURRENCY", "4", 4),
    ],
)
def test_values_are_written_as_people_write_them(name: str, written: str, value: object) -> None:
    assert getattr(settings.load(environ={f"STUDIO_{name}": written}), name.lower()) == value


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"STUDIO_RUNTIME": "podman"}, "STUDIO_RUNTIME is 'podman'"),
        ({"STUDIO_HEARTBEAT_SECONDS": "soon"}, "STUDIO_HEARTBEAT_SECONDS is 'soon'"),
        ({"STUDIO_STORE_IS_SHARED": "maybe"}, "write yes or no"),
        ({"STUDIO_CONFIG": "no_such_module"}, "no_such_module"),
        ({"STUDIO_CONFIG": "missing.py"}, "does not exist"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(environ: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        settings.load(environ=environ)


def test_a_file_that_does_not_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "celeryconfig.py").write_text("studio_queue = 1/0\n")
    with pytest.raises(SettingsError, match=r"celeryconfig\.py cannot be read"):
        settings.load(environ={})


def test_the_sample_configuration_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert settings.load(environ={}) == settings.load(environ={"STUDIO_CONFIG": "celeryconfig.py"})
    assert settings.config_module({}) == {}


def test_the_page_of_settings_is_current() -> None:
    module = runpy.run_path(str(ROOT / "scripts" / "settings-page.py"))
    assert module["PAGE"].read_text(encoding="utf-8") == module["render"]()
