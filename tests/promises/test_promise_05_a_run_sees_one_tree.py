"""Promise 5: a run never sees a half-applied tree."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from devloop.remote_agent.agent import Agent
from devloop.remote_agent.logs import LogStream
from devloop.remote_agent.run import RunSpec

from ..remote_agent.trees import ADir, AFile, make_tree  # noqa: TID252 # there is no package

if TYPE_CHECKING:
    from pathlib import Path

    from devloop.remote_agent.run import Run

    from ..remote_agent.trees import Thing  # noqa: TID252

SAVES = 1000 if os.environ.get("DEVLOOP_SOAK") == "1" else 60

# Looks at all of its folder again and again until it is stopped.
PROGRAM = b"""
import os
while True:
    seen = []
    for folder, _, names in os.walk("."):
        for name in names:
            if name != "look.py":
                with open(os.path.join(folder, name)) as file:
                    seen.append(file.read())
    print(len(seen), *sorted(set(seen)), flush=True)
"""


def version(number: int) -> dict[bytes, Thing]:
    """Every file says the version; their count, places and kinds change with it."""
    word = AFile(b"v%d" % number, mtime_ns=number)
    files: dict[bytes, Thing] = {b"f%d" % n: word for n in range(10 + number % 5)}
    folders: dict[bytes, Thing] = {b"d%d" % (number % 3): ADir(files), b"same": ADir(files)}
    swapping: Thing = word if number % 2 else ADir({b"x": word})
    return {b"look.py": AFile(PROGRAM), b"swap": swapping, **folders}


def expected(number: int) -> bytes:
    return b"%d v%d" % (2 * (10 + number % 5) + 1, number)


@pytest.mark.promise(5)
@pytest.mark.timeout(600)
async def test_promise_05_no_run_in_a_storm_of_saves_sees_two_versions(tmp_path: Path) -> None:
    spec = RunSpec(argv=(os.fsencode(sys.executable), b"-S", b"look.py"), warm=False)
    looks = runs_seen = 0
    mixed: list[bytes] = []
    async with Agent(tmp_path / "state") as agent:
        project = agent.project("storm", "storm")
        runs: list[Run] = []
        for number in range(SAVES):
            target = make_tree(agent.store, version(number)).digest
            live = tuple(run.number for run in runs[-1:])
            result = await agent.apply(project, target, spec=spec, stop_runs=live)
            assert result.run is not None
            assert result.run.tree == target
            runs.append(result.run)
            if number % 3:
                await first_look(result.run)
            if number >= 1:
                lines = await lines_of(runs[number - 1])
                mixed += [line for line in lines if line != expected(number - 1)]
                looks += len(lines)
                runs_seen += bool(lines)
    assert mixed == []
    assert runs_seen >= SAVES // 3
    print(f"{SAVES} saves: {looks} looks by {runs_seen} runs at all of their files, 0 mixed")


async def first_look(run: Run) -> None:
    while run.live and not run.first_output_ns:
        changed = asyncio.create_task(run.changed())
        await asyncio.wait([changed], timeout=5)
        changed.cancel()


async def lines_of(run: Run) -> list[bytes]:
    """Its whole lines on stdout, once it has ended. What it says of its own end is left out."""
    await run.ended.wait()
    said = b""
    with run.log.reader(0, lossless=False, follow=False) as reader:
        async for batch in reader:
            said += b"".join(r.data for r in batch if r.stream is LogStream.STDOUT)
    return said.split(b"\n")[:-1]
