"""The one door to the Docker SDK: plain data in and out, and every failure is one of ours.

All threads of a process share one client and its few connections, which are closed when nobody has the `Engine` any
more. None is taken into a fork: an `Engine` is made per process. Only a pull has a client of its own, which its end
closes with the pull.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, cast

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException, StreamParseError
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool

from studio_celery.errors import EngineUnavailable, RuntimeFailure
from studio_celery.runtimes.docker.silence import Silence

#: How long the engine may take to answer what is not a wait by itself.
ANSWER_SECONDS = 60.0

#: Where the engine is if nothing says otherwise.
DEFAULT_HOST = "unix:///var/run/docker.sock"

#: Connections that are kept; more are opened only while more threads ask at the same time.
CONNECTIONS_MAX = 64

#: In the words of an engine that was replaced by one of another version.
OTHER_VERSION = "client version"

#: How the SDK calls a socket.
_SCHEME = "http+docker://"


#: Exceptions of the SDK and of what it is made of.
_FOREIGN = (
    DockerException,
    StreamParseError,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    HTTPException,
    OSError,
)


#: Those of an engine that said nothing for too long, before its answer and within.
_SILENT = (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError)


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
        self._host = self._variables.get("DOCKER_HOST") or DEFAULT_HOST
        self._shared: Any = None
        #: Held while a connection is made, which a hung engine makes long, and while another takes its place.
        self._connecting, self._lock = threading.Lock(), threading.Lock()
        self._silence = Silence()

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
        with self._own_client(silence_seconds) as client:
            # The SDK waits for a pull without end, whatever its client's timeout is.
            post = client.api.post
            client.api.post = lambda url, **options: post(url, **{**options, "timeout": silence_seconds})
            try:
                for event in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
                    if "error" in event:
                        raise Refused(0, event["error"])
                    yield event
            except _SILENT as exc:
                raise EngineUnavailable(
                    f"Nothing was heard of pulling {name} for {silence_seconds:g} s: look at its registry and engine."
                ) from exc

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
    def _client(self) -> Iterator[Any]:
        """The shared client for one call."""
        client = self._connected()
        try:
            with _failures():
                yield client
        except RuntimeFailure as exc:
            if isinstance(exc, EngineUnavailable) or OTHER_VERSION in str(exc):
                self._forget(client)  # the next engine here may speak another version
            raise

    @contextmanager
    def _own_client(self, seconds: float) -> Iterator[Any]:
        """A client for one call that may be cut short; `seconds` of silence are the end of it, too."""
        client = self._connect(seconds)
        try:
            with _failures():
                yield client
        finally:
            client.close()

    def _connected(self) -> Any:
        """The shared client; made by one, while the others wait for what becomes of it."""
        since, shared = time.monotonic(), self._shared
        if shared is not None:
            return shared
        with self._connecting:
            shared = self._shared
            if shared is None:
                self._silence.tell(since)
                with self._silence.asking():
                    shared = self._connect(ANSWER_SECONDS)
                if self._host.startswith("unix://"):
                    _use_one_pool(shared.api, self._host)
                with self._lock:
                    self._shared = shared
            return shared

    def _connect(self, seconds: float) -> Any:
        _knock(self._host)
        with _failures():
            return docker.from_env(environment=self._variables, timeout=seconds)

    def _forget(self, client: Any) -> None:
        with self._lock:
            if self._shared is client:
                self._shared = None


class _Connection(UnixHTTPConnection):
    """The SDK's own leaves its socket open where nobody listens."""

    def connect(self) -> None:
        """Connect, or leave nothing."""
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.settimeout(self.timeout)
            connecting.connect(self.unix_socket)
        except OSError:
            connecting.close()
            raise
        self.sock = connecting


class _Pool(UnixHTTPConnectionPool):
    """Connections to one engine."""

    def _new_conn(self) -> Any:
        return _Connection(self.base_url, self.socket_path, self.timeout)


class _OnePool(UnixHTTPAdapter):
    """The SDK's own has a pool for each URL and closes the oldest ones, also under a thread that is about to ask."""

    def __init__(self, host: str) -> None:
        super().__init__(host.replace("unix://", "http+unix://", 1), ANSWER_SECONDS)
        self._pool = _Pool(_SCHEME, self.socket_path, self.timeout, maxsize=CONNECTIONS_MAX)

    def get_connection(self, url: str, proxies: Mapping[str, str] | None = None) -> Any:
        """The same connections for every URL."""
        return self._pool


def _use_one_pool(client: Any, host: str) -> None:
    client.get_adapter(_SCHEME).close()
    client.mount(_SCHEME, _OnePool(host))


@contextmanager
def _failures() -> Iterator[None]:
    """Every failure of the SDK as one of ours."""
    try:
        yield
    except APIError as exc:
        raise Refused(exc.status_code or 0, str(exc.explanation or exc)) from exc
    except _FOREIGN as exc:
        raise _unavailable(exc) from exc


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
    while isinstance(cause.__context__, _FOREIGN):  # beyond it may be what our caller is busy with
        cause = cause.__context__
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return EngineUnavailable(
        f"The Docker engine does not answer ({text}): start it, or set DOCKER_HOST to one that this user may use."
    )
