"""Time that never goes back."""

from __future__ import annotations

import time

import pytest

from transports.local.clock import Clock, now_us

HOUR_US = 3_600_000_000


def test_it_is_the_machines_time() -> None:
    before = now_us()
    assert before <= Clock().now_us() <= now_us()


def test_when_the_machines_clock_is_set_back_time_goes_on_and_when_it_is_set_forward_time_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, passed_us = Clock(), 0
    began_us, real, real_monotonic = clock.now_us(), time.time_ns, time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: real_monotonic() + passed_us * 1000)
    monkeypatch.setattr(time, "time_ns", lambda: real() - HOUR_US * 1000)
    found = clock.now_us()
    assert began_us <= found < began_us + HOUR_US // 2
    passed_us = 60_000_000
    assert clock.now_us() >= found + passed_us
    monkeypatch.setattr(time, "time_ns", lambda: real() + HOUR_US * 1000)
    assert clock.now_us() >= began_us + HOUR_US


def test_it_takes_up_the_time_of_another() -> None:
    least_us = now_us() + HOUR_US
    assert least_us <= Clock(least_us).now_us() < least_us + HOUR_US // 2
