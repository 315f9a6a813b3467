"""The page in a real browser: it is alive without a reload, stops experiments, and shows hostile text as text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, running_page
from ports import kept_port
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from studio import wait_for

from studio_celery.experiment import Experiment, new_id, utc_now
from studio_celery.journal import Kind
from studio_celery.store import Journal, Store

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script><b id=injected>"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with running_page(tmp_path) as found:
        yield found


class Script:
    """An experiment, and what its worker writes about it."""

    def __init__(self, home: Path, **fields: Any) -> None:
        self.store = Store(str(home / "store"))
        values = {"id": new_id(), "queue": "gpu", "script": "train.py", "workspace": "0" * 64, **fields}
        experiment = Experiment(submitted_at=utc_now(), owner="alice", **values)
        self.id = experiment.id
        self.journal: Journal = self.store.submit(experiment, "alice")
        self.journal.decide(Kind.QUEUED, "alice")
        self._output = home / f"{self.id}.log"

    def start(self) -> None:
        """Begin the next attempt."""
        number = len(self.journal.refresh().attempts) + 1
        assert self.journal.decide(Kind.CLAIMED, "worker-1", attempt=number, host="gpu01", gpus=[])
        assert self.journal.decide(Kind.STARTED, "worker-1", epoch=self.journal.state.owner_epoch)
        self._output.write_bytes(b"")
        epoch = self.journal.state.owner_epoch
        assert epoch is not None
        self._writer = self.store.log_writer(self.id, number, epoch, 0)

    def print(self, text: bytes) -> None:
        """Add to the output."""
        with self._output.open("ab") as file:
            file.write(text)
        self._writer.copy(self._output)

    def lose(self) -> None:
        """The worker is gone."""
        number = len(self.journal.state.attempts)
        assert self.journal.decide(Kind.LOST, "worker-2", attempt=number, reason="worker lost: no heartbeat for 1m")

    def finish(self) -> None:
        """End well."""
        assert self.journal.decide(Kind.FINISHED, "worker-1", epoch=self.journal.refresh().owner_epoch, exit_code=0)


def sees(window: Chrome, selector: str, text: str) -> None:
    """Wait until the element shows the text."""

    script = "return [...document.querySelectorAll(arguments[0])].some((e) => e.textContent.includes(arguments[1]))"
    wait_for(f"{text!r} in {selector}", lambda: window.execute_script(script, selector, text))


def found(window: Chrome, selector: str) -> list[Any]:
    return list(window.find_elements(By.CSS_SELECTOR, selector))


def token(window: Chrome) -> str:
    """What the form on the page would send."""
    return str(found(window, "input[name=csrf_token]")[0].get_attribute("value"))


def loads(window: Chrome) -> int:
    """How often a page was loaded that carried the mark."""
    return int(window.execute_script("return window.mark || 0"))


def test_from_the_list_to_the_end_without_a_reload(window: Chrome, url: str, tmp_path: Path) -> None:
    window.get(url)
    sees(window, ".empty", "studio-runner --queue")
    window.execute_script("window.mark = 1")
    script = Script(tmp_path, name="first run")
    sees(window, "#experiments", "first run")
    sees(window, "#experiments .badge", "waiting")
    assert loads(window) == 1

    found(window, f'a[href="/experiments/{script.id}"]')[0].click()
    sees(window, "h1", "first run")
    window.execute_script("window.mark = 2")
    sees(window, "#head .badge", "waiting")
    script.start()
    sees(window, "#head .badge", "running")
    sees(window, "#attempts", "gpu01")

    def work() -> None:
        for epoch in range(200):
            script.print(f"epoch {epoch} – zwölf\n".encode())
        script.print(b"\x1b[32m 10%\x1b[0m\r 5")

    thread = threading.Thread(target=work)
    thread.start()
    sees(window, "#log", "epoch 0 – zwölf\n")
    thread.join()
    sees(window, "#log .line", " 50%"[:2])
    script.print(b"0%\rdone\n")
    sees(window, "#log .text", "epoch 199 – zwölf\ndone\n")
    assert (
        window.execute_script(
            "const b = document.getElementById('log'); return b.scrollHeight - b.scrollTop - b.clientHeight"
        )
        < 24
    )

    (tmp_path / "weights").write_bytes(b"weights")
    script.store.put_artifact(script.id, 1, "model", "weights.pt", tmp_path / "weights")
    script.finish()
    sees(window, "#head .badge", "finished")
    sees(window, "#artifacts a", "model/weights.pt")
    assert found(window, "#artifacts a")[0].get_attribute("href").endswith("/artifacts/model/weights.pt")
    assert not found(window, "#stop")
    assert "finished" in window.title
    log = [f"epoch {epoch} – zwölf\n" for epoch in range(200)]
    assert found(window, "#log")[0].get_property("textContent") == "".join(log) + "done\n"
    assert loads(window) == 2


def test_a_reader_who_scrolled_up_stays_there(window: Chrome, url: str, tmp_path: Path) -> None:
    script = Script(tmp_path)
    script.start()
    script.print(b"".join(b"line %d\n" % number for number in range(300)))
    window.get(f"{url}/experiments/{script.id}")
    sees(window, "#log", "line 299")
    window.execute_script("document.getElementById('log').scrollTop = 100")
    script.print(b"one more\n")
    sees(window, "#log", "one more")
    assert window.execute_script("return document.getElementById('log').scrollTop") == 100


def test_the_button_stops(window: Chrome, url: str, tmp_path: Path) -> None:
    script = Script(tmp_path)
    script.start()
    window.get(f"{url}/experiments/{script.id}")
    found(window, "#stop")[0].click()
    sees(window, "#head .badge", "stop requested")
    assert not found(window, "#stop")
    assert script.journal.refresh().stop_requested_by == "alice"


def test_the_button_works_after_the_page_was_brought_up_to_date(window: Chrome, url: str, tmp_path: Path) -> None:
    script = Script(tmp_path)
    window.get(f"{url}/experiments/{script.id}")
    script.start()
    sees(window, "#head .badge", "running")
    found(window, "#stop")[0].click()
    sees(window, "#head .badge", "stop requested")


def test_a_new_attempt_begins_anew_with_a_divider(window: Chrome, url: str, tmp_path: Path) -> None:
    script = Script(tmp_path)
    script.start()
    script.print(b"of the first\n")
    window.get(f"{url}/experiments/{script.id}")
    sees(window, "#log", "of the first")
    script.lose()
    sees(window, "#attempts .badge", "lost")
    script.start()
    script.print(b"of the second\n")
    sees(window, "#log", "of the second")
    assert found(window, "#log .divider")[0].text == "attempt 2"
    assert "of the first" not in found(window, "#log")[0].text


def test_after_a_gap_the_output_goes_on_where_it_was(window: Chrome, tmp_path: Path) -> None:
    script = Script(tmp_path)
    script.start()
    script.print(b"before\n")
    with kept_port() as port:
        with running_page(tmp_path, port) as url:
            window.get(f"{url}/experiments/{script.id}")
            sees(window, "#log", "before")
            old = token(window)
        wait_for("the remark", lambda: found(window, "#contact")[0].is_displayed())
        script.print(b"meanwhile\n")
        with running_page(tmp_path, port):
            sees(window, "#log", "before\nmeanwhile\n")
            wait_for("the end of the remark", lambda: not found(window, "#contact")[0].is_displayed())
            assert found(window, "#log")[0].get_property("textContent") == "before\nmeanwhile\n"
            # The new process has a new key, so the form needs a new token; it comes by itself.
            wait_for("a new token", lambda: token(window) != old)
            found(window, "#stop")[0].click()
            sees(window, "#head .badge", "stop requested")


def test_hostile_text_is_shown_as_text(window: Chrome, url: str, tmp_path: Path) -> None:
    script = Script(tmp_path, name=HOSTILE, args=(HOSTILE,), project=HOSTILE)
    script.start()
    script.print(HOSTILE.encode() + b"\n")
    (tmp_path / "file").write_bytes(b"x")
    script.store.put_artifact(script.id, 1, "output", HOSTILE, tmp_path / "file")
    window.get(url)
    sees(window, "#experiments", HOSTILE)
    _assert_harmless(window)
    window.get(f"{url}/experiments/{script.id}")
    sees(window, "#log", HOSTILE)
    script.print(b"live " + HOSTILE.encode() + b"\n")
    assert script.journal.decide(
        Kind.RELEASED, "w", epoch=script.journal.state.owner_epoch, reason=HOSTILE, **{"class": "disk"}
    )
    sees(window, "#log", "live " + HOSTILE)
    sees(window, "#head .reason", HOSTILE)
    sees(window, "#artifacts", HOSTILE)
    _assert_harmless(window)


def _assert_harmless(window: Chrome) -> None:
    assert not found(window, "img")
    assert not found(window, "#injected")
    with pytest.raises(NoAlertPresentException):
        _ = window.switch_to.alert
    assert [entry for entry in window.get_log("browser") if "Content Security Policy" in entry["message"]] == []


def test_nothing_is_asked_of_anybody_else(window: Chrome, url: str, tmp_path: Path) -> None:
    script = Script(tmp_path)
    for path in ("/", f"/experiments/{script.id}"):
        window.get(url + path)
        asked = window.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert asked
        assert all(name.startswith(f"{url}/") for name in asked)


def test_a_narrow_window_needs_no_sideways_scrolling(window: Chrome, url: str, tmp_path: Path) -> None:
    script = Script(tmp_path, name="n" * 120, args=("--path", "/very/long" * 30))
    script.start()
    script.print(b"w" * 500 + b"\n")
    window.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        for path in ("/", f"/experiments/{script.id}"):
            window.get(url + path)
            assert window.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        window.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
