"""The output in the store: where its bytes lie, how few objects it takes, and who reads what while it changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_store import Chance, Fault, Faults, faulty_store
from hypothesis import given, settings
from hypothesis import strategies as st

from studio_celery.errors import StoreError
from studio_celery.experiment import Attempt
from studio_celery.store import LogReader, LogWriter, Objects, Store
from studio_celery.store.logs import LAST_CHUNK, PARTS, chunk_at, chunk_limit
from studio_celery.supervisor.holes import punch

MIB = 2**20


class Counting(Objects):
    """Keeps no bytes, only how many there are where, so that a gigabyte of output costs nothing."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.most = 0
        self.written = 0

    def put(self, key: str, data: bytes | Path) -> None:
        assert isinstance(data, bytes)
        self.sizes[key] = len(data)
        self.most = max(self.most, len(self.sizes))
        self.written += len(data)

    def delete(self, key: str) -> None:
        self.sizes.pop(key, None)

    def delete_all(self, keys: object) -> None:
        assert isinstance(keys, list)
        for key in keys:
            self.delete(key)


def attempt(*epochs: tuple[int, int]) -> Attempt:
    return Attempt(number=1, epoch=epochs[-1][0], claimed_seq=1, worker="w", host="h", log_epochs=epochs)


def read_all(reader: LogReader, whose: Attempt, limit: int = 70_000) -> bytes:
    data = b""
    while piece := reader.read(whose, len(data), limit):
        data += piece
    return data


@given(st.integers(0, 2**40))
def test_every_byte_has_one_place(offset: int) -> None:
    chunk = chunk_at(offset)
    part = chunk.part_at(offset)
    assert chunk.begin <= part.begin <= offset < part.end <= chunk.end
    assert chunk.end - chunk.begin == chunk_limit(chunk.number)
    assert part.number < PARTS
    assert chunk_at(chunk.end).begin == chunk.end
    assert chunk_at(chunk.end).number == chunk.number + 1


@pytest.fixture
def holes_are_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without content stand for output that nobody has to write."""
    monkeypatch.setattr("studio_celery.store.logs._hole", lambda descriptor, begin: os.fstat(descriptor).st_size)


@pytest.mark.usefixtures("holes_are_output")
@pytest.mark.parametrize("step", [3 * MIB + 17, 300 * MIB])
def test_a_log_of_a_gigabyte_needs_few_objects_at_any_time(tmp_path: Path, step: int) -> None:
    """Written slowly or at a stretch: 64 and one for each 16 MiB, also before the parts of a chunk are joined."""
    source, objects = tmp_path / "log", Counting()
    writer = LogWriter(objects, "log", 3, 0)
    size = 0
    while size < 2**30:
        size = min(2**30, size + step)
        with source.open("ab") as file:
            file.truncate(size)
        writer.copy(source)
        assert len(objects.sizes) <= 64 + size // LAST_CHUNK
    assert objects.most <= 64 + size // LAST_CHUNK
    assert writer.offset == size
    assert objects.written < 3 * size


@pytest.mark.usefixtures("holes_are_output")
def test_a_slow_log_is_not_stored_again_and_again(tmp_path: Path) -> None:
    """A line every half second for a week comes to chunks of 16 MiB: each look may store a part of it, not all."""
    source, objects = tmp_path / "log", Counting()
    source.touch()
    os.truncate(source, 200 * MIB)
    writer = LogWriter(objects, "log", 3, 0)
    writer.copy(source)
    objects.written, looks = 0, 2000
    for look in range(looks):
        os.truncate(source, 200 * MIB + 10_000 * (look + 1))
        writer.copy(source)
    assert 0 < objects.written / looks < 1.1 * MIB


@pytest.mark.usefixtures("holes_are_output")
def test_many_owners_of_a_log_cost_few_objects(tmp_path: Path) -> None:
    source, objects = tmp_path / "log", Counting()
    source.touch()
    offset, epochs = 0, 20
    for epoch in range(epochs):
        os.truncate(source, (epoch + 1) * 20 * MIB + 1000)
        writer = LogWriter(objects, "log", epoch, offset)
        writer.copy(source)
        offset = writer.offset
    assert offset == epochs * 20 * MIB + 1000
    assert len(objects.sizes) <= 64 + offset // LAST_CHUNK + 17 * (epochs - 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400_000), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 10_000),
)
def test_an_output_reads_back_over_owners_and_faults_of_the_store(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bool]], seed: int
) -> None:
    """Errors before and after a write; after some pieces a new owner goes on where the store says."""
    folder, faults = tmp_path_factory.mktemp("log"), Faults()
    store, source = faulty_store(str(folder / "store"), faults), folder / "log"
    faults.set_chance(Chance(seed=seed, error=0.2, lost=0.2))
    epochs, writer = [(3, 0)], store.log_writer("e", 1, 3, 0)
    for size, adopted in pieces:
        with source.open("ab") as file:
            file.write(os.urandom(size))
        _again(lambda writer=writer: writer.copy(source))  # type: ignore[misc]
        if adopted:
            offset = _again(lambda: store.log_reader("e", attempt(*epochs)).stored(attempt(*epochs)))
            epochs.append((epochs[-1][0] + 1, offset))
            writer = store.log_writer("e", 1, *epochs[-1])
    faults.heal()
    assert read_all(store.log_reader("e", attempt(*epochs)), attempt(*epochs)) == source.read_bytes()


def _again(ask):  # type: ignore[no-untyped-def]
    while True:
        try:
            return ask()
        except StoreError:
            continue


def test_a_reader_who_comes_when_a_chunk_is_being_joined_misses_nothing(tmp_path: Path) -> None:
    """Between its two looks, at the part and at the whole, the whole is stored and the part goes."""
    store, source = Store(str(tmp_path / "store")), tmp_path / "log"
    chunk = next(c for c in _chunks() if c.part_bytes < c.end - c.begin)
    source.write_bytes(os.urandom(chunk.end - 10))
    writer = store.log_writer("e", 1, 3, 0)
    writer.copy(source)
    keys = [item.key for item in store.objects.listing("experiments/e/attempts/1/log") if "." in item.key]
    assert keys
    head, asked = store.objects.head, []

    def joined_meanwhile(key: str) -> object:
        try:
            return head(key)
        finally:
            if not asked:
                asked.append(key)
                with source.open("ab") as file:
                    file.write(b"0123456789")
                writer.copy(source)

    store.objects.head = joined_meanwhile  # type: ignore[method-assign,assignment]
    whose = attempt((3, 0))
    read = store.log_reader("e", whose).read(whose, chunk.begin, 100)
    assert read == source.read_bytes()[chunk.begin : chunk.begin + 100]
    left = [item.key for item in store.objects.listing("experiments/e/attempts/1/log") if "." in item.key]
    assert left == []


def _chunks() -> Iterator:  # type: ignore[type-arg]
    offset = 0
    while True:
        chunk = chunk_at(offset)
        yield chunk
        offset = chunk.end


def test_parts_that_could_not_be_removed_go_later(tmp_path: Path) -> None:
    faults = Faults()
    store, source = faulty_store(str(tmp_path / "store"), faults), tmp_path / "log"
    source.write_bytes(b"x" * 4 * MIB)
    writer = store.log_writer("e", 1, 3, 0)
    writer.copy(source)
    with source.open("ab") as file:
        file.write(b"x" * MIB)
    faults.add(Fault("error", method="delete_all", times=1))
    with pytest.raises(StoreError):
        writer.copy(source)
    assert faults.hits()
    writer.copy(source)
    whose = attempt((3, 0))
    assert read_all(store.log_reader("e", whose), whose) == b"x" * 5 * MIB
    closed = chunk_at(5 * MIB).number
    parts = [key for item in store.objects.listing("experiments/e/attempts/1/log") if "." in (key := item.key)]
    assert all(f"-{closed:06d}." in key for key in parts)


@pytest.mark.usefixtures("holes_are_output")
def test_a_copy_ends_at_its_limit_however_fast_the_file_grows(tmp_path: Path) -> None:
    source, objects = tmp_path / "log", Counting()
    source.touch()
    os.truncate(source, 2**30)
    writer = LogWriter(objects, "log", 3, 0)
    assert 16 * MIB <= writer.copy(source, 16 * MIB) < 32 * MIB


def test_what_may_be_freed_is_never_read_again(tmp_path: Path) -> None:
    store, source = Store(str(tmp_path / "store")), tmp_path / "log"
    writer = store.log_writer("e", 1, 3, 0)
    whole = b""
    for _ in range(30):
        whole += os.urandom(300_000)
        source.write_bytes(b"\0" * writer.needed_from + whole[writer.needed_from :])
        writer.copy(source)
    whose = attempt((3, 0))
    assert writer.needed_from > 0
    assert read_all(store.log_reader("e", whose), whose) == whole


def test_a_file_that_was_cut_short_stops_the_copy_and_spoils_nothing(tmp_path: Path) -> None:
    store, source = Store(str(tmp_path / "store")), tmp_path / "log"
    source.write_bytes(b"a" * 300_000)
    writer = store.log_writer("e", 1, 3, 0)
    writer.copy(source)
    source.write_bytes(b"b" * 10)
    assert writer.copy(source) == 0
    whose = attempt((3, 0))
    assert read_all(store.log_reader("e", whose), whose) == b"a" * 300_000


def test_a_hole_is_the_end_of_the_output_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A script may lengthen the file of its output to 8 TiB at no cost; what is appended after that is not found."""
    store, source = Store(str(tmp_path / "store")), tmp_path / "log"
    source.write_bytes(b"a" * 300_000)
    writer = store.log_writer("e", 1, 3, 0)
    writer.copy(source)
    os.truncate(source, 2**43)
    with source.open("ab") as file:
        file.write(b"after")
    for _ in range(3):
        writer.copy(source, MIB)
    whose = attempt((3, 0))
    data = read_all(store.log_reader("e", whose), whose)
    assert data.rstrip(b"\0") == b"a" * 300_000
    assert len(data) < 300_000 + MIB
    assert [record.message.count("which the script made") for record in caplog.records] == [1]
    assert store.log_writer("e", 1, 4, len(data)).copy(source) == 0


def test_what_was_freed_before_a_byte_is_no_hole_in_the_output(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Freed to a byte in the middle of a block, again and again, while the file grows."""
    store, source = Store(str(tmp_path / "store")), tmp_path / "log"
    writer, whole = store.log_writer("e", 1, 3, 0), b""
    for _ in range(40):
        whole += (data := os.urandom(100_003))
        with source.open("ab") as file:
            file.write(data)
        writer.copy(source)
        with source.open("rb+") as file:
            punch(file.fileno(), writer.needed_from)
    whose = attempt((3, 0))
    assert writer.needed_from > 0
    assert read_all(store.log_reader("e", whose), whose) == whole
    assert caplog.records == []


def test_bytes_are_kept_as_they_are(tmp_path: Path) -> None:
    """Progress bars, colours, bytes that are no text, a line of a megabyte, no newline at the end."""
    store, source = Store(str(tmp_path / "store")), tmp_path / "log"
    output = b"10%\r20%\r\x1b[31mred\x1b[0m\n\xff\xfe\x00\n" + b"x" * MIB + b"\nlast"
    writer = store.log_writer("e", 1, 3, 0)
    for begin in range(0, len(output), 99_991):
        with source.open("ab") as file:
            file.write(output[begin : begin + 99_991])
        writer.copy(source)
    whose = attempt((3, 0))
    assert read_all(store.log_reader("e", whose), whose) == output
