"""The one door to the Docker SDK: plain data in and out, and every failure is one of ours.

Nothing outlives a call: a client costs a millisecond, so none is shared between threads or taken into a fork, and there
is nothing to close.
"""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import docker
import requests
from docker.errors import APIError, DockerException

from studio_celery.errors import EngineUnavailable, RuntimeFailure

#: How long the engine may take to answer what is not a wait by itself.
ANSWER_SECONDS = 60.0

#: Where the engine is if nothing says otherwise.
DEFAULT_HOST = "unix:///var/run/docker.sock"


class Refused(RuntimeFailure):
    """The engine answered, and said no."""

    def __init__(self, status: int, explanation: str) -> None:
        super().__init__(f"Docker refused: {explanation.strip().rstrip('.')}.")
        self.status = status
        self.explanation = explanation


class Engine:
    """A Docker engine, wherever the worker's environment says it is."""

    def __init__(self, host: str | None, variables: Mapping[str, str]) -> None:
        self._variables = {**variables, "DOCKER_HOST": host} if host else dict(variables)
        self._version: str | None = None

    def info(self) -> dict[str, Any]:
        """What the engine says of itself and its host."""
        with self._client() as client:
            return cast(dict[str, Any], client.info())

    def run_id(self) -> str | None:
        """Changes whenever the engine is started (the default bridge is made anew); None if it cannot be told."""
        with self._client() as client, _absent_is_none():
            return cast(str, client.api.inspect_network("bridge")["Id"])
        return None

    def image(self, name: str) -> dict[str, Any] | None:
        """The image as `docker image inspect` shows it, or None if it is not on this host."""
        with self._client() as client, _absent_is_none():
            return cast(dict[str, Any], client.api.inspect_image(name))
        return None

    def pull(self, name: str, silence_seconds: float) -> Generator[dict[str, Any], None, None]:
        """Pull an image; yields what the engine tells about it. Closing the iterator ends the pull."""
        repository, tag = docker.utils.parse_repository_tag(name)
        with self._client(silence_seconds) as client:
            stream = client.api.pull(repository, tag=tag or "latest", stream=True, decode=True)
            for event in stream:
                if "error" in event:
                    raise Refused(0, event["error"])
                yield event

    def create(self, **arguments: Any) -> str:
        """Create a container, and return its id."""
        with self._client() as client:
            return cast(str, client.containers.create(**arguments).id)

    def start(self, container: str) -> None:
        """Start it."""
        with self._client() as client:
            client.api.start(container)

    def inspect(self, container: str) -> dict[str, Any] | None:
        """The container as `docker inspect` shows it, or None if there is none."""
        with self._client() as client, _absent_is_none():
            return cast(dict[str, Any], client.api.inspect_container(container))
        return None

    def containers(self, label: str) -> list[dict[str, Any]]:
        """All containers with a label, in whatever state, as `docker ps` shows them."""
        with self._client() as client:
            return cast(list[dict[str, Any]], client.api.containers(all=True, filters={"label": label}))

    def wait(self, container: str, seconds: float) -> bool:
        """Wait for its end, at most so long; whether it has ended."""
        with self._client() as client:
            try:
                client.api.wait(container, timeout=max(seconds, 0.1))
            except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
                return False  # also when the engine died: whatever is asked next will say so
            except docker.errors.NotFound:
                return True
        return True

    def kill(self, container: str, signal: str) -> None:
        """Send a signal to its first process; one that does not run any more is fine."""
        with self._client() as client:
            try:
                client.api.kill(container, signal)
            except APIError as exc:
                if exc.status_code not in (404, 409):
                    raise

    def output(self, container: str) -> bytes:
        """What it printed."""
        with self._client() as client:
            return cast(bytes, client.api.logs(container))

    def remove(self, container: str) -> None:
        """Kill and remove it with its anonymous volumes; one that is not there is fine."""
        with self._client() as client:
            try:
                client.api.remove_container(container, v=True, force=True)
            except APIError as exc:
                if exc.status_code not in (404, 409):  # 409: is being removed
                    raise

    @contextmanager
    def _client(self, seconds: float = ANSWER_SECONDS) -> Iterator[Any]:
        """A client for one call."""
        _knock(self._variables.get("DOCKER_HOST") or DEFAULT_HOST)
        try:
            client = docker.from_env(environment=self._variables, version=self._version or "auto", timeout=seconds)
        except (DockerException, requests.exceptions.RequestException) as exc:
            raise _unavailable(exc) from exc
        try:
            self._version = client.api.api_version
            yield client
        except APIError as exc:
            raise Refused(exc.status_code or 0, str(exc.explanation or exc)) from exc
        except (DockerException, requests.exceptions.RequestException, OSError) as exc:
            raise _unavailable(exc) from exc
        finally:
            client.close()


def _knock(host: str) -> None:
    """Fail early and cleanly where nobody listens: the SDK leaves the socket of a failed connection open."""
    scheme, _, path = host.partition("://")
    if scheme != "unix":
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocking:
        knocking.settimeout(ANSWER_SECONDS)
        try:
            knocking.connect(path)
        except OSError as exc:
            raise _unavailable(exc) from exc


@contextmanager
def _absent_is_none() -> Iterator[None]:
    try:
        yield
    except docker.errors.NotFound:
        return


def _unavailable(exc: Exception) -> EngineUnavailable:
    """The innermost cause in one sentence."""
    cause: BaseException = exc
    while isinstance(cause.__context__, BaseException):
        cause = cause.__context__
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return EngineUnavailable(
        f"The Docker engine does not answer ({text}): start it, or set DOCKER_HOST to one that this user may use."
    )
