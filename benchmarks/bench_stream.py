"""Much output through `exec`, beside the same bytes through `ssh localhost`; memory on the way."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

from .figures import Bound, Samples, Section, quantile
from .processes import peak_bytes
from .sandbox import Broken, Skipped, timed
from .sshd import start_sshd

if TYPE_CHECKING:
    from pathlib import Path

    from .plan import Bench
    from .sandbox import Agent, Sandbox

__all__ = ["bench_stream"]

LINES = 5_000_000
SEQ = ("seq", "1", str(LINES))
LONGER = 4  # times as many lines, to see whether memory grows with them
RATE_LIMIT_MB_S = 100.0
SSH_LIMIT = 0.5
SAMPLE_S = 0.01


def bench_stream(bench: Bench) -> Section:
    section = Section("stream", f"`seq 1 {LINES}` to /dev/null")
    with bench.sandbox() as sandbox:
        agent, project = sandbox.agent("a"), sandbox.directory("project")
        agent.exec(project, "true")
        ssh = _ssh_or_note(section, sandbox)
        ours, theirs = _Timings([], []), _Timings([], [])
        for _ in range(bench.streams):
            ours.idle.append(agent.exec(project, "true"))
            ours.streaming.append(agent.exec(project, *SEQ))
            if ssh:
                theirs.idle.append(_through_ssh(sandbox, ssh, "true"))
                theirs.streaming.append(_through_ssh(sandbox, ssh, *SEQ))
        _add_rates(section, ours, theirs)
        _add_memory(section, agent, project)
    return section


def _ssh_or_note(section: Section, sandbox: Sandbox) -> list[str]:
    try:
        return start_sshd(sandbox)
    except Skipped as reason:
        section.notes.append(f"no comparison with ssh: {reason}")
        return []


class _Timings(NamedTuple):
    """Seconds, with the output and of a command that says nothing."""

    streaming: list[float]
    idle: list[float]

    def rates(self) -> list[float]:
        """MB/s of the output alone: what starting and ending cost is subtracted."""
        idle_s = quantile(self.idle, 0.5)
        return [_seq_bytes(LINES) / 1e6 / max(took - idle_s, 1e-3) for took in self.streaming]


def _add_rates(section: Section, ours: _Timings, theirs: _Timings) -> None:
    section.samples += [
        Samples("devloop exec -- seq, the whole command", "s", ours.streaming),
        Samples("devloop exec -- true", "s", ours.idle),
        Samples("devloop, of the difference", "MB/s", ours.rates()),
    ]
    rate = quantile(ours.rates(), 0.5)
    section.bounds.append(Bound("devloop", rate, RATE_LIMIT_MB_S, "MB/s", at_least=True))
    if not theirs.streaming:
        return
    section.samples += [
        Samples("ssh 127.0.0.1 seq, the whole command", "s", theirs.streaming),
        Samples("ssh 127.0.0.1 true", "s", theirs.idle),
        Samples("ssh, of the difference", "MB/s", theirs.rates()),
    ]
    ratio = rate / quantile(theirs.rates(), 0.5)
    section.bounds.append(Bound("or: devloop / ssh", ratio, SSH_LIMIT, at_least=True))
    section.notes.append("one of the two is enough")


def _add_memory(section: Section, agent: Agent, project: Path) -> None:
    for words, argv in (
        ("nothing", ["true"]),
        (f"{LINES:,} lines", ["seq", "1", str(LINES)]),
        (f"{LONGER * LINES:,} lines", ["seq", "1", str(LONGER * LINES)]),
    ):
        client = _client_peak(agent, project, argv) / 1e6
        box = peak_bytes(agent.pid()) / 1e6
        section.samples.append(Samples(f"peak memory of the client, {words}", "MB", [client]))
        section.samples.append(Samples(f"peak memory of the agent, up to {words}", "MB", [box]))


def _client_peak(agent: Agent, project: Path, argv: list[str]) -> int:
    """Bytes, looked at until the last moment of its life."""
    process = subprocess.Popen(
        [agent.command, "exec", "-q", "--", *argv],
        cwd=project,
        env=agent.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, peak_bytes(process.pid))
        time.sleep(SAMPLE_S)
    if process.returncode:
        raise Broken(f"devloop exec -- {' '.join(argv)} exited with {process.returncode}")
    return peak


def _seq_bytes(last: int) -> int:
    """Of `seq 1 LAST`: each number has a newline and as many digits as powers of ten reach it."""
    powers = [int("1" + "0" * digits) for digits in range(len(str(last)))]
    return last + sum(last - power + 1 for power in powers)


def _through_ssh(sandbox: Sandbox, ssh: list[str], *argv: str) -> float:
    return timed([*ssh, *argv], cwd=sandbox.root, env=sandbox.env)
