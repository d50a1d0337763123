"""Files over SSH: the first sync, one changed byte of a large file, and a large file printed."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from typing import TYPE_CHECKING

from .bench_first_sync import LARGE_BYTES, SMALL_DIRS, SMALL_FILES
from .figures import Bound, Samples, Section, quantile
from .projects import make_large_file, make_small_files
from .sandbox import Skipped, timed
from .sshd import ALIAS, start_box

if TYPE_CHECKING:
    from pathlib import Path

    from .plan import Bench
    from .sandbox import Agent, Sandbox
    from .sshd import Sshd, Way

__all__ = ["bench_ssh_cat", "bench_ssh_change", "bench_ssh_large", "bench_ssh_small"]

CAT_BYTES = 400_000_000
CAT_LIMIT = 0.7
CHANGE_LIMIT_MB = 4.0


def bench_ssh_small(bench: Bench) -> Section:
    section = Section("ssh-small", f"first sync of {SMALL_FILES:,} files of 0.5–8 KiB over SSH")
    with bench.sandbox() as sandbox:
        source = make_small_files(sandbox.directory("source"), SMALL_FILES, SMALL_DIRS)
        return _first_syncs(section, sandbox, source, bench.syncs)


def bench_ssh_large(bench: Bench) -> Section:
    section = Section("ssh-large", f"first sync of one file of {LARGE_BYTES / 1e9:g} GB over SSH")
    with bench.sandbox() as sandbox:
        source = make_large_file(sandbox.directory("source"), LARGE_BYTES)
        return _first_syncs(section, sandbox, source, bench.syncs)


def _first_syncs(section: Section, sandbox: Sandbox, source: Path, rounds: int) -> Section:
    """Fresh targets each time, and the first round of each not counted; see bench_first_sync."""
    if shutil.which("rsync") is None:
        raise Skipped("rsync is not installed: apt-get install rsync")
    box = start_box(sandbox)
    way, empty = box.way(), sandbox.directory("empty")
    peer, whole, start = [], [], []
    for number in range(rounds + 1):
        copied = _rsync(sandbox, way, source, number)
        synced, started = _devloop(sandbox, box, way, source, empty, number)
        if number:
            peer.append(copied)
            whole.append(synced)
            start.append(started)
    section.samples += [
        Samples("rsync -a over ssh", "s", peer),
        Samples("devloop exec -- true, first in the project", "s", whole),
        Samples("devloop exec -- true, nothing to sync", "s", start),
    ]
    ratio = quantile(whole, 0.5) / quantile(peer, 0.5)
    section.bounds.append(Bound("devloop, the whole command / rsync", ratio, 1.0))
    return section


def _rsync(sandbox: Sandbox, way: Way, source: Path, number: int) -> float:
    target = sandbox.directory(f"target-{number}")
    os.sync()  # what was written before must not be written back on this one's time
    ssh = shlex.join(way.words()[:-1])
    argv = ["rsync", "-a", "-e", ssh, f"{source}/", f"{ALIAS}:{target}/"]
    return timed(argv, cwd=sandbox.root, env=sandbox.env)


def _devloop(
    sandbox: Sandbox, box: Sshd, way: Way, source: Path, empty: Path, number: int
) -> tuple[float, float]:
    """Seconds of the first sync, and of a command that has nothing to sync."""
    agent = _fresh_agent(sandbox, box, way, number)
    agent.exec(empty, "true")
    started = min(agent.exec(empty, "true") for _ in range(3))
    os.sync()
    synced = agent.exec(source, "true")
    agent.down()
    return synced, started


def _fresh_agent(sandbox: Sandbox, box: Sshd, way: Way, number: int) -> Agent:
    """With an empty store: that of the last one stays, under another name."""
    state = box.home / ".local" / "state"
    if state.exists():
        state.rename(box.home / f"state-{number}")
    return sandbox.agent(f"a{number}", **way.env())


def bench_ssh_change(bench: Bench) -> Section:
    """Counted on the wire, in both directions, with whatever SSH and gRPC add."""
    title = f"one byte changed in the middle of a file of {LARGE_BYTES / 1e9:g} GB"
    section = Section("ssh-change", title)
    with bench.sandbox() as sandbox:
        source = make_large_file(sandbox.directory("source"), LARGE_BYTES)
        box = start_box(sandbox)
        way = box.wired_way("counted", 0.0)
        # Who keeps a connection made it by the same configuration: the wire is on all of them.
        agent = sandbox.agent("a", **way.env())
        agent.exec(source, "true")
        idle, sent, took = [], [], []
        for number in range(max(2, bench.syncs)):
            idle.append(_carried(way, agent, source)[0])
            _flip_byte(source / "large", LARGE_BYTES // 2 + number)
            carried, seconds = _carried(way, agent, source)
            sent.append(carried)
            took.append(seconds)
    section.samples += [
        Samples("devloop exec -- true, nothing changed", "MB", idle),
        Samples("devloop exec -- true, one byte changed", "MB", sent),
        Samples("  how long that took", "s", took),
    ]
    section.bounds.append(Bound("on the wire", max(sent), CHANGE_LIMIT_MB, "MB"))
    return section


def _carried(way: Way, agent: Agent, source: Path) -> tuple[float, float]:
    """MB and seconds."""
    before = way.carried_bytes()
    took = agent.exec(source, "true")
    time.sleep(0.2)  # the last bytes may still be under way
    return (way.carried_bytes() - before) / 1e6, took


def _flip_byte(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def bench_ssh_cat(bench: Bench) -> Section:
    size_mb = CAT_BYTES / 1e6
    section = Section("ssh-cat", f"`cat` of {size_mb:g} MB to /dev/null")
    with bench.sandbox() as sandbox:
        way = start_box(sandbox).way()
        project = sandbox.directory("project")
        make_large_file(project, CAT_BYTES)
        agent = sandbox.agent("a", **way.env())
        agent.exec(project, "true")
        path = str(project / "large")
        ours: dict[str, list[float]] = {"true": [], "cat": []}
        peer: dict[str, list[float]] = {"true": [], "cat": []}
        for turn in range(1 + bench.streams):
            for kind, words in (("true", ["true"]), ("cat", ["cat", "large"])):
                took = agent.exec(project, *words)
                there = ["true"] if kind == "true" else ["cat", path]
                theirs = timed([*way.words(), *there], cwd=project, env=sandbox.env)
                if turn:
                    ours[kind].append(took)
                    peer[kind].append(theirs)
    rates = {}
    for name, times in (("devloop exec", ours), (f"ssh {ALIAS}", peer)):
        idle_s = quantile(times["true"], 0.5)
        rates[name] = [size_mb / max(took - idle_s, 1e-3) for took in times["cat"]]
        section.samples += [
            Samples(f"{name} cat, the whole command", "s", times["cat"]),
            Samples(f"{name} true", "s", times["true"]),
            Samples(f"{name}, of the difference", "MB/s", rates[name]),
        ]
    whole = quantile(peer["cat"], 0.5) / quantile(ours["cat"], 0.5)
    difference = quantile(rates["devloop exec"], 0.5) / quantile(rates[f"ssh {ALIAS}"], 0.5)
    section.bounds += [
        Bound("rate: devloop / ssh, whole commands", whole, CAT_LIMIT, at_least=True),
        Bound("rate: devloop / ssh, of the difference", difference, CAT_LIMIT, at_least=True),
    ]
    return section
