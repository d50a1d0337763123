"""What devloop costs while nothing happens: the CPU of everything that belongs to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .bench_saves import LARGE, TRIVIAL
from .figures import Bound, Samples, Section
from .processes import command_line, cpu_s, peak_bytes, pids_with
from .projects import SAVES, make_project
from .watchers import Watcher, start_devloop

if TYPE_CHECKING:
    from .plan import Bench

__all__ = ["bench_idle"]

LIMIT_PERCENT = 1.0
SETTLE_S = 5.0


def bench_idle(bench: Bench) -> Section:
    section = Section("idle", f"idle for {bench.idle_s:g} s in a project of {LARGE:,} files")
    with bench.sandbox() as sandbox:
        project = make_project(sandbox.directory("project"), LARGE)
        log = sandbox.root / "up.err"
        watcher = Watcher("devloop up --plain", project, TRIVIAL, SAVES[bench.save], log)
        start_devloop(sandbox, watcher, sandbox.agent("a"))
        watcher.save()
        time.sleep(SETTLE_S)  # what a run leaves to be tidied up is not idleness
        shares = _shares(str(sandbox.root), bench.idle_s)
        peaks = {pid: peak_bytes(pid) for pid in shares}
        for pid, percent in sorted(shares.items()):
            name = f"{_role(command_line(pid))} (peak {peaks[pid] / 1e6:.0f} MB)"
            section.samples.append(Samples(name, "% of a core", [percent]))
    section.bounds.append(Bound("all together", sum(shares.values()), LIMIT_PERCENT, "%"))
    return section


def _shares(marker: str, window_s: float) -> dict[int, float]:
    """Percent of one core, by process."""
    pids = pids_with(marker)
    before, began = cpu_s(pids), time.monotonic()
    time.sleep(window_s)
    after, took_s = cpu_s(pids_with(marker)), time.monotonic() - began
    return {pid: 100 * (spent - before.get(pid, 0.0)) / took_s for pid, spent in after.items()}


def _role(command: str) -> str:
    words = command.split()
    for part, role in (("remote_agent serve", "agent"), (" up ", "client"), ("zygote", "zygote")):
        if part in command:
            return role
    return words[0].rpartition("/")[2] if words else "(gone)"
