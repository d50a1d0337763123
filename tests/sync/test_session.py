"""Scans of a session: quick ones on the loop, slow ones beside it, never two at once."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from devloop.sync.local import LocalTarget
from devloop.sync.scan import Scanner
from devloop.sync.session import MAX_BYTES_ON_LOOP, Project, Session, make_scanner, workspace_of
from devloop.sync.target import Connection

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def session(project: Path) -> Session:
    workspace = workspace_of(project, is_local=True)
    scanner = make_scanner(Project(project), workspace)
    scanner.scan()
    nobody: Any = None  # a scan speaks to no agent
    connection = Connection(LocalTarget(60), nobody, nobody)
    return Session(Project(project), workspace, connection, scanner)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the looks that took place."""
    seen: list[int] = []
    finish = Scanner._finish

    def noted(self: Scanner, *args: Any, **kwargs: Any) -> Any:
        seen.append(threading.get_ident())
        return finish(self, *args, **kwargs)

    monkeypatch.setattr(Scanner, "_finish", noted)
    return seen


async def test_a_small_save_is_looked_at_on_the_loop(session: Session, threads: list[int]) -> None:
    (session.project.root / "a.py").write_text("1")
    scan = await session.scan(frozenset({b""}))
    assert b"a.py" in scan.tree.entries
    assert threads == [threading.get_ident()]


@pytest.mark.parametrize("kind", ["large file", "folder"])
async def test_what_takes_long_is_looked_at_beside_the_loop(
    session: Session, threads: list[int], kind: str
) -> None:
    if kind == "folder":
        (session.project.root / "new").mkdir()
    else:
        (session.project.root / "new").write_bytes(bytes(MAX_BYTES_ON_LOOP + 1))
    scan = await session.scan(frozenset({b""}))
    assert b"new" in scan.tree.entries
    assert threads[0] != threading.get_ident()


async def test_a_scan_waits_for_the_thread_of_one_that_was_cancelled(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on = threading.Event(), threading.Event()
    scan, order = session.scanner.scan, list[str]()

    def slow() -> Any:
        began.set()
        goes_on.wait()
        order.append("full")
        return scan()

    monkeypatch.setattr(session.scanner, "scan", slow)
    cancelled = asyncio.create_task(session.scan())
    await asyncio.to_thread(began.wait)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    next_one = asyncio.create_task(session.scan(frozenset({b""})))
    next_one.add_done_callback(lambda _: order.append("next"))
    await asyncio.sleep(0)
    goes_on.set()
    await next_one
    await asyncio.sleep(0)
    assert order == ["full", "next"]
