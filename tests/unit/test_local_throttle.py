"""Log lines that would come with every request."""

from __future__ import annotations

import logging

import pytest

from transports.local import throttle
from transports.local.throttle import LogThrottle

logger = logging.getLogger(__name__)


class TestThrottle:
    def test_of_each_kind_the_first_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        lines = LogThrottle(logger, logging.ERROR)
        for each in range(100):
            lines.log("disk", f"disk {each}")
            lines.log("door", f"door {each}")
        assert [(each.levelname, each.message) for each in caplog.records] == [("ERROR", "disk 0"), ("ERROR", "door 0")]

    def test_the_next_one_says_how_many_there_were(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = LogThrottle(logger, logging.WARNING)
        monkeypatch.setattr(throttle, "QUIET_SECONDS", -1.0)
        lines.log("disk", "one")
        monkeypatch.setattr(throttle, "QUIET_SECONDS", 60.0)
        for text in ("two", "three", "four"):
            lines.log("disk", text)
        lines._kinds["disk"].next_log = 0.0
        lines.log("disk", "five")
        assert caplog.messages == ["one", "two", "five (2 more since the last such line)"]

    def test_kinds_that_others_choose_are_not_kept_without_end(self) -> None:
        lines = LogThrottle(logger, logging.DEBUG)
        for each in range(5000):
            lines.log(str(each), "x")
        assert len(lines._kinds) <= 1000
