"""The pure part of the docker runtime: what a container is created with, what the engine's words mean."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from studio_celery.errors import EngineUnavailable, SettingsError
from studio_celery.experiment import Resources
from studio_celery.runtimes.contract import Exit, Launch
from studio_celery.runtimes.directory import Ending
from studio_celery.runtimes.docker import DockerOptions, verdict
from studio_celery.runtimes.docker.container import Base, handle_of, script_arguments
from studio_celery.runtimes.docker.engine import Refused

LAUNCH = Launch("e1", 2, 5, "w1", ("train.py",), Path("/home/run/e1/2"))
OPTIONS = DockerOptions(home=Path("/home"))
BASE = Base("sha256:1", "python:3.11-slim", 65534, 65534, {"PATH": "/image/bin"}, "run1")


def arguments(*, options: DockerOptions = OPTIONS, base: Base = BASE, **fields: Any) -> dict[str, Any]:
    return script_arguments(dataclasses.replace(LAUNCH, **fields), options, base)


def state(status: str = "exited", code: int = 0, oom: bool = False, run: str = "run1") -> dict[str, Any]:
    return {
        "State": {"Status": status, "ExitCode": code, "OOMKilled": oom},
        "Config": {"Labels": {"studio.engine-run": run}},
    }


class TestContainer:
    def test_is_closed(self) -> None:
        made = arguments()
        assert made["security_opt"] == ["no-new-privileges"]
        assert made["cap_drop"] == ["ALL"]
        assert made["user"] == "65534:65534"
        assert made["init"] is True
        assert not any("docker.sock" in mount["Source"] for mount in made["mounts"])

    def test_without_cards_none_can_be_seen(self) -> None:
        made = arguments(environment={"NVIDIA_VISIBLE_DEVICES": "all"})
        assert made["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"
        assert made["runtime"] == "runc"
        assert "device_requests" not in made

    def test_cards_are_requested_by_id_and_never_by_count(self) -> None:
        made = arguments(cards=("1", "3"), environment={"CUDA_VISIBLE_DEVICES": "0"})
        assert made["device_requests"] == [{"device_ids": ["1", "3"], "capabilities": [["gpu"]]}]
        assert made["environment"]["NVIDIA_VISIBLE_DEVICES"] == "1,3"
        assert "CUDA_VISIBLE_DEVICES" not in made["environment"]
        assert "runtime" not in made

    def test_memory_has_no_swap_and_bounds_shared_memory(self) -> None:
        made = arguments(resources=Resources(memory_bytes=2**30))
        assert made["mem_limit"] == made["memswap_limit"] == made["shm_size"] == 2**30

    def test_the_administrators_memory_limit_holds_where_none_is_asked_for(self) -> None:
        options = dataclasses.replace(OPTIONS, memory_bytes=2**31)
        assert arguments(options=options)["mem_limit"] == 2**31
        assert arguments(options=options, resources=Resources(memory_bytes=2**28))["mem_limit"] == 2**28

    def test_installed_programs_come_before_the_images(self) -> None:
        made = arguments(base=BASE.with_environment(Path("/home/cache/environments/k")))
        assert made["environment"]["PATH"] == "/opt/studio/environment/bin:/image/bin"
        assert made["mounts"][-1]["ReadOnly"] is True

    def test_labels_tell_the_whole_handle(self) -> None:
        handle = handle_of("c1", arguments(cards=("0", "GPU-1"))["labels"])
        assert (handle.experiment_id, handle.attempt, handle.worker) == ("e1", 2, "w1")
        assert (handle.directory, handle.ref, handle.cards) == (LAUNCH.directory, "c1", ("0", "GPU-1"))


class TestUser:
    def test_is_what_was_set(self, tmp_path: Path) -> None:
        options = DockerOptions(home=tmp_path, user="1000")
        assert options.identity(rootless=False) == (1000, 1000)
        assert dataclasses.replace(options, user="5:6").identity(rootless=True) == (5, 6)

    @pytest.mark.parametrize("text", ["alice", "1:", "1:b", ":", "-1"])
    def test_must_be_a_number(self, tmp_path: Path, text: str) -> None:
        if text == "1:":
            assert DockerOptions(home=tmp_path, user=text).identity(rootless=False) == (1, 1)
            return
        with pytest.raises(SettingsError, match="STUDIO_UID"):
            DockerOptions(home=tmp_path, user=text).identity(rootless=False)

    def test_of_a_root_worker_is_the_homes_owner_or_nobody(self, tmp_path: Path) -> None:
        if os.getuid() != 0:
            assert DockerOptions(home=tmp_path).identity(rootless=False) == (os.getuid(), os.getgid())
            return
        assert DockerOptions(home=tmp_path).identity(rootless=False) == (65534, 65534)
        os.chown(tmp_path, 1001, 1002)
        assert DockerOptions(home=tmp_path).identity(rootless=False) == (1001, 1002)

    def test_of_a_rootless_engine_is_its_root(self, tmp_path: Path) -> None:
        assert DockerOptions(home=tmp_path).identity(rootless=True) == (0, 0)


class TestVerdict:
    @pytest.mark.parametrize(
        ("facts", "ending", "expected"),
        [
            (state("created"), None, Exit(lost="the container was never started")),
            (state(code=3), None, Exit(exit_code=3)),
            (state(code=137), None, Exit(signal=9)),
            (state(code=137, oom=True), None, Exit(signal=9, out_of_memory=True)),
            (state(code=137, run="old"), None, Exit(lost="the Docker engine or the host was restarted")),
            (state(run="old"), Ending(Exit(exit_code=0), interrupted=False), Exit(exit_code=0)),
            (state(), Ending(Exit(exit_code=0), interrupted=True), Exit(exit_code=0)),
            (state(code=143), Ending(Exit(signal=15), interrupted=True), Exit(signal=15)),
            (
                state(code=143, run="old"),
                Ending(Exit(signal=15), interrupted=True),
                Exit(lost="the Docker engine or the host was restarted"),
            ),
            (state(code=137, oom=True), Ending(Exit(signal=9), interrupted=True), Exit(signal=9, out_of_memory=True)),
        ],
    )
    def test_of_an_end(self, facts: dict[str, Any], ending: Ending | None, expected: Exit) -> None:
        assert verdict.judge(facts, ending, "run1") == expected

    @pytest.mark.parametrize(
        ("facts", "ending"),
        [
            (state(code=143), Ending(Exit(signal=15), interrupted=True)),
            (state(), Ending(Exit(exit_code=0), interrupted=True)),
            (state(code=137), None),
            (state(code=143), None),
        ],
    )
    def test_of_what_was_killed_while_the_host_goes_down(self, facts: dict[str, Any], ending: Ending | None) -> None:
        lost = Exit(lost="the host is going down")
        assert verdict.judge(facts, ending, "run1", host_goes_down=True) == lost
        assert verdict.judge(facts, ending, "run1").lost is None
        assert verdict.judge(state(code=3), None, "run1", host_goes_down=True) == Exit(exit_code=3)

    def test_without_a_default_bridge_no_restart_is_suspected(self) -> None:
        assert verdict.judge(state(code=137, run=""), None, "run1") == Exit(signal=signal.SIGKILL)
        assert verdict.judge(state(code=137), None, None) == Exit(signal=signal.SIGKILL)

    @pytest.mark.parametrize(
        ("said", "sentence"),
        [
            ('could not select device driver "" with capabilities: [[gpu]]', "NVIDIA container toolkit"),
            ("x\nnvidia-container-cli: device error: 9: unknown device: unknown", "give the cards: device error: 9"),
            ("invalid mount config: bind source path does not exist: /x", "STUDIO_HOME must be at one path"),
        ],
    )
    def test_of_a_failed_start_is_a_clear_sentence(self, said: str, sentence: str) -> None:
        failure = verdict.start_failure(Refused(500, said))
        assert isinstance(failure, EngineUnavailable)
        assert sentence in str(failure)
        assert "\n" not in str(failure)


def test_the_shim_is_told_how_much_output_may_wait() -> None:
    entrypoint = arguments(spool_bytes=2**30, hold_seconds=10.0)["entrypoint"]
    assert entrypoint[-3:] == ["--spool=1073741824", "--hold=10.0", "/studio/io"]
    assert arguments()["entrypoint"][-2:] == ["/studio/shim.py", "/studio/io"]
