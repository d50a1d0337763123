"""Real files, a real scanner, and the hints that come."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from devloop.sync import inotify
from devloop.sync.ignore import Ignore
from devloop.sync.notify import NotifySource
from devloop.sync.scan import Scanner
from devloop.sync.statcache import StatCache
from devloop.sync.watch import DirsChanged, ScanAll, open_source, watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from devloop.sync.watch import Hint, OpenSource

pytestmark = pytest.mark.filterwarnings("error")


class Watching:
    """A watched project and its hints; every hint is followed by the look that it asks for."""

    def __init__(self, root: Path, hints: AsyncIterator[Hint], looking: Scanner) -> None:
        self.root = root
        self.looking = looking
        self._hints = hints

    async def next(self, within_s: float = 5.0) -> Hint:
        hint = await asyncio.wait_for(anext(self._hints), within_s)
        if isinstance(hint, DirsChanged):
            self.looking.rescan(hint.dirs)
        else:
            self.looking.scan()
        return hint

    async def dirs_until(self, path: str) -> set[bytes]:
        """The directories that are named until the tree has `path` and its newest bytes."""
        named: set[bytes] = set()
        while True:
            hint = await self.next()
            assert isinstance(hint, DirsChanged), hint
            named |= hint.dirs
            if self.looking.holds(os.fsencode(path)):
                return named


@pytest.fixture(params=["best", "notify"])
def source(request: pytest.FixtureRequest) -> OpenSource:
    return NotifySource if request.param == "notify" else open_source


@contextlib.asynccontextmanager
async def watching(root: Path, source: OpenSource) -> AsyncIterator[Watching]:
    looking = Scanner(root, Ignore(root), StatCache(root.parent / "cache"))
    looking.scan()
    async with contextlib.aclosing(watch(root, looking, open_source=source)) as hints:
        state = Watching(root, hints, looking)
        assert isinstance(await state.next(), ScanAll)
        yield state


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "x.py").write_text("1")
    (folder / ".gitignore").write_text("node_modules/\n")
    (folder / "node_modules" / "m").mkdir(parents=True)
    return folder


async def test_a_save_names_its_directory_and_nothing_else(root: Path, source: OpenSource) -> None:
    async with watching(root, source) as state:
        (root / "src" / "x.py").write_text("2")
        assert await state.next() == DirsChanged(frozenset({b"src"}))


async def test_a_folder_with_another_mode_is_seen(root: Path, source: OpenSource) -> None:
    async with watching(root, source) as state:
        (root / "src").chmod(0o700)
        while (await state.next()) and state.looking.rescan([]).tree.entries[b"src"].mode != 0o700:  # type: ignore[union-attr]
            continue


async def test_what_happens_in_ignored_folders_is_not_told(root: Path, source: OpenSource) -> None:
    async with watching(root, source) as state:
        for i in range(50):
            (root / "node_modules" / "m" / f"{i}.js").write_text("x")
            (root / "src" / f".x.py.sw{i % 10}").write_text("x")
        (root / "last").write_text("x")
        assert await state.dirs_until("last") == {b""}


async def test_a_file_in_a_folder_made_just_before_is_found(root: Path, source: OpenSource) -> None:
    async with watching(root, source) as state:
        (root / "a" / "b" / "c").mkdir(parents=True)
        (root / "a" / "b" / "c" / "x").write_text("x")
        await state.dirs_until("a/b/c/x")
        (root / "a" / "b" / "c" / "y").write_text("y")
        await state.dirs_until("a/b/c/y")


async def test_a_folder_that_is_no_longer_ignored_is_watched(
    root: Path, source: OpenSource
) -> None:
    async with watching(root, source) as state:
        (root / ".gitignore").write_text("nothing\n")
        await state.dirs_until("node_modules/m")
        (root / "node_modules" / "m" / "x.js").write_text("x")
        assert b"node_modules/m" in await state.dirs_until("node_modules/m/x.js")


async def test_a_renamed_folder_is_followed_under_its_new_name(
    root: Path, source: OpenSource
) -> None:
    async with watching(root, source) as state:
        (root / "src").rename(root / "lib")
        await state.dirs_until("lib/x.py")
        (root / "lib" / "y.py").write_text("y")
        assert b"lib" in await state.dirs_until("lib/y.py")
        assert not state.looking.holds(b"src")


async def test_nothing_is_told_while_git_holds_its_index_lock(
    root: Path, source: OpenSource
) -> None:
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    lock = root / ".git" / "index.lock"
    async with watching(root, source) as state:
        lock.touch()
        (root / "src" / "y.py").write_text("y")
        telling = asyncio.ensure_future(state.next())
        done, _ = await asyncio.wait({telling}, timeout=0.3)
        assert not done
        lock.unlink()
        assert await telling == DirsChanged(frozenset({b"src"}))


async def test_closing_the_hints_leaves_no_thread_and_no_descriptor(
    root: Path, source: OpenSource
) -> None:
    import threading

    async with watching(root, source):
        pass
    threads, descriptors = threading.active_count(), len(os.listdir("/dev/fd"))
    for _ in range(10):
        async with watching(root, source):
            pass
    assert threading.active_count() == threads
    async with asyncio.timeout(10):  # watchfiles closes its own on a thread that nobody can join
        while len(os.listdir("/dev/fd")) > descriptors:
            await asyncio.sleep(0.01)


@pytest.mark.skipif(not inotify.available(), reason="needs Linux")
async def test_an_idle_watch_costs_next_to_nothing(root: Path) -> None:
    async with watching(root, open_source) as state:
        idle = asyncio.ensure_future(state.next())
        began = time.process_time()
        await asyncio.wait({idle}, timeout=1.5)
        assert time.process_time() - began < 0.05
        idle.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await idle
