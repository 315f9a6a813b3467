"""The one door to `uv`: which binary, which of the worker's settings it gets, and what its output means."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import uv

from studio_celery.cache import Cache
from studio_celery.errors import EnvironmentFailed, IndexUnavailable, RuntimeFailure
from studio_celery.runtimes.contract import Cancellation, Cancelled

#: Settings of `uv` that say where packages come from and how; paths of the worker are not among them.
UV_SETTINGS = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|INDEX_STRATEGY|INDEX_\w+_(USERNAME|PASSWORD)|INSECURE_HOST"
    r"|NATIVE_TLS|SYSTEM_CERTS|HTTP_\w+|REQUEST_TIMEOUT|CONCURRENT_\w+|PRERELEASE|RESOLUTION|EXCLUDE_NEWER|NO_BUILD"
    r"|NO_BUILD_PACKAGE|NO_BINARY|NO_BINARY_PACKAGE|TORCH_BACKEND|LINK_MODE|OFFLINE|COMPILE_BYTECODE)"
)

#: Where `uv` has another name for what `pip` calls so.
PIP_SETTINGS = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
}

#: Proxies; both spellings are in use.
PROXY_SETTINGS = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)

#: Variables that name a file with certificates to trust, the most specific first.
CERTIFICATE_SETTINGS = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")

#: How the output of `uv` shows that the index, not the requirement, is at fault.
UNREACHABLE = re.compile(
    r"Failed to (fetch|download)|error sending request|dns error|tcp connect error|[Cc]ould ?n[o']t (connect|resolve)"
    r"|operation timed out|HTTP status server error|unable to access"
)

#: The index answered, and has no such thing.
ABSENT = re.compile(r"404 Not Found")

#: Longest reason that is shown; the whole output is in the log.
REASON_CHARACTERS_MAX = 600

#: Kind of programs in the cache.
TOOLS = "tools"

#: How long fetching `uv` itself may take.
FETCH_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """How an installation went."""

    exit_code: int
    output: bytes = b""

    def failure(self) -> RuntimeFailure:
        """What to raise for it."""
        text = redact(self.output).decode("utf-8", "replace")
        if UNREACHABLE.search(text) and not ABSENT.search(text):
            return IndexUnavailable(f"The requirements cannot be fetched: {reason(text)}")
        return EnvironmentFailed(f"The requirements cannot be installed: {reason(text)}")


def reason(text: str) -> str:
    """The sentence in the output of `uv` that says why: the error, its causes, the last line of a failed build."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("error:")]
    tail = lines[errors[-1] :] if errors else lines[-1:]
    parts = [line.partition(": ")[2] for line in tail if line.startswith(("error:", "cause:"))]
    if tail and not tail[-1].startswith(("error:", "cause:", "hint:", "^")):
        parts.append(tail[-1])
    sentence = ": ".join(part.rstrip(":.") for part in parts) or "uv said nothing"
    return f"{sentence[:REASON_CHARACTERS_MAX]}."


def redact(output: bytes) -> bytes:
    """The output without passwords in URLs."""
    return re.sub(rb"(\w://)[^/\s@'\"]+@", rb"\1****@", output)


def index_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The worker's index and proxy settings, in the words of `uv`."""
    chosen = {name: value for name, value in variables.items() if UV_SETTINGS.fullmatch(name) and value}
    for theirs, ours in PIP_SETTINGS.items():
        if variables.get(theirs) and not (theirs == "PIP_INDEX_URL" and "UV_INDEX_URL" in chosen):
            chosen.setdefault(ours, variables[theirs])
    chosen.update({name: variables[name] for name in PROXY_SETTINGS if variables.get(name)})
    return {**chosen, "NO_COLOR": "1", "UV_NO_PROGRESS": "1", "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never"}


def wheel_directories(variables: Mapping[str, str]) -> list[Path]:
    """Local directories with wheels, which the worker names besides the index."""
    text = variables.get("UV_FIND_LINKS", "").replace(",", " ") or variables.get("PIP_FIND_LINKS", "")
    return [Path(part) for part in text.split() if part.startswith("/") and Path(part).is_dir()]


def certificates(variables: Mapping[str, str]) -> Path | None:
    """The file with certificates that the worker trusts, if it names one."""
    for name in CERTIFICATE_SETTINGS:
        if variables.get(name) and Path(variables[name]).is_file():
            return Path(variables[name]).resolve()
    return None


def source_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """All settings that say where packages come from, for a `uv` on this host."""
    chosen, trusted, wheels = index_variables(variables), certificates(variables), wheel_directories(variables)
    if trusted:
        chosen["SSL_CERT_FILE"] = str(trusted)
    if wheels:
        chosen["UV_FIND_LINKS"] = ",".join(map(str, wheels))
    return chosen


def run_uv(arguments: Sequence[str], variables: Mapping[str, str], cancelled: Cancelled) -> Outcome:
    """Run the worker's own `uv` to its end; raise `Cancellation` when nobody wants it any more."""
    with tempfile.TemporaryFile() as output:
        command = [uv.find_uv_bin(), *arguments]
        try:
            child = subprocess.Popen(
                command, env=dict(variables), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        except OSError as exc:
            raise RuntimeFailure(f"uv cannot be started: {exc}.") from exc
        with child:
            while child.poll() is None:
                if cancelled():
                    child.kill()
                    raise Cancellation
                _wait(child, seconds=0.2)
        output.seek(0)
        return Outcome(child.returncode, output.read())


def _wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def container_uv(cache: Cache, variables: Mapping[str, str], cancelled: Cancelled, held: ExitStack) -> Path:
    """A `uv` for containers: the static build, fetched once; where it cannot be had, our own, which needs glibc.

    It is kept at least as long as `held` is open.
    """
    version = metadata.version("uv")

    def fetch(partial: Path) -> Path:
        target, kept = partial / "target", partial / "kept"
        arguments = ["pip", "install", "--target", str(target), "--python", sys.executable, "--no-deps"]
        arguments += ["--python-platform", f"{platform.machine()}-unknown-linux-musl", f"uv=={version}"]
        settings = {**source_variables(variables), "HOME": str(partial)}
        deadline = time.monotonic() + FETCH_SECONDS
        if not _fetched(arguments, settings, cancelled, deadline) or not _runs(target / "bin" / "uv"):
            raise _NotToBeHad
        kept.mkdir()
        (target / "bin" / "uv").chmod(0o755)
        return (target / "bin" / "uv").rename(kept / "uv").parent

    try:
        return held.enter_context(cache.place(TOOLS, f"uv-{version}").hold(fetch, cancelled=cancelled)) / "uv"
    except _NotToBeHad:
        return Path(uv.find_uv_bin())


class _NotToBeHad(Exception):
    """The static build cannot be fetched, or does not run here."""


def _fetched(arguments: Sequence[str], variables: Mapping[str, str], cancelled: Cancelled, deadline: float) -> bool:
    try:
        return run_uv(arguments, variables, lambda: cancelled() or time.monotonic() > deadline).exit_code == 0
    except Cancellation:
        if cancelled():
            raise
        return False


def _runs(binary: Path) -> bool:
    try:
        return subprocess.run([binary, "--version"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
