"""How far a session has come, as a front end sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from devloop.sync.ignore import Ignore
from devloop.sync.local import LocalTarget
from devloop.sync.progress import PAUSE_S, Progress
from devloop.sync.scan import Scanner
from devloop.sync.session import Project, Session
from devloop.sync.statcache import StatCache
from devloop.sync.walk import Abandoned

if TYPE_CHECKING:
    from pathlib import Path


def test_of_overlapping_steps_the_latest_is_told_in_whatever_order_they_end() -> None:
    progress = Progress()
    scan, apply = progress.during("scan"), progress.during("apply")
    assert progress.step is None
    scan.__enter__()
    apply.__enter__()
    assert progress.step == "apply"
    scan.__exit__(None, None, None)
    assert progress.step == "apply"
    apply.__exit__(None, None, None)
    assert progress.step is None


async def test_who_waits_is_woken_by_the_first_step_only_once_there_is_one() -> None:
    progress = Progress()
    waiting = asyncio.create_task(progress.wait_until_busy())
    with progress.during("scan"):
        await waiting
    assert progress.step is None
    again = asyncio.create_task(progress.wait_until_busy())
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


def test_while_somebody_is_asked_something_no_step_is_told() -> None:
    progress = Progress()
    with progress.during("scan"):
        with progress.held():
            assert progress.step is None
            with progress.during("apply"):
                assert progress.step is None
        assert progress.step == "scan"


def test_steps_that_follow_at_once_are_one_piece_of_work() -> None:
    progress = Progress()
    with progress.during("scan"):
        began_s = progress.began_s
    with progress.during("apply"):
        assert progress.began_s == began_s
    progress._ended_s -= 2 * PAUSE_S
    with progress.during("apply"):
        assert progress.began_s > began_s


async def test_a_first_sync_counts_files_and_their_bytes(project: Path) -> None:
    (project / "folder").mkdir()
    for number in range(20):
        (project / "folder" / f"{number}.txt").write_bytes(b"%d" % number * 1000)
    (project / "large.bin").write_bytes(bytes(range(256)) * 8192)
    progress = Progress()
    session = await Session.open(Project(project), LocalTarget(60), progress)
    try:
        assert progress.scanned_files == 21
        await session.push()
        assert progress.sent_files == progress.total_files > 0
        assert progress.sent_bytes == progress.total_bytes >= 2 << 20
        assert progress.step is None
    finally:
        await session.client.shutdown(stop_runs=True)
        await session.close()


class AbandonsAtTheFirstFile(Progress):
    """Stands for a user who leaves amid a scan."""

    scanner: Scanner
    count = 0
    has_left = False

    @property
    def scanned_files(self) -> int:
        return self.count

    @scanned_files.setter
    def scanned_files(self, count: int) -> None:
        self.count = count
        if count == 1 and not self.has_left:
            self.has_left = True
            self.scanner.abandon()


def test_a_scan_that_nobody_waits_for_ends_at_the_next_file(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(10):
        (root / f"{number}.txt").touch()
    progress = AbandonsAtTheFirstFile()
    ignore = Ignore(root, ignore=(), outputs=())
    progress.scanner = Scanner(root, ignore, StatCache(tmp_path / "cache"), progress)
    with pytest.raises(Abandoned):
        progress.scanner.scan()
    assert progress.count == 1
    assert len(progress.scanner.rescan([b""]).tree.entries) == 10
