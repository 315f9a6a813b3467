"""The main job on real input: a broker, a worker, one experiment, followed from its submission to its end.

Everything it makes is in `.demo` of this checkout; everything it starts, it stops.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
IMAGE = "studio-python:debian"
QUEUE = "demo"


def main() -> int:
    """Run the demo; the exit code is that of the experiment."""
    os.chdir(ROOT)
    os.environ["STUDIO_HOME"] = str(ROOT / ".demo")
    for name in ("STUDIO_STORE", "STUDIO_BROKER_URL", "STUDIO_CONFIG"):
        os.environ.pop(name, None)
    choose_runtime()
    with started("studio", "broker", "--port", "0") as broker:
        os.environ["STUDIO_BROKER_URL"] = f"pubsub://{ready(broker)}/studio"
        say(f"Broker at {os.environ['STUDIO_BROKER_URL']}.")
        with started("studio-start-remote-worker", QUEUE, "--detach-on-stop", quiet=True):
            return run_experiment()


def choose_runtime() -> None:
    """Docker where an engine answers, with an image that can be had; else a plain process, which is said."""
    problem = engine_problem()
    if problem:
        say(f"No Docker engine here ({problem}): the experiment runs as a plain process (STUDIO_RUNTIME=process).")
        os.environ["STUDIO_RUNTIME"] = "process"
        return
    os.environ["STUDIO_RUNTIME"] = "docker"
    default = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    if not can_have(default):
        say(f"The image {default} cannot be pulled here: one is made from Debian's packages.")
        if subprocess.run([ROOT / "scripts" / "docker-image", IMAGE]).returncode:
            say("No image can be had here: the experiment runs as a plain process (STUDIO_RUNTIME=process).")
            os.environ["STUDIO_RUNTIME"] = "process"
            return
        os.environ["STUDIO_IMAGE"] = IMAGE
    say("The experiment runs in a Docker container.")


def engine_problem() -> str | None:
    """Why no engine can be used, in a few words."""
    import docker

    try:
        client = docker.from_env(timeout=10)
        try:
            client.ping()
        finally:
            client.close()
    except docker.errors.DockerException as exc:
        return str(exc).split("(")[0].strip().rstrip(":")
    return None


def can_have(image: str) -> bool:
    """Whether the engine has the image or can pull it."""
    import docker

    client = docker.from_env(timeout=600)
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        say(f"Pulling {image} …")
        try:
            client.images.pull(image)
        except docker.errors.APIError:
            return False
    finally:
        client.close()
    return True


def run_experiment() -> int:
    """Submit, follow, show."""
    say(f"studio-runner --queue {QUEUE} examples/digits.py --epochs 20")
    submit = ["--queue", QUEUE, "--name", "digits", "--workspace", "examples", "examples/digits.py", "--epochs", "20"]
    submitted = subprocess.run([BIN / "studio-runner", *submit], stdout=subprocess.PIPE, text=True)
    if submitted.returncode:
        return submitted.returncode
    experiment = submitted.stdout.strip()
    say(f"studio logs -f {experiment}")
    code = subprocess.run([BIN / "studio", "logs", "-f", experiment]).returncode
    say(f"studio show {experiment}")
    subprocess.run([BIN / "studio", "show", experiment], check=True)
    say(f"studio artifacts {experiment} -o .demo/artifacts")
    subprocess.run([BIN / "studio", "artifacts", experiment, "-o", ".demo/artifacts"], check=True)
    return code


@contextmanager
def started(command: str, *args: str, quiet: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process of ours, stopped at the end; a quiet one's output goes to a file in `.demo`."""
    folder = ROOT / ".demo"
    folder.mkdir(exist_ok=True)
    with (folder / f"{command}.log").open("w") as log:
        process = subprocess.Popen(
            [BIN / command, *args],
            stdout=log if quiet else subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)
            if process.stdout:
                process.stdout.close()


def ready(process: subprocess.Popen[str]) -> str:
    """The address in the line that says it is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("ready "):
        raise SystemExit("The broker did not start: see .demo/studio.log.")
    return line.split()[1]


def say(text: str) -> None:
    """A line of the demo itself."""
    print(f"\n==> {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
