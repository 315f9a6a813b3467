"""Every page over a real store: what it shows, what it refuses, and that everything is escaped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from studio_celery.celery import app as celery_app
from studio_celery.client import Client
from studio_celery.experiment import Experiment, new_id, utc_now
from studio_celery.journal import Kind
from studio_celery.settings import Settings
from studio_celery.store import Journal, Store
from studio_celery.web import create_app
from studio_celery.web.output import TAIL
from studio_celery.world import World

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"


class Site:
    """A store, and its page as a browser without JavaScript sees it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = Store(str(home / "store"))
        settings = Settings(home=home, owner="alice")
        client = Client(celery_app, settings, World("memory://", self.store.url, "the test"), self.store)
        self.app = create_app(client, settings)
        self.browser: FlaskClient = self.app.test_client()

    def submit(self, **fields: Any) -> Journal:
        """A waiting experiment."""
        values = {"id": new_id(), "queue": "gpu", "script": "train.py", "workspace": "0" * 64, **fields}
        experiment = Experiment(submitted_at=utc_now(), owner="alice", **values)
        journal = self.store.submit(experiment, "alice")
        journal.decide(Kind.QUEUED, "alice")
        return journal

    def run(self, journal: Journal, log: bytes = b"") -> None:
        """Begin the next attempt; it prints `log`."""
        number = len(journal.state.attempts) + 1
        assert journal.decide(Kind.CLAIMED, "worker-1", attempt=number, host="gpu01", gpus=["GPU-7"])
        assert journal.decide(Kind.STARTED, "worker-1", epoch=journal.state.owner_epoch)
        self.write(journal, log)

    def write(self, journal: Journal, log: bytes) -> None:
        """All that the latest attempt printed so far."""
        path = self.home / "log"
        path.write_bytes(log)
        attempt = journal.state.attempts[-1]
        self.store.log_writer(journal.experiment_id, attempt.number, attempt.epoch, 0).copy(path)

    def end(self, journal: Journal, kind: Kind = Kind.FINISHED, **data: Any) -> None:
        """End the attempt and the experiment."""
        assert journal.decide(kind, "worker-1", epoch=journal.state.owner_epoch, **data)

    def keep(self, journal: Journal, tag: str, path: str, content: bytes) -> None:
        """Store an artifact of the latest attempt."""
        source = self.home / "artifact"
        source.write_bytes(content)
        self.store.put_artifact(journal.experiment_id, len(journal.state.attempts), tag, path, source)

    def get(self, path: str, code: int = 200) -> str:
        """A page's text."""
        answer = self.browser.get(path)
        assert answer.status_code == code, answer.text
        return answer.text

    def page(self, journal: Journal, below: str = "", code: int = 200) -> str:
        """Text of an experiment's page, or of what lies below it."""
        return self.get(f"/experiments/{journal.experiment_id}{below}", code)

    def log(self, journal: Journal, offset: int, attempt: int) -> dict[str, Any]:
        """What the page's script is told."""
        found: dict[str, Any] = json.loads(self.page(journal, f"/log?offset={offset}&attempt={attempt}"))
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    return Site(tmp_path)


# -- the list ----------------------------------------------------------------------------------------------------------


def test_an_empty_list_says_what_to_type(site: Site) -> None:
    assert "studio-runner --queue default script.py" in site.get("/")


def test_the_list_shows_each_experiment_the_latest_first(site: Site) -> None:
    first = site.submit(name="first", args=("--lr", "0.1"))
    second = site.submit(name="second")
    text = site.get("/")
    assert text.index("second") < text.index("first")
    assert f'href="/experiments/{second.experiment_id}"' in text
    assert "train.py --lr 0.1" in text
    assert first.experiment_id[:13] in text


def test_the_list_can_be_narrowed_to_a_state(site: Site) -> None:
    site.run(site.submit(name="busy"))
    site.submit(name="idle")
    text = site.get("/?status=running")
    assert "busy" in text
    assert "idle" not in text
    assert "No experiment is expired." in site.get("/?status=expired")


def test_a_long_list_has_a_link_to_more(site: Site) -> None:
    for number in range(3):
        site.submit(name=f"number-{number}")
    text = site.get("/?limit=2")
    assert "number-0" not in text
    assert "limit=52" in text
    assert "Show more" not in site.get("/?limit=3")


@pytest.mark.parametrize("query", ["status=submitting", "status=%3Cscript%3E", "limit=0", "limit=-1", "limit=x"])
def test_a_query_that_means_nothing_is_refused_in_a_sentence(site: Site, query: str) -> None:
    text = site.get(f"/?{query}", 400)
    assert "That cannot be done" in text
    assert "<script>" not in text


def test_the_fragment_is_the_list_alone(site: Site) -> None:
    site.submit(name="only")
    text = site.get("/table")
    assert "only" in text
    assert "<html" not in text


# -- one experiment ----------------------------------------------------------------------------------------------------


def test_the_page_shows_what_the_record_holds(site: Site) -> None:
    journal = site.submit(name="big", project="vision", image="pytorch:2", args=("--x", "a b"))
    site.run(journal, b"epoch 1\n")
    site.end(journal, Kind.FAILED, reason="exit code 3", exit_code=3)
    text = site.page(journal)
    for shown in ("big", "vision", "pytorch:2", "train.py --x &#39;a b&#39;", "gpu01", "worker-1", "GPU-7", "epoch 1"):
        assert shown in text
    assert "exit code 3" in text
    assert '<span class="badge failed">failed</span>' in text


def test_a_unique_prefix_or_a_name_leads_to_the_page(site: Site) -> None:
    journal = site.submit(name="baseline")
    for reference in ("baseline", journal.experiment_id[:13]):
        answer = site.browser.get(f"/experiments/{reference}")
        assert answer.status_code == 302
        assert answer.location == f"/experiments/{journal.experiment_id}"


def test_the_heartbeat_of_a_live_attempt_is_shown(site: Site) -> None:
    journal = site.submit()
    site.run(journal)
    site.store.heartbeat(journal.experiment_id, 1, {})
    assert re.search(r'data-label="Heartbeat"[^>]*><time', site.page(journal, "/state"))


@pytest.mark.parametrize(
    "reference", ["nothing", "..", "%2e%2e", "a%00b", "a%2Fb", "%F0%9F%99%82", "x" * 300, "%3Cscript%3Ealert(1)"]
)
def test_an_unknown_experiment_is_a_page_that_says_so(site: Site, reference: str) -> None:
    for below in ("", "/state", "/log", "/log.txt", "/artifacts/a/b"):
        text = site.get(f"/experiments/{reference}{below}", 404)
        assert "Not found" in text
        assert "<script>alert" not in text


# -- output ------------------------------------------------------------------------------------------------------------


def test_the_page_holds_the_output_without_javascript(site: Site) -> None:
    journal = site.submit()
    site.run(journal, b"\x1b[32mgreen\x1b[0m\n 10%\r 50%")
    text = site.page(journal)
    assert '<span class="text">green\n</span><span class="line"> 50%</span>' in text
    assert 'data-attempt="1" data-offset="15"' in text


def test_output_arrives_from_the_byte_where_the_reader_is(site: Site) -> None:
    journal = site.submit()
    site.run(journal, "one\nzw\u00f6l".encode()[:-2])
    first = site.log(journal, 0, 1)
    assert (first["text"], first["offset"], first["ended"]) == ("one\n", 4, False)
    site.write(journal, "one\nzw\u00f6lf\n".encode())
    second = site.log(journal, first["offset"], 1)
    assert (second["text"], second["line"]) == ("zw\u00f6lf\n", "")
    site.end(journal)
    assert site.log(journal, second["offset"], 1)["ended"]


def test_a_character_across_two_chunks_of_the_store_is_whole(site: Site) -> None:
    log = b"x" * (16 * 1024 - 1) + "漢字\n".encode() + b"y\n"
    journal = site.submit()
    site.run(journal, log)
    offset, text = 0, ""
    while (part := site.log(journal, offset, 1))["text"]:
        offset, text = part["offset"], text + part["text"]
    assert text == log.decode()


def test_an_end_without_a_newline_is_told(site: Site) -> None:
    journal = site.submit()
    site.run(journal, b"bye\xe6")
    assert site.log(journal, 0, 1)["line"] == "bye\ufffd"
    site.end(journal)
    part = site.log(journal, 0, 1)
    assert (part["text"], part["line"], part["offset"]) == ("bye\ufffd", "", 4)
    assert site.log(journal, 4, 1)["ended"]


def test_a_new_attempt_begins_anew(site: Site) -> None:
    journal = site.submit()
    site.run(journal, b"first attempt\n")
    assert journal.decide(Kind.LOST, "worker-2", attempt=1, reason="worker lost")
    site.run(journal, b"second\n")
    part = site.log(journal, 14, 1)
    assert (part["attempt"], part["text"], part["offset"]) == (2, "second\n", 7)
    assert site.page(journal, "/log.txt?attempt=1") == "first attempt\n"
    assert site.page(journal, "/log.txt") == "second\n"


def test_before_the_first_attempt_there_is_nothing_and_no_end(site: Site) -> None:
    journal = site.submit()
    assert site.log(journal, 0, 0) == {
        "attempt": 0, "offset": 0, "text": "", "line": "", "more": False, "ended": False, "skipped": 0,
    }  # fmt: skip
    assert site.page(journal, "/log.txt") == ""


def test_only_the_end_of_a_long_output_is_in_the_page(site: Site) -> None:
    journal = site.submit()
    log = b"".join(b"line %07d\n" % number for number in range(200_000))
    site.run(journal, log)
    text = site.page(journal)
    assert "line 0199999\n" in text
    assert "line 0000000\n" not in text
    assert len(text) < TAIL + 20_000
    assert "are not shown here" in text
    shown = re.search(r'<span class="text">(line \d{7}\n)', text)
    assert shown


def test_the_raw_log_is_exact(site: Site) -> None:
    log = bytes(range(256)) * 1000 + os.urandom(100_000)
    journal = site.submit()
    site.run(journal, log)
    answer = site.browser.get(f"/experiments/{journal.experiment_id}/log.txt")
    assert answer.data == log
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "query", ["offset=-1", "offset=x", "offset=999999999999999", "attempt=9&offset=0", "attempt=²"]
)
def test_a_place_that_no_output_has_is_refused_or_begins_anew(site: Site, query: str) -> None:
    journal = site.submit()
    site.run(journal, b"text\n")
    answer = site.browser.get(f"/experiments/{journal.experiment_id}/log?{query}")
    if "attempt=9" in query:
        assert answer.get_json()["text"] == "text\n"
    else:
        assert answer.status_code == 400


def test_a_raw_log_of_no_attempt_is_refused(site: Site) -> None:
    journal = site.submit()
    site.run(journal)
    assert "There is no attempt 9" in site.page(journal, "/log.txt?attempt=9", 400)


# -- artifacts ---------------------------------------------------------------------------------------------------------


def test_artifacts_are_listed_and_downloaded(site: Site) -> None:
    journal, content = site.submit(), os.urandom(300_000)
    site.run(journal)
    site.keep(journal, "model", "deep/weights 100%?.pt", content)
    site.end(journal)
    text = site.page(journal)
    link = re.search(r'href="([^"]+/artifacts/[^"]+)"', text)
    assert link
    assert "293 KiB" in text
    answer = site.browser.get(link[1])
    assert answer.data == content
    assert answer.content_length == len(content)
    assert answer.headers["Content-Disposition"] == 'attachment; filename="weights 100%_.pt"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Type"] == "application/octet-stream"


def test_a_hostile_artifact_is_saved_and_never_shown(site: Site) -> None:
    journal = site.submit()
    site.run(journal)
    site.keep(journal, "output", "<img src=x onerror=alert(1)>.html", b"<script>alert(1)</script>")
    text = site.page(journal)
    assert "<img" not in text
    link = re.search(r'href="([^"]+/artifacts/[^"]+)"', text)
    assert link
    answer = site.browser.get(link[1])
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment;")


@pytest.mark.parametrize(
    "key", ["model/other", "../log/000003-000000", "..%2f..%2fjournal/000001.json", "model", "a//b"]
)
def test_only_what_is_listed_can_be_downloaded(site: Site, key: str) -> None:
    journal = site.submit()
    site.run(journal, b"secret")
    site.keep(journal, "model", "weights.pt", b"w")
    assert "secret" not in site.page(journal, f"/artifacts/{key}", 404)


# -- stopping ----------------------------------------------------------------------------------------------------------


def token(text: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', text)
    assert found
    return found[1]


def test_the_button_asks_for_a_stop(site: Site) -> None:
    journal = site.submit()
    site.run(journal)
    path = f"/experiments/{journal.experiment_id}"
    answer = site.browser.post(f"{path}/stop", data={"csrf_token": token(site.page(journal))})
    assert (answer.status_code, answer.location) == (303, path)
    assert journal.refresh().stop_requested_by == "alice"
    text = site.page(journal)
    assert "stop requested by <bdi>alice</bdi>" in text
    assert "<form" not in text


def test_what_waits_is_stopped_at_once(site: Site) -> None:
    journal = site.submit()
    site.browser.post(f"/experiments/{journal.experiment_id}/stop", data={"csrf_token": token(site.page(journal))})
    text = site.page(journal)
    assert "stopped by alice" in text
    assert "<form" not in text


@pytest.mark.parametrize("data", [{}, {"csrf_token": "guessed"}])
def test_without_the_token_nothing_is_stopped(site: Site, data: dict[str, str]) -> None:
    journal = site.submit()
    site.page(journal)
    answer = site.browser.post(f"/experiments/{journal.experiment_id}/stop", data=data)
    assert answer.status_code == 400
    assert "reload the page" in answer.text
    assert journal.refresh().stop_requested_by is None


def test_the_token_of_another_browser_is_refused(site: Site) -> None:
    journal = site.submit()
    site.page(journal)
    other = site.app.test_client()
    foreign = token(other.get(f"/experiments/{journal.experiment_id}").text)
    answer = site.browser.post(f"/experiments/{journal.experiment_id}/stop", data={"csrf_token": foreign})
    assert answer.status_code == 400
    assert journal.refresh().stop_requested_by is None


def test_reading_changes_nothing(site: Site) -> None:
    journal = site.submit()
    site.run(journal, b"text\n")
    before = len(site.store.journal(journal.experiment_id).refresh().attempts), journal.state.seq
    assert site.page(journal, "/stop", 405)
    for below in ("", "/state", "/log", "/log.txt"):
        site.page(journal, below)
    state = site.store.journal(journal.experiment_id).refresh()
    assert (len(state.attempts), state.seq) == before


def test_a_stop_that_comes_too_late_says_so(site: Site) -> None:
    journal = site.submit()
    site.run(journal)
    page = site.page(journal)
    site.end(journal)
    answer = site.browser.post(f"/experiments/{journal.experiment_id}/stop", data={"csrf_token": token(page)})
    assert answer.status_code == 409
    assert "nothing to stop" in answer.text


# -- strangers ---------------------------------------------------------------------------------------------------------


def test_everything_that_others_wrote_is_escaped(site: Site) -> None:
    journal = site.submit(name=HOSTILE, script=HOSTILE, args=(HOSTILE,), project=HOSTILE, group=HOSTILE, image=HOSTILE)
    assert journal.decide(Kind.CLAIMED, HOSTILE, attempt=1, host=HOSTILE, gpus=[HOSTILE])
    assert journal.decide(Kind.STARTED, HOSTILE, epoch=journal.state.owner_epoch)
    site.write(journal, HOSTILE.encode() + b"</span></pre>\n" + HOSTILE.encode())
    site.keep(journal, "output", '"><svg onload=alert(1)>', b"")
    assert journal.decide(Kind.STOP_REQUESTED, HOSTILE)
    live = [site.get("/"), site.page(journal), site.page(journal, "/state")]
    site.end(journal, Kind.FAILED, reason=HOSTILE)
    for text in (*live, site.get("/table"), site.page(journal)):
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "<svg onload" not in text
        assert "&lt;script&gt;alert(1)" in text
        assert "{{7*7}}" in text


def test_arguments_that_are_no_text_are_shown_all_the_same(site: Site) -> None:
    journal = site.submit(args=("caf\udce9",), name="\udcff")
    assert "caf\ufffd" in site.get("/")
    assert "caf\ufffd" in site.page(journal)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8640", "[::1]:8640", "LOCALHOST:1"])
def test_loopback_names_are_answered(site: Site, host: str) -> None:
    assert site.browser.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8640", "localhost@evil", "[", "a b"]
)
def test_foreign_names_are_refused(site: Site, host: str) -> None:
    journal = site.submit(name="private")
    for path in ("/", f"/experiments/{journal.experiment_id}", "/static/studio.css", "/nowhere"):
        answer = site.browser.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert "private" not in answer.text


def test_every_answer_forbids_foreign_content(site: Site) -> None:
    journal = site.submit()
    base = f"/experiments/{journal.experiment_id}"
    for path in ("/", base, f"{base}/log", f"{base}/log.txt", "/nowhere", "/?limit=x", "/static/studio.js"):
        with site.browser.get(path) as answer:
            headers = answer.headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


def test_pages_have_no_inline_script_or_style_and_nothing_from_elsewhere(site: Site) -> None:
    journal = site.submit()
    site.run(journal)
    for text in (site.get("/"), site.page(journal), site.get("/nowhere", 404)):
        assert not re.search(r"<script(?![^>]* src=\"/static/)|<style|\sstyle=|\son\w+=|javascript:|https?://", text)


def test_the_cookie_is_for_this_site_only(site: Site) -> None:
    journal = site.submit()
    cookie = site.browser.get(f"/experiments/{journal.experiment_id}").headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "content"),
    [("000001", "{"), ("000003", json.dumps({"schema": 1, "kind": "unheard of", "by": "x", "at": "y"}))],
)
def test_a_journal_that_cannot_be_read_is_said_to_be_so(site: Site, number: str, content: str) -> None:
    journal = site.submit()
    entry = site.home / "store" / "experiments" / journal.experiment_id / "journal" / f"{number}.json"
    entry.write_text(content)
    text = site.page(journal, code=500)
    assert f"{number}.json, which is not readable" in text
    assert "No connection" not in text
    assert "Traceback" not in text


def test_a_defect_is_a_page_without_its_details(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("unheard of")

    journal = site.submit()
    monkeypatch.setattr(Client, "show", fail)
    text = site.page(journal, code=500)
    assert "unheard of" not in text
    assert "Traceback" not in text


def test_an_unknown_page_is_a_page(site: Site) -> None:
    assert "Not found" in site.get("/nowhere", 404)
