"""Which settings `uv` gets, and what its output means."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio_celery.errors import EnvironmentFailed, IndexUnavailable
from studio_celery.runtimes import installer
from studio_celery.runtimes.installer import Outcome, index_variables, reason, redact

NO_SOLUTION = """Using Python 3.11.7 environment at: st/v
error: No solution found when resolving dependencies
  cause: Because six==99 was not found and you require six==99, we can conclude that it is unsatisfiable.

hint: try another
"""
BUILD = """error: The build backend returned an error
  cause: Call to `build_wheel` failed (exit status: 1)

         [stderr]
         boom in setup
"""
CONNECT = """error: Failed to fetch: https://example.invalid/simple/x/
  cause: error sending request for url (https://example.invalid/simple/x/)
  cause: dns error
"""


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            NO_SOLUTION,
            "No solution found when resolving dependencies: Because six==99 was not found and you require six==99, "
            "we can conclude that it is unsatisfiable.",
        ),
        (
            BUILD,
            "The build backend returned an error: Call to `build_wheel` failed (exit status: 1): boom in setup.",
        ),
        ("[FATAL tini (7)] exec /bin/sh failed", "[FATAL tini (7)] exec /bin/sh failed."),
        ("", "uv said nothing."),
    ],
)
def test_the_reason_is_one_sentence(output: str, expected: str) -> None:
    assert reason(output) == expected


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (NO_SOLUTION, EnvironmentFailed),
        (BUILD, EnvironmentFailed),
        (CONNECT, IndexUnavailable),
        ("error: Failed to download: x\n  cause: HTTP status client error (404 Not Found)\n", EnvironmentFailed),
        ("error: Failed to fetch: x\n  cause: HTTP status server error (503)\n", IndexUnavailable),
    ],
)
def test_an_index_that_does_not_answer_is_not_the_requirements_fault(output: str, kind: type[Exception]) -> None:
    assert type(Outcome(2, output.encode()).failure()) is kind


def test_passwords_are_not_shown() -> None:
    assert redact(b"at https://alice:secret@host/x and http://tok@h") == b"at https://****@host/x and http://****@h"


def test_settings_of_pip_become_those_of_uv() -> None:
    worker = {"PIP_INDEX_URL": "http://one", "PIP_EXTRA_INDEX_URL": "http://two", "HTTPS_PROXY": "p", "AWS_KEY": "k"}
    chosen = index_variables(worker)
    assert (chosen["UV_DEFAULT_INDEX"], chosen["UV_INDEX"], chosen["HTTPS_PROXY"]) == ("http://one", "http://two", "p")
    assert "AWS_KEY" not in chosen


def test_settings_of_uv_win_and_paths_of_the_worker_stay_out() -> None:
    worker = {"PIP_INDEX_URL": "http://one", "UV_DEFAULT_INDEX": "http://two", "UV_CACHE_DIR": "/c", "UV_PYTHON": "/p"}
    chosen = index_variables(worker)
    assert chosen["UV_DEFAULT_INDEX"] == "http://two"
    assert not {"UV_CACHE_DIR", "UV_PYTHON"} & set(chosen)


def test_the_first_file_of_certificates_that_exists_is_trusted(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    assert installer.certificates({"SSL_CERT_FILE": "/missing", "REQUESTS_CA_BUNDLE": str(file)}) == file
    assert installer.certificates({}) is None


def test_directories_of_wheels_are_taken_if_they_exist(tmp_path: Path) -> None:
    worker = {"PIP_FIND_LINKS": f"/missing {tmp_path} https://example.invalid/wheels"}
    assert installer.wheel_directories(worker) == [tmp_path]
    assert installer.source_variables(worker)["UV_FIND_LINKS"] == str(tmp_path)
