"""The cache of a worker: made once, never seen half-made, never taken from somebody who uses it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from studio_celery.archives import Archives
from studio_celery.cache import Cache, Place
from studio_celery.janitor.caches import Trimmer, disk_bytes
from studio_celery.runtimes.contract import Cancellation, Launch
from studio_celery.runtimes.environments import Environments, Recipe
from studio_celery.runtimes.installer import Outcome
from studio_celery.store import Store


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def fill(cache: Cache, kind: str, name: str, size: int, used_at: int) -> Place:
    """A thing of some size that was last used at a time."""
    place = cache.place(kind, name)

    def make(partial: Path) -> Path:
        (partial / "new").mkdir()
        (partial / "new" / "data").write_bytes(os.urandom(size))
        return partial / "new"

    with place.hold(make):
        pass
    os.utime(place.path, (used_at, used_at))
    return place


def names(cache: Cache) -> list[str]:
    return sorted(path.relative_to(cache.root).as_posix() for path in cache.root.glob("*/*"))


def test_a_thing_is_made_once_by_however_many(cache: Cache) -> None:
    made: list[int] = []

    def make(partial: Path) -> Path:
        made.append(1)
        (partial / "x").write_text("x")
        return partial / "x"

    def use() -> None:
        with cache.place("tools", "one").hold(make) as path:
            assert path.read_text() == "x"

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert names(cache) == ["tools/one", "tools/one.lock"]


def test_what_cannot_be_made_leaves_nothing_half_made(cache: Cache) -> None:
    def make(partial: Path) -> Path:
        (partial / "half").write_text("x")
        raise Cancellation

    with pytest.raises(Cancellation), cache.place("tools", "one").hold(make):
        pytest.fail("it was never made")
    assert names(cache) == []
    cache.tidy()
    assert names(cache) == []


def test_what_is_used_is_not_discarded(cache: Cache) -> None:
    place = fill(cache, "tools", "one", 10, 1)
    with place.hold(lambda partial: partial):
        assert not place.discard()
    assert not place.discard(lambda: True)
    assert place.path.exists()
    assert place.discard()
    assert names(cache) == []


def test_what_a_killed_process_was_making_goes_and_what_a_living_one_makes_stays(cache: Cache) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom studio_celery.cache import Cache\n"
        "def make(partial):\n    (partial / 'half').write_text('x'); print('making', flush=True); sys.stdin.read()\n"
        "with Cache(Path(sys.argv[1])).place('tools', 'one').hold(make): pass\n"
    )
    argv = [sys.executable, "-c", code, str(cache.root.parent)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "making\n"
        cache.tidy()
        assert names(cache) == ["tools/one.lock", "tools/one.partial"]
        maker.kill()
    cache.tidy()
    assert names(cache) == []


def test_over_the_limit_the_least_recently_used_goes_first(cache: Cache) -> None:
    for number, kind in enumerate(("environments", "workspaces", "packages", "environments")):
        fill(cache, kind, f"n{number}", 400_000, 1000 + number)
    Trimmer(cache.root.parent, 1_000_000).trim()
    assert [name for name in names(cache) if not name.endswith(".lock")] == ["environments/n3", "packages/n2"]
    assert not list(cache.root.glob("*/n0.lock"))


def test_under_the_limit_everything_stays(cache: Cache) -> None:
    place = fill(cache, "environments", "one", 400_000, 1)
    Trimmer(cache.root.parent, 1_000_000).trim()
    assert place.path.exists()


def test_what_is_held_stays_though_the_limit_is_reached(cache: Cache) -> None:
    old, new = fill(cache, "packages", "old", 400_000, 1), fill(cache, "packages", "new", 400_000, 2)
    with old.hold(lambda partial: partial):
        os.utime(old.path, (1, 1))
        Trimmer(cache.root.parent, 500_000).trim()
    assert (old.path.exists(), new.path.exists()) == (True, False)


def test_an_environment_stays_while_an_attempts_directory_names_it(tmp_path: Path) -> None:
    environments, recipe = Environments(tmp_path), Recipe(("base",), "tiny\n")
    directory = tmp_path / "run" / "e" / "1"
    (directory / "io").mkdir(parents=True)
    launch = Launch(experiment_id="e", attempt=1, epoch=3, worker="w", argv=("a.py",), directory=directory)

    def install(target: Path, requirements: Path, cancelled: object) -> Outcome:
        (target / "data").write_bytes(os.urandom(100_000))
        return Outcome(0)

    path = environments.ensure(recipe, launch, install, lambda text: None, lambda: False)
    Trimmer(tmp_path, 0).trim()
    assert path.exists()
    (directory / "environment").unlink()
    Trimmer(tmp_path, 0).trim()
    assert not path.exists()
    assert names(Cache(tmp_path)) == []


def test_a_file_with_two_names_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "data").write_bytes(os.urandom(1_000_000))
    alone = disk_bytes(tmp_path / "a")
    os.link(tmp_path / "a" / "data", tmp_path / "b" / "data")
    folder = disk_bytes(tmp_path / "b") - disk_bytes(tmp_path / "b" / "data")
    assert disk_bytes(tmp_path / "a") + disk_bytes(tmp_path / "b") == alone + folder


def test_a_workspace_is_fetched_once_and_again_when_it_was_damaged(tmp_path: Path) -> None:
    store, digest = Store(str(tmp_path / "store")), hashlib.sha256(b"some bytes").hexdigest()
    (tmp_path / "archive").write_bytes(b"some bytes")
    store.put_blob(digest, tmp_path / "archive")
    archives = Archives(store, tmp_path / "home")
    with archives.hold(digest, lambda: False) as path:
        assert path.read_bytes() == b"some bytes"
    path.write_bytes(b"other bytes")
    with archives.hold(digest, lambda: False) as path:
        assert path.read_bytes() == b"some bytes"
    store.delete_blobs([digest])
    with archives.hold(digest, lambda: False) as path:
        assert path.read_bytes() == b"some bytes"
    with pytest.raises(KeyError), archives.hold("0" * 64, lambda: False):
        pytest.fail("the store has no such blob")
    assert [path.name for path in (tmp_path / "home" / "cache").glob("*/*.partial")] == []
