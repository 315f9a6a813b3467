"""A real browser for tests, and the web page in a process of its own that it looks at."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

#: Nothing leaves the machine, and nothing is kept.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)

#: Serves one store's page on a free port and says where; argv: the store's directory.
_SERVER = """
import sys
from pathlib import Path
from studio_celery.celery import app
from studio_celery.client import Client
from studio_celery.settings import Settings
from studio_celery.store import Store
from studio_celery.web import serve
from studio_celery.world import World

home, host, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = Settings(home=home, ui_host=host, ui_port=port, owner="alice")
world = World("memory://", str(home / "store"), "the test")
client = Client(app, settings, world, Store(world.store_url))
serve(client, settings, lambda url: print(f"ready {url}", flush=True))
"""


def start_page(home: Path, host: str = "127.0.0.1", port: int = 0) -> subprocess.Popen[str]:
    """The page of the store in `home` as a process, just started."""
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(home), host, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ready_url(server: subprocess.Popen[str]) -> str:
    """Where it answers, once it does."""
    assert server.stdout is not None
    line = server.stdout.readline().strip()
    assert line.startswith("ready http://"), f"{line!r}: {server.communicate(timeout=60)[1]}"
    return line.removeprefix("ready ")


@contextmanager
def running_page(home: Path, port: int = 0) -> Iterator[str]:
    """The URL of that page, served as long as the context lasts."""
    with start_page(home, port=port) as server:
        try:
            yield ready_url(server)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.communicate(timeout=60)
            finally:
                server.kill()


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """Debian's Chromium on a profile of its own; skips where it is missing, fails where that is in CI."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        reason = "Chromium or its driver is not installed (apt-get install chromium chromium-driver)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    options = ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    window = Chrome(options=options, service=Service(driver))
    try:
        yield window
    finally:
        window.quit()
