"""Cards: what there is, and who holds it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import create_autospec

import pynvml
import pytest

from studio_celery.errors import SettingsError
from studio_celery.gpus import Cards, Reservation, detect, lost, parse


def nobody() -> set[str]:
    return set()


@pytest.mark.parametrize(
    ("setting", "ids"),
    [
        ("0,1", ("0", "1")),
        (" 2 , GPU-8f6d-01 ", ("2", "GPU-8f6d-01")),
        ("none", ()),
        ("", ()),
        ("MIG-3:1", ("MIG-3:1",)),
    ],
)
def test_a_setting_names_cards(setting: str, ids: tuple[str, ...]) -> None:
    assert parse(setting) == ids


@pytest.mark.parametrize("setting", ["0,0", "0,none", "all", "../x", "0;1", "-1"])
def test_a_wrong_setting_is_refused(setting: str) -> None:
    with pytest.raises(SettingsError, match="cannot be used"):
        parse(setting)


def test_without_a_driver_there_are_no_cards(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this host has cards")
    assert detect() == Cards(None, tmp_path).ids == ()


def test_all_or_nothing_is_reserved(tmp_path: Path) -> None:
    cards = Cards("0,1,2", tmp_path)
    with cards.reserve(2, nobody) or pytest.fail("nothing was reserved") as first:
        assert first.ids == ("0", "1")
        assert cards.reserve(2, nobody) is None
        with cards.reserve(1, nobody) or pytest.fail("nothing was reserved") as second:
            assert second.ids == ("2",)
    with cards.reserve(3, nobody) or pytest.fail("nothing was reserved") as all_of_them:
        assert all_of_them.ids == ("0", "1", "2")


def test_released_twice_is_released_once(tmp_path: Path) -> None:
    reservation = Cards("0", tmp_path).reserve(1, nobody)
    assert reservation is not None
    reservation.release()
    reservation.release()


def test_cards_of_living_containers_are_not_given_away(tmp_path: Path) -> None:
    cards = Cards("0,1", tmp_path)
    assert cards.reserve(2, lambda: {"0"}) is None
    with cards.reserve(1, lambda: {"0"}) or pytest.fail("nothing was reserved") as reservation:
        assert reservation.ids == ("1",)


def test_an_adopted_attempt_keeps_its_cards(tmp_path: Path) -> None:
    cards = Cards("0,1,2", tmp_path)
    with cards.reserve_exactly(["2", "0"]) or pytest.fail("nothing was reserved") as reservation:
        assert reservation.ids == ("2", "0")
        assert Cards("0,1,2", tmp_path).reserve_exactly(["1", "0"]) is None
        with cards.reserve(1, nobody) or pytest.fail("nothing was reserved") as other:
            assert other.ids == ("1",)


def test_another_process_holds_its_cards_until_it_is_killed(tmp_path: Path) -> None:
    source = """
import pathlib, sys
from studio_celery.gpus import Cards
kept = Cards("0,1", pathlib.Path(sys.argv[1])).reserve(1, set)
print(*kept.ids, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", source, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"0\n"
        cards = Cards("0,1", tmp_path)
        assert cards.reserve(2, nobody) is None
        other.kill()
    with cards.reserve(2, nobody) or pytest.fail("nothing was reserved") as both:
        assert both.ids == ("0", "1")


def test_threads_never_share_a_card(tmp_path: Path) -> None:
    cards = Cards("0,1,2,3", tmp_path)
    start, found = threading.Barrier(8), list[Reservation | None]()

    def take() -> None:
        start.wait()
        found.append(cards.reserve(1, nobody))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [reservation for reservation in found if reservation]
    assert sorted(card for reservation in held for card in reservation.ids) == ["0", "1", "2", "3"]
    for reservation in held:
        reservation.release()


def test_a_failing_question_leaves_nothing_locked(tmp_path: Path) -> None:
    cards = Cards("0", tmp_path)

    def fail() -> set[str]:
        raise RuntimeError("the engine is dead")

    with pytest.raises(RuntimeError, match="dead"):
        cards.reserve(1, fail)
    with cards.reserve(1, nobody) or pytest.fail("nothing was reserved") as reservation:
        assert reservation.ids == ("0",)


class Driver:
    """NVML with some cards of which some are lost: no real one can be had where tests run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, **lost: int) -> None:
        self.count, self.lost = count, {int(name.removeprefix("card")): code for name, code in lost.items()}
        for name in ("nvmlInit", "nvmlShutdown"):
            monkeypatch.setattr(pynvml, name, create_autospec(getattr(pynvml, name)))
        by_index = create_autospec(pynvml.nvmlDeviceGetHandleByIndex, side_effect=self.handle)
        by_uuid = create_autospec(pynvml.nvmlDeviceGetHandleByUUID, side_effect=lambda u: self.handle(int(u[4:])))
        uuid = create_autospec(pynvml.nvmlDeviceGetUUID, side_effect=lambda handle: f"GPU-{self.answer(handle)}")
        memory = create_autospec(pynvml.nvmlDeviceGetMemoryInfo, side_effect=self.answer)
        monkeypatch.setattr(
            pynvml, "nvmlDeviceGetCount", create_autospec(pynvml.nvmlDeviceGetCount, return_value=count)
        )
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", by_index)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_uuid)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", uuid)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory)

    def handle(self, index: int) -> int:
        if index >= self.count:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    def answer(self, handle: int) -> int:
        if handle in self.lost:
            raise pynvml.NVMLError(self.lost[handle])
        return handle


def test_a_card_that_fell_off_the_bus_is_lost_and_not_given_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = Cards("0,1,2", tmp_path)
    Driver(monkeypatch, 3, card1=pynvml.NVML_ERROR_GPU_IS_LOST)
    assert lost(["0", "1", "GPU-1", "GPU-2", "MIG-1"]) == ("1", "GPU-1")
    assert lost(["3"]) == ("3",)
    assert lost([]) == ()
    with cards.reserve(2, set) or pytest.fail("none was free") as reservation:
        assert reservation.ids == ("0", "2")
        assert cards.reserve(1, set) is None


def test_a_lost_card_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch, 3, card1=pynvml.NVML_ERROR_GPU_IS_LOST)
    assert detect() == ("0", "2")


def test_a_card_that_says_something_else_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch, 1, card0=pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert lost(["0"]) == ()


def test_without_a_driver_nothing_is_lost() -> None:
    assert lost(["0", "1"]) == ()
