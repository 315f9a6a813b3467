"""Bad input: one sentence with the cause and the next step, an exit code, no traceback, and nothing lost."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from processes import BIN, Studio


def refused(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """The command was refused as it should be."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for words in said:
        assert words in done.stderr


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What was said, which is one line."""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert line.endswith(".")
    return line


@pytest.fixture
def studio(process_studio: Studio) -> Studio:
    process_studio.broker()
    return process_studio


def nothing_recorded(studio: Studio) -> None:
    assert not studio.store.objects.listing("experiments")
    assert not studio.store.objects.listing("blobs")


def test_no_such_script(studio: Studio) -> None:
    done = studio.command("studio-runner", "--queue", "q", "missing.py")
    refused(done, 2, "missing.py")
    sentence(done)
    nothing_recorded(studio)


def test_a_directory_as_script(studio: Studio) -> None:
    (studio.work / "folder").mkdir()
    done = studio.command("studio-runner", "--queue", "q", "folder")
    refused(done, 2, "folder", "directory")
    sentence(done)
    nothing_recorded(studio)


def test_an_unreadable_script(studio: Studio) -> None:
    studio.script("print(1)", "secret.py")
    (studio.work / "secret.py").chmod(0)
    argv = [str(BIN / "studio-runner"), "--queue", "q", "secret.py"]
    if os.geteuid() == 0:
        # Root may read everything: the command runs as nobody, with a store and a home of its own.
        for path in (studio.work, studio.folder, *studio.folder.parents):
            if path != Path("/"):
                path.chmod(path.stat().st_mode | 0o055)
        studio.environ["STUDIO_HOME"] = str(studio.work / "home")
        studio.work.chmod(0o777)
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *argv]
        probe = subprocess.run([*argv[:4], str(BIN / "python"), "-c", "0"], capture_output=True)
        if probe.returncode:
            pytest.skip("nobody may not use this checkout's Python")
    done = subprocess.run(argv, env=studio.environ, cwd=studio.work, capture_output=True, text=True, timeout=120)
    refused(done, 2, "secret.py")
    sentence(done)


@pytest.mark.parametrize(
    ("queue", "said"), [("", "empty"), ("a,b", "comma"), ("a b", "white space"), ("x" * 300, "too long")]
)
def test_a_queue_name_that_cannot_be(studio: Studio, queue: str, said: str) -> None:
    done = studio.command("studio-runner", "--queue", queue, studio.script("print(1)"))
    refused(done, 2, said)
    sentence(done)
    nothing_recorded(studio)
    done = studio.command("studio-start-remote-worker", "--queue", queue)
    refused(done, 2, said)


def test_a_workspace_with_a_huge_file(studio: Studio) -> None:
    script = studio.script("print(1)")
    with (studio.work / "data.bin").open("wb") as file:
        file.truncate(5 * 2**30)
    done = studio.command("studio-runner", "--queue", "q", script)
    refused(done, 2, "data.bin", "5 GiB")
    sentence(done)
    nothing_recorded(studio)
    (studio.work / ".studioignore").write_text("*.bin\n")
    assert studio.command("studio-runner", "--queue", "q", script).returncode == 0


def test_a_limit_of_ones_own(studio: Studio) -> None:
    (studio.work / "data.bin").write_bytes(bytes(3000))
    done = studio.command("studio-runner", "--queue", "q", studio.script("print(1)"), STUDIO_WORKSPACE_LIMIT="2k")
    refused(done, 2, "data.bin", "2.9 KiB")


@pytest.mark.parametrize("command", ["runner", "worker"])
def test_no_broker_that_answers(studio: Studio, command: str) -> None:
    script = studio.script("print(1)")
    nowhere = {"STUDIO_BROKER_URL": "pubsub://127.0.0.1:9/studio", "STUDIO_CONNECT_SECONDS": "1"}
    argv = ("studio-runner", "--queue", "q", script) if command == "runner" else ("studio-start-remote-worker", "q")
    done = studio.command(*argv, **nowhere)
    refused(done, 1, "127.0.0.1:9", "studio up")
    sentence(done)
    nothing_recorded(studio)


def test_a_store_that_cannot_be_written(studio: Studio) -> None:
    (studio.folder / "file").write_text("")
    done = studio.command(
        "studio-runner", "--queue", "q", studio.script("print(1)"), STUDIO_STORE=str(studio.folder / "file" / "store")
    )
    refused(done, 1, "cannot be written", "STUDIO_STORE")
    sentence(done)


@pytest.mark.parametrize("argv", [("show", "nothing"), ("logs", "nothing"), ("stop", "nothing"), ("events", "../..")])
def test_an_unknown_experiment(studio: Studio, argv: tuple[str, ...]) -> None:
    done = studio.command("studio", *argv)
    refused(done, 2, "No experiment fits", "studio ls")
    sentence(done)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--gpus", "-1"), "--gpus must be 0 or more"),
        (("--memory", "lots"), "'lots' is not a size"),
        (("--max-duration", "soon"), "'soon' is not a duration"),
        (("--env", "1X=2"), "no name of a variable"),
        (("--env", "NOT_SET_ANYWHERE"), "there is no variable"),
        (("--max-attempts", "0"), "--max-attempts must be 1 or more"),
        (("--requirements", "none.txt"), "none.txt cannot be read"),
        (("--capture", "a:b/c"), "write PATH:TAG"),
    ],
)
def test_options_that_cannot_be(studio: Studio, options: tuple[str, ...], said: str) -> None:
    done = studio.command("studio-runner", "--queue", "q", *options, studio.script("print(1)"))
    refused(done, 2, said)
    sentence(done)
    nothing_recorded(studio)


def test_a_setting_that_cannot_be(studio: Studio) -> None:
    refused(studio.command("studio", "ls", STUDIO_RUNTIME="podman"), 2, "STUDIO_RUNTIME is 'podman'")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("STUDIO_CONCURRENCY", "-1", "from 1"), ("STUDIO_UI_PORT", "99999", "65535"), ("STUDIO_STORE", "gs://", "gs://")],
)
def test_values_out_of_range(studio: Studio, name: str, value: str, said: str) -> None:
    done = studio.command("studio", "ls", **{name: value})
    refused(done, 2, said)
    sentence(done)


def test_a_broker_whose_library_is_missing(studio: Studio) -> None:
    done = studio.command("studio-runner", "--queue", "q", studio.script("print(1)"), STUDIO_BROKER_URL="zookeeper://h")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    nothing_recorded(studio)


def test_a_home_that_cannot_be_written(studio: Studio) -> None:
    (studio.folder / "file").write_text("")
    done = studio.command("studio", "up", STUDIO_HOME=str(studio.folder / "file" / "home"))
    refused(done, 1, "home", "Error: ")
    sentence(done)


def test_a_worker_without_an_engine(studio: Studio) -> None:
    done = studio.command(
        "studio-start-remote-worker", "q", STUDIO_RUNTIME="docker", DOCKER_HOST="unix:///nowhere/docker.sock"
    )
    assert done.returncode == 1
    assert "Docker" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.docker
def test_an_image_that_does_not_exist(docker_studio: Studio) -> None:
    studio = docker_studio
    studio.broker()
    studio.worker("q")
    image = "studio-no-such-image.invalid/none:1"
    experiment = studio.submit("--queue", "q", "--image", image, studio.script("print(1)"))
    record = studio.ended(experiment)
    assert record["status"] == "failed"
    assert image in record["reason"]


@pytest.mark.docker
def test_requirements_that_cannot_be_installed(docker_studio: Studio) -> None:
    studio = docker_studio
    studio.broker()
    studio.worker("q", UV_OFFLINE="1")
    (studio.work / "requirements.txt").write_text("no-such-package-of-ours==1\n")
    experiment = studio.submit("--queue", "q", studio.script("print(1)"))
    record = studio.ended(experiment)
    assert record["status"] == "failed"
    assert "no-such-package-of-ours" in record["reason"]
    assert b"no-such-package-of-ours" in studio.log(experiment)
