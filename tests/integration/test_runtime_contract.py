"""One contract, both runtimes: real processes, real containers."""

from __future__ import annotations

import fcntl
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from runtime_bench import SECRET, Bench, wait_for_output
from studio import wait_for

from studio_celery.errors import EnvironmentFailed, IndexUnavailable
from studio_celery.runtimes.contract import Cancellation, Exit, Handle, Launch

#: Runs until a file named `go` is in its workspace.
UNTIL_GO = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"

#: Ignores SIGTERM, and leaves a grandchild of another process group that does, too; it holds a lock on a file.
WITH_GRANDCHILD = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def hold(name):
    lock = open(name, "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        kept = hold("grandchild")
        open("grandchild.ready", "w").close()
        time.sleep(600)
    os._exit(0)
"""

#: Does not end either, and holds a lock itself.
STUBBORN = f"""{WITH_GRANDCHILD}
kept = hold("script")
print("last words")
open("script.ready", "w").close()
time.sleep(600)
"""


def wait_for_file(handle: Handle, name: str) -> None:
    wait_for(f"the file {name}", lambda: (handle.directory / "workspace" / name).exists())


def is_free(path: Path) -> bool:
    """Whether nobody alive holds the lock on a file."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class TestRuntime:
    def test_output_is_kept_byte_for_byte(self, bench: Bench) -> None:
        source = """
            import os, sys
            os.write(1, b"\\xff\\xfe not text \\x00\\r\\n")
            os.write(1, b"x" * 2**20 + b"\\n")
            for number in range(100):
                os.write(1 + number % 2, b"%d\\n" % number)
            os.write(2, b"no newline at the end")
        """
        exit, output = bench.run(textwrap.dedent(source))
        numbers = b"".join(b"%d\n" % number for number in range(100))
        expected = b"\xff\xfe not text \x00\r\n" + b"x" * 2**20 + b"\n" + numbers + b"no newline at the end"
        assert exit == Exit(exit_code=0)
        assert output == expected

    def test_a_progress_bar_is_seen_while_it_runs(self, bench: Bench) -> None:
        handle = bench.start("import sys\nprint('\\r 10 %', end='')\n" + UNTIL_GO)
        wait_for_output(handle, b"\r 10 %")
        assert bench.make().poll(handle) is None
        (handle.directory / "workspace" / "go").touch()
        assert bench.end(handle) == Exit(exit_code=0)

    def test_a_large_last_output_is_complete(self, bench: Bench) -> None:
        _, output = bench.run("import os\nfor _ in range(64): os.write(1, b'y' * 65536)\nos._exit(0)\n")
        assert len(output) == 4 * 2**20

    def test_the_exit_code_is_the_scripts(self, bench: Bench) -> None:
        assert bench.run("raise SystemExit(3)")[0] == Exit(exit_code=3)

    @pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL])
    def test_a_signal_that_ends_the_script_is_told(self, bench: Bench, number: int) -> None:
        exit, _ = bench.run(f"import os\nos.kill(os.getpid(), {int(number)})")
        assert exit == Exit(signal=number)

    def test_arguments_reach_the_script_unchanged(self, bench: Bench) -> None:
        arguments = ("--queue", "-x", "--", "a b", "", "'\"`$HOME\\", "ünï\u2028", "*", "a\nb", "\udcff", "--daemon")
        exit, output = bench.run("import sys\nprint(ascii(sys.argv))", *arguments)
        assert output.decode() == ascii(["script.py", *arguments]) + "\n"
        assert exit == Exit(exit_code=0)

    def test_the_environment_is_what_was_asked_for_and_nothing_of_the_worker(self, bench: Bench) -> None:
        wanted = {"WANTED": "ä b", "STUDIO_ATTEMPT": "77", "HOME": "/nowhere", "NVIDIA_VISIBLE_DEVICES": "all"}
        source = "import json, os\nprint(json.dumps(dict(os.environ)))\n"
        exit, output = bench.run(source, environment=wanted)
        assert exit == Exit(exit_code=0)
        for part in (b'"WANTED": "\\u00e4 b"', b'"STUDIO_ATTEMPT": "1"', b'"NVIDIA_VISIBLE_DEVICES": "void"'):
            assert part in output
        for part in (SECRET.encode(), b"/nowhere", b"UV_"):
            assert part not in output

    def test_the_script_can_write_where_it_should(self, bench: Bench) -> None:
        source = """
            import os, pathlib, tempfile
            for name in (".", os.environ["STUDIO_ARTIFACTS"], pathlib.Path.home()):
                pathlib.Path(name, "made").write_text("here")
            tempfile.TemporaryFile().close()
            pathlib.Path("folder/given").write_text("changed")
        """
        launch = bench.launch(textwrap.dedent(source))
        (launch.workspace / "folder").mkdir()
        (launch.workspace / "folder" / "given").touch(mode=0o644)
        bench.prepare(launch)
        handle = bench.make().start(launch)
        assert bench.end(handle) == Exit(exit_code=0), handle.log.read_text()
        assert (launch.artifacts / "made").read_text() == "here"
        assert (launch.workspace / "folder" / "given").read_text() == "changed"

    def test_a_missing_script_is_the_scripts_failure(self, bench: Bench) -> None:
        exit, output = bench.run(None)
        assert exit == Exit(exit_code=2)
        assert b"script.py" in output
        assert b"No such file" in output

    def test_stopping_lets_the_script_end_in_order(self, bench: Bench) -> None:
        source = """
            import signal, sys, time
            def end(*_):
                print("saved")
                sys.exit(5)
            signal.signal(signal.SIGTERM, end)
            print("ready")
            time.sleep(600)
        """
        handle = bench.start(textwrap.dedent(source))
        wait_for_output(handle, b"ready\n")
        bench.make().stop(handle, 30)
        assert bench.make().poll(handle) == Exit(exit_code=5)
        assert handle.log.read_bytes() == b"ready\nsaved\n"

    def test_stopping_kills_what_does_not_end(self, bench: Bench) -> None:
        handle = bench.start(STUBBORN)
        for name in ("script", "grandchild"):
            wait_for_file(handle, f"{name}.ready")
            assert not is_free(handle.directory / "workspace" / name)
        bench.make().stop(handle, 0.2)
        assert is_free(handle.directory / "workspace" / "script")
        assert is_free(handle.directory / "workspace" / "grandchild")
        assert bench.make().poll(handle) == Exit(signal=signal.SIGKILL)
        assert handle.log.read_bytes() == b"last words\n"

    def test_what_the_script_leaves_running_ends_with_it(self, bench: Bench) -> None:
        handle = bench.start(WITH_GRANDCHILD)
        assert bench.end(handle) == Exit(exit_code=0)
        wait_for("the end of the grandchild", lambda: is_free(handle.directory / "workspace" / "grandchild"))

    def test_stopping_what_has_ended_changes_nothing(self, bench: Bench) -> None:
        handle = bench.start("raise SystemExit(4)")
        bench.end(handle)
        bench.make().stop(handle, 5)
        assert bench.make().poll(handle) == Exit(exit_code=4)

    def test_another_worker_finds_and_follows_it(self, bench: Bench) -> None:
        handle = bench.start("print('one')\n" + UNTIL_GO + "print('two')\n")
        (found,) = bench.make().find()
        assert found == handle
        (handle.directory / "workspace" / "go").touch()
        assert bench.end(found) == Exit(exit_code=0)
        assert found.log.read_bytes() == b"one\ntwo\n"

    def test_a_killed_worker_takes_nothing_with_it(self, bench: Bench) -> None:
        launch = bench.launch("print('one')\n" + UNTIL_GO + "print('two')\n")
        bench.prepare(launch)
        start_and_die(bench, launch)
        (found,) = bench.make().find()
        assert bench.make().poll(found) is None
        (found.directory / "workspace" / "go").touch()
        assert bench.end(found) == Exit(exit_code=0)
        assert found.log.read_bytes() == b"one\ntwo\n"

    def test_starting_an_attempt_again_gives_the_same_one(self, bench: Bench) -> None:
        launch = bench.launch("print('once')\n" + UNTIL_GO)
        bench.prepare(launch)
        first = bench.make().start(launch)
        second = bench.make().start(launch)
        assert first == second
        assert bench.make().find() == [first]
        (launch.workspace / "go").touch()
        assert bench.end(first) == Exit(exit_code=0), first.log.read_bytes()
        assert first.log.read_bytes() == b"once\n"

    def test_two_attempts_do_not_mix(self, bench: Bench) -> None:
        one, two = (bench.start(UNTIL_GO + "import sys\nprint(sys.argv[1])", word) for word in ("one", "two"))
        assert len(bench.make().find()) == 2
        for handle in (one, two):
            (handle.directory / "workspace" / "go").touch()
        assert bench.end(one) == bench.end(two) == Exit(exit_code=0)
        assert (one.log.read_bytes(), two.log.read_bytes()) == (b"one\n", b"two\n")

    def test_a_removed_attempt_is_forgotten(self, bench: Bench) -> None:
        handle = bench.start(UNTIL_GO)
        bench.make().remove(handle)
        assert bench.make().find() == []
        bench.make().remove(handle)
        assert handle.directory.exists()

    def test_it_says_what_it_is(self, bench: Bench) -> None:
        runtime = bench.make()
        runtime.check()
        assert runtime.describe()["runtime"] == runtime.name


class TestRequirements:
    SOURCE = "import sys, tiny\nprint(tiny.ANSWER, sys.prefix != sys.base_prefix)\n"

    def test_are_installed_once(self, bench: Bench) -> None:
        for _ in range(2):
            exit, output = bench.run(self.SOURCE, requirements="tiny==1.0\n")
            assert (exit, output) == (Exit(exit_code=0), b"42 True\n")
        assert bench.progress == []

    def test_that_do_not_exist_fail_by_name(self, bench: Bench) -> None:
        launch = bench.launch(self.SOURCE, requirements="no-such-package-of-ours==7\n")
        with pytest.raises(EnvironmentFailed, match="no-such-package-of-ours") as caught:
            bench.prepare(launch)
        assert caught.value.release_class is None
        assert "\n" not in str(caught.value)
        assert b"no-such-package-of-ours" in (launch.io / "log").read_bytes()
        assert list((bench.home / "cache" / "environments").glob("*.partial")) == []

    def test_wait_for_an_index_that_does_not_answer(self, bench: Bench, worker_variables: dict[str, str]) -> None:
        del worker_variables["UV_OFFLINE"]
        address = "http://someone:password7@127.0.0.1:9/simple"
        worker_variables.update(PIP_INDEX_URL=address, UV_HTTP_RETRIES="0", UV_HTTP_TIMEOUT="5")
        launch = bench.launch(self.SOURCE, requirements="another-package\n")
        with pytest.raises(IndexUnavailable, match="Connection refused") as caught:
            bench.prepare(launch)
        assert caught.value.release_class == "environment"
        assert "password7" not in str(caught.value) + (launch.io / "log").read_text()

    def test_are_given_up_when_nobody_wants_them(self, bench: Bench) -> None:
        launch = bench.launch(self.SOURCE, requirements="tiny==1.0\n")
        with pytest.raises(Cancellation):
            bench.make().prepare(launch, bench.progress.append, lambda: True)
        assert list((bench.home / "cache" / "environments").glob("*.partial")) == []


def start_and_die(bench: Bench, launch: Launch) -> None:
    """Start the attempt in a process that is killed right afterwards."""
    source = """
        import os, pickle, sys
        runtime, launch = pickle.load(sys.stdin.buffer)
        runtime.start(launch)
        os.kill(os.getpid(), 9)
    """
    data = pickle.dumps((bench.make(), launch))
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], input=data, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
