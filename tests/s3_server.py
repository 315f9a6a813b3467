"""A real S3 server for tests: moto's, where it is installed (in this environment or anywhere on the path)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

from studio import wait_for


def find_moto() -> str | None:
    """Moto's server, if there is one that runs."""
    beside = Path(sys.executable).parent
    found = shutil.which("moto_server", path=os.pathsep.join([str(beside), os.environ.get("PATH", "")]))
    works = found and subprocess.run([found, "--help"], capture_output=True, check=False, timeout=60).returncode == 0
    return found if works else None


@contextmanager
def s3_server(moto: str) -> Iterator[str]:
    """The endpoint of a server that runs meanwhile."""
    with tempfile.NamedTemporaryFile(prefix="moto-") as said:
        process = subprocess.Popen(
            [moto, "-H", "127.0.0.1", "-p", "0"],  # a port of its own choice, which nobody else can take meanwhile
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )

        def endpoint() -> str | None:
            text = Path(said.name).read_text()
            assert process.poll() is None, f"moto has ended: {text}"
            found = re.search(r"Running on (http://127\.0\.0\.1:\d+)\s", text)
            return found and found[1]

        try:
            yield wait_for("moto's start", endpoint)
        finally:
            process.kill()  # it has nothing to save
            process.wait()


def new_bucket(endpoint: str) -> str:
    """The name of a bucket that was just made."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT"), timeout=60).close()
    return name


def variables(endpoint: str) -> dict[str, str]:
    """What a process must have in its environment to use the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


@contextmanager
def in_thread(server: ThreadingHTTPServer) -> Iterator[None]:
    """Serve from a thread: for what stands between a store and its S3 server."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join(30)
