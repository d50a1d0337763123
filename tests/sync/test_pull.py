"""Pulling outputs: from a real agent, and from one that is hostile or cut off."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import DevloopError
from devloop.sync.client import AgentGone
from devloop.sync.local import LocalTarget
from devloop.sync.model import Output, RunSpec
from devloop.sync.outputs import OutputNotWritten, OutputRefused, Pull, PullResult
from devloop.sync.session import Project, Session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

MTIME_NS = 1_600_000_000_123_456_789
PIECE_BYTES = 1000


class Offers:
    """An agent as `Pull` sees it, that says whatever it is told to."""

    def __init__(self, files: dict[bytes, bytes], *, mode: int = 0o644) -> None:
        self.files = files
        self.mode = mode
        self.mtime_ns = MTIME_NS
        self.cut_after_bytes: int | None = None
        self.extra = b""
        self.read_from: list[int] = []
        self.before_end: list[object] = []  # functions to call amid a download

    async def list_outputs(self, workspace_id: str, patterns: object) -> list[Output]:
        return [Output(p, len(data), self.mtime_ns, self.mode) for p, data in self.files.items()]

    async def read_output(
        self, workspace_id: str, output: Output, offset: int
    ) -> AsyncGenerator[tuple[bytes, bytes], None]:
        self.read_from.append(offset)
        data = self.files[output.path]
        sent = data + self.extra
        for start in range(offset, len(sent), PIECE_BYTES):
            if self.cut_after_bytes is not None and start >= self.cut_after_bytes:
                raise AgentGone("cut")
            yield sent[start : start + PIECE_BYTES], b""
            await asyncio.sleep(0)  # other pulls go on meanwhile
        for act in self.before_end:
            act()  # type: ignore[operator]
        yield b"", digest_of(data)


async def pull(project: Path, agent: Offers, *patterns: str) -> PullResult:
    patterns = patterns or ("runs/",)
    ledger = project.parent / "ledger.json"
    return await Pull(agent, "w", project, patterns, ledger).run()  # type: ignore[arg-type]


def names(project: Path) -> list[str]:
    return sorted(str(p.relative_to(project)) for p in project.rglob("*") if not p.is_dir())


# -- what arrives


async def test_outputs_arrive_with_their_bytes_modes_and_times(project: Path) -> None:
    agent = Offers({b"runs/a.pt": b"x" * 5000, b"runs/deep/\xff": b""}, mode=0o755)
    result = await pull(project, agent)
    assert (result.files, result.size_bytes, result.kept) == (2, 5000, [])
    arrived = project / "runs" / "a.pt"
    assert arrived.read_bytes() == b"x" * 5000
    assert (arrived.stat().st_mode & 0o7777, arrived.stat().st_mtime_ns) == (0o755, MTIME_NS)
    assert names(project) == ["runs/a.pt", os.fsdecode(b"runs/deep/\xff")]
    assert (await pull(project, agent)).files == 0


async def test_an_output_that_changed_on_the_box_replaces_the_one_that_was_pulled(
    project: Path,
) -> None:
    agent = Offers({b"runs/a": b"one"})
    await pull(project, agent)
    agent.files[b"runs/a"], agent.mtime_ns = b"second", MTIME_NS + 1
    assert (await pull(project, agent)).files == 1
    assert (project / "runs" / "a").read_bytes() == b"second"


async def test_a_download_that_was_cut_goes_on_where_it_stopped(project: Path) -> None:
    agent = Offers({b"runs/a": os.urandom(9500)})
    agent.cut_after_bytes = 4000
    with pytest.raises(AgentGone):
        await pull(project, agent)
    assert not (project / "runs" / "a").exists()
    agent.cut_after_bytes = None
    await pull(project, agent)
    assert agent.read_from == [0, 4000]
    assert (project / "runs" / "a").read_bytes() == agent.files[b"runs/a"]
    assert names(project) == ["runs/a"]


async def test_a_part_that_was_damaged_is_fetched_from_its_beginning(project: Path) -> None:
    agent = Offers({b"runs/a": os.urandom(9500)})
    agent.cut_after_bytes = 4000
    with pytest.raises(AgentGone):
        await pull(project, agent)
    (part,) = (project / "runs").iterdir()
    part.write_bytes(bytes(4000))
    agent.cut_after_bytes = None
    await pull(project, agent)
    assert agent.read_from == [0, 4000, 0]
    assert (project / "runs" / "a").read_bytes() == agent.files[b"runs/a"]


async def test_what_was_pulled_before_a_cut_is_remembered(project: Path) -> None:
    agent = Offers({b"runs/a": b"1", b"runs/b": bytes(5000)})
    agent.cut_after_bytes = 2000
    with pytest.raises(AgentGone):
        await pull(project, agent)
    agent.cut_after_bytes, agent.mtime_ns = None, MTIME_NS + 1
    assert (await pull(project, agent)).kept == []


# -- what is never destroyed


@pytest.mark.promise(21)
async def test_a_file_of_the_users_is_kept_and_named(project: Path) -> None:
    (project / "runs").mkdir()
    (project / "runs" / "a").write_bytes(b"mine")
    result = await pull(project, Offers({b"runs/a": b"of the box", b"runs/b": b"new"}))
    assert (result.kept, result.files) == ([b"runs/a"], 1)
    assert (project / "runs" / "a").read_bytes() == b"mine"


@pytest.mark.promise(21)
async def test_a_pulled_file_that_the_user_edited_is_kept(project: Path) -> None:
    agent = Offers({b"runs/a": b"one"})
    await pull(project, agent)
    (project / "runs" / "a").write_bytes(b"edited")
    agent.files[b"runs/a"], agent.mtime_ns = b"second", MTIME_NS + 1
    assert (await pull(project, agent)).kept == [b"runs/a"]
    assert (project / "runs" / "a").read_bytes() == b"edited"


@pytest.mark.promise(21)
@pytest.mark.parametrize("existed", [False, True])
async def test_a_file_that_the_user_writes_during_the_download_is_kept(
    project: Path, existed: bool
) -> None:
    agent = Offers({b"runs/a": b"one"})
    if existed:
        await pull(project, agent)
    agent.files[b"runs/a"], agent.mtime_ns = b"second", MTIME_NS + 1
    agent.before_end = [lambda: (project / "runs" / "a").write_bytes(b"edited meanwhile")]
    assert (await pull(project, agent)).kept == [b"runs/a"]
    assert (project / "runs" / "a").read_bytes() == b"edited meanwhile"
    assert names(project) == ["runs/a"]


@pytest.mark.promise(21)
@pytest.mark.parametrize("kind", ["directory", "link", "link above", "file above"])
async def test_whatever_else_is_in_the_way_stays(project: Path, kind: str) -> None:
    outside = project.parent / "outside"
    outside.mkdir()
    runs = project / "runs"
    if "above" not in kind:
        runs.mkdir()
    match kind:
        case "directory":
            (runs / "a").mkdir()
        case "link":
            (runs / "a").symlink_to(outside / "target")
        case "link above":
            runs.symlink_to(outside)
        case "file above":
            runs.write_bytes(b"mine")
    result = await pull(project, Offers({b"runs/a": b"of the box"}))
    assert list(outside.iterdir()) == []
    assert (result.files, result.kept) == (0, [b"runs" if "above" in kind else b"runs/a"])


@pytest.mark.promise(21)
async def test_a_link_of_the_users_is_named_once_whatever_lies_below_it(project: Path) -> None:
    (project / "runs").symlink_to(project.parent)
    result = await pull(project, Offers({b"runs/a": b"1", b"runs/b": b"2", b"runs/c/d": b"3"}))
    assert result.kept == [b"runs"]
    assert (project / "runs").is_symlink()


async def test_pulls_at_the_same_time_wait_for_each_other(project: Path) -> None:
    agent = Offers({b"runs/%d" % number: os.urandom(5000) for number in range(5)})
    results = await asyncio.gather(*(pull(project, agent) for _ in range(3)))
    assert sorted(result.files for result in results) == [0, 0, 5]
    assert [result.kept for result in results] == [[], [], []]


async def test_a_file_that_equals_the_output_counts_as_pulled(project: Path) -> None:
    agent = Offers({b"runs/a": b"one"})
    await pull(project, agent)
    (project.parent / "ledger.json").unlink()
    await pull(project, agent)
    agent.files[b"runs/a"], agent.mtime_ns = b"second", MTIME_NS + 1
    result = await pull(project, agent)
    assert (result.files, result.kept) == (1, [])


# -- agents that lie


@pytest.mark.promise(13)
@pytest.mark.parametrize(
    "path",
    [
        b"train.py",
        b"../outside",
        b"runs/../train.py",
        b"/etc/passwd",
        b"runs//a",
        b"runs/./a",
        b"runs/.git/hooks/post-commit",
        b"runs/.GIT/config",
        b"",
        b"runs/\0",
        b"runs/" + b"x" * 5000,
    ],
)
async def test_an_offer_that_was_not_asked_for_writes_nothing_at_all(
    project: Path, path: bytes
) -> None:
    with pytest.raises(DevloopError):
        await pull(project, Offers({b"runs/good": b"1", path: b"hostile"}))
    assert [name for name in names(project) if name != "runs/good"] == []
    assert set(os.listdir(project.parent)) <= {"project", "ledger.json", "ledger.lock"}


@pytest.mark.promise(13)
async def test_no_setuid_bit_arrives(project: Path) -> None:
    await pull(project, Offers({b"runs/a": b"1"}, mode=0o6777))
    assert (project / "runs" / "a").stat().st_mode & 0o7777 == 0o777


async def test_more_bytes_than_were_offered_are_refused(project: Path) -> None:
    agent = Offers({b"runs/a": b"1"})
    agent.extra = bytes(100_000)
    with pytest.raises(OutputRefused, match="runs/a was damaged"):
        await pull(project, agent)
    assert names(project) == []


async def test_an_unwritable_folder_is_one_clear_line(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "utime", full)
    with pytest.raises(OutputNotWritten, match="cannot write runs/a: No space left on device"):
        await pull(project, Offers({b"runs/a": b"1"}))


# -- a real agent


@pytest.fixture
async def session(project: Path) -> AsyncIterator[Session]:
    (project / "a.py").write_text("1")
    session = await Session.open(Project(project, outputs=("runs/", "*.pt")), LocalTarget(60))
    yield session
    await session.client.shutdown(stop_runs=True)
    await session.close()


async def run(session: Session, script: str) -> None:
    spec = RunSpec((b"sh", b"-c", script.encode()), {"PATH": b"/usr/bin:/bin"}, env_is_whole=True)
    pushed = await session.push(run=spec)
    assert pushed.applied.run is not None
    attaching = session.client.attach(session.workspace.id, pushed.applied.run.number)
    async with attaching as attachment:
        async for _ in attachment:
            pass


async def test_what_a_run_wrote_comes_back_and_nothing_else(session: Session) -> None:
    script = "mkdir -p runs/1 x; head -c 3000000 /dev/urandom > runs/1/big; echo m > x/m.pt"
    await run(session, script + "; echo no > other; ln -s /etc/passwd runs/link; mkfifo runs/fifo")
    result = await session.pull()
    assert (result.files, result.kept, result.unfinished) == (2, [], [])
    assert names(session.project.root) == ["a.py", "runs/1/big", "x/m.pt"]
    assert (session.project.root / "runs" / "1" / "big").stat().st_size == 3_000_000
    assert (await session.pull()).files == 0


async def test_an_output_that_is_still_written_is_named_as_unfinished(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(session, "mkdir runs; echo 1 > runs/log; echo 2 > runs/done")
    listed = await session.client.list_outputs(session.workspace.id, ["runs/"])
    await run(session, "echo more >> runs/log; rm runs/done")

    async def stale(*_: object) -> list[Output]:
        return listed

    monkeypatch.setattr(session.client, "list_outputs", stale)
    result = await session.pull()
    assert sorted(result.unfinished) == [b"runs/done", b"runs/log"]
