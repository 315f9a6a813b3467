"""How much of requests a client may send, given what is kept."""

from __future__ import annotations

from transports.local.http2.credit import BUSY_BYTES, MAX_KEPT_BYTES, Credit
from transports.local.http2.windows import CONNECTION_WINDOW_BYTES

MB = 1 << 20


class Upload:
    """A large message, and how much of it was let in."""

    def __init__(self) -> None:
        self.allowed = 0

    def allow(self, size_bytes: int) -> None:
        self.allowed += size_bytes


class Bench:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.credit = Credit(self.sent.append)

    def come(self, size_bytes: int) -> None:
        """Receive in frames of a megabyte, as far as the window goes."""
        for _ in range(size_bytes // MB):
            self.credit.receive(MB)


def test_the_window_is_opened_again_as_long_as_methods_have_little_to_do() -> None:
    bench = Bench()
    for _ in range(4):
        bench.come(CONNECTION_WINDOW_BYTES)
        bench.credit.keep(CONNECTION_WINDOW_BYTES)  # of messages that are not complete
    assert bench.sent


def test_it_stays_as_it_is_while_they_have_much_and_until_they_have_less() -> None:
    bench = Bench()
    bench.credit.lend(BUSY_BYTES + 1)
    bench.come(CONNECTION_WINDOW_BYTES)
    assert bench.sent == []
    bench.credit.redeem(1)
    (update,) = bench.sent
    assert int.from_bytes(update[-4:], "big") == CONNECTION_WINDOW_BYTES


def test_too_much_is_told() -> None:
    credit = Bench().credit
    assert credit.keep(MAX_KEPT_BYTES - 1)
    assert credit.lend(1)
    assert not credit.keep(1)


class TestLargeMessages:
    def test_they_come_one_after_the_other_when_there_is_no_room_for_all(self) -> None:
        credit, uploads = Bench().credit, [Upload() for _ in range(5)]
        for each in uploads:
            credit.ask(each, BUSY_BYTES // 2)
        assert [each.allowed > 0 for each in uploads] == [True, True, False, False, False]
        credit.settle(uploads[0], BUSY_BYTES // 2)
        credit.settle(uploads[3], 0)  # it has gone
        credit.settle(uploads[2], BUSY_BYTES // 2)
        assert [each.allowed > 0 for each in uploads] == [True, True, True, False, True]

    def test_what_methods_are_at_work_on_takes_room(self) -> None:
        credit, upload = Bench().credit, Upload()
        credit.lend(BUSY_BYTES)
        credit.ask(upload, MB)
        assert not upload.allowed
        credit.redeem(BUSY_BYTES)
        assert upload.allowed == MB
