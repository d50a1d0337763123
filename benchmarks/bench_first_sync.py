"""The first sync into an empty agent, beside `rsync -a` between two directories."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from .figures import Bound, Samples, Section, quantile
from .projects import make_large_file, make_small_files
from .sandbox import Skipped, timed

if TYPE_CHECKING:
    from pathlib import Path

    from .plan import Bench
    from .sandbox import Sandbox

__all__ = ["bench_large_file", "bench_small_files"]

SMALL_FILES, SMALL_DIRS = 10_000, 100
LARGE_BYTES = 1_000_000_000


def bench_small_files(bench: Bench) -> Section:
    section = Section("sync-small", f"first sync of {SMALL_FILES:,} files of 0.5–8 KiB")
    with bench.sandbox() as sandbox:
        source = make_small_files(sandbox.directory("source"), SMALL_FILES, SMALL_DIRS)
        return _compare(section, sandbox, source, bench.syncs)


def bench_large_file(bench: Bench) -> Section:
    section = Section("sync-large", f"first sync of one file of {LARGE_BYTES / 1e9:g} GB")
    with bench.sandbox() as sandbox:
        source = make_large_file(sandbox.directory("source"), LARGE_BYTES)
        return _compare(section, sandbox, source, bench.syncs)


def _compare(section: Section, sandbox: Sandbox, source: Path, rounds: int) -> Section:
    """Fresh targets each time. The first round of each is not counted: it also fills the page
    cache, and the first gigabyte written to pages that were never used costs seconds."""
    if shutil.which("rsync") is None:
        raise Skipped("rsync is not installed: apt-get install rsync")
    empty = sandbox.directory("empty")
    peer, whole, start, net = [], [], [], []
    for number in range(rounds + 1):
        copied = _rsync(sandbox, source, number)
        synced, started = _devloop(sandbox, source, empty, number)
        if number:
            peer.append(copied)
            whole.append(synced)
            start.append(started)
            net.append(synced - started)
    section.samples += [
        Samples("rsync -a", "s", peer),
        Samples("devloop exec -- true, first in the project", "s", whole),
        Samples("devloop exec -- true, nothing to sync", "s", start),
        Samples("devloop, the difference", "s", net),
    ]
    base = quantile(peer, 0.5)
    section.bounds += [
        Bound("devloop, the whole command / rsync", quantile(whole, 0.5) / base, 1.0),
        Bound("devloop, the difference / rsync", quantile(net, 0.5) / base, 1.0),
    ]
    return section


def _rsync(sandbox: Sandbox, source: Path, number: int) -> float:
    target = sandbox.directory(f"target-{number}")
    os.sync()  # what was written before must not be written back on this one's time
    return timed(["rsync", "-a", f"{source}/", f"{target}/"], cwd=sandbox.root, env=sandbox.env)


def _devloop(sandbox: Sandbox, source: Path, empty: Path, number: int) -> tuple[float, float]:
    """Seconds of the first sync, and of a command that has nothing to sync, on a warm agent."""
    agent = sandbox.agent(f"a{number}")
    agent.exec(empty, "true")
    started = min(agent.exec(empty, "true") for _ in range(3))
    os.sync()
    synced = agent.exec(source, "true")
    agent.down()
    return synced, started
