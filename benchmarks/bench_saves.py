"""Save → first line: `devloop up --plain` beside `entr -r`, in projects of two sizes."""

from __future__ import annotations

import random
import re
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .figures import Bound, Samples, Section, quantile
from .interpreters import install
from .projects import SAVES, make_project
from .sandbox import Skipped
from .watchers import Watcher, start_devloop, start_entr

if TYPE_CHECKING:
    from collections.abc import Callable

    from .plan import Bench
    from .sandbox import Agent, Sandbox

__all__ = [
    "TRIVIAL",
    "bench_imports",
    "bench_live",
    "bench_sizes",
    "measure",
    "new_watcher",
    "stages",
]

SMALL, LARGE = 200, 50_000
WARM_UP = 6
# People do not save more often; devloop takes what is faster for one stream, and waits for its end.
PAUSE_S = 0.35
RATIO_LIMIT = 1 / 3
P50_LIMIT_MS = 30.0
SIZE_LIMIT = 1.5

_STAGES = re.compile(r"save→out [\d.]+ s ──\n   (.*) ms$", re.MULTILINE)
_STAGE = re.compile(r"([a-z]+) ([\d.]+)")


@dataclass(frozen=True, slots=True)
class Script:
    """A program that prints a token as early as it can."""

    name: str
    before: str = ""
    after: str = ""

    def __call__(self, token: str) -> str:
        return f'{self.before}print("{token}", flush=True)\n{self.after}'


TRIVIAL = Script("a trivial script")
LIVE = Script("the old run still lives", after="import time\ntime.sleep(3600)\n")


def bench_sizes(bench: Bench) -> Section:
    """200 and 50,000 files at once, and entr with 200.

    50,000 twice: what a save costs may depend on how many entries its own directory has.
    """
    section = Section("save", f"save → first line of {TRIVIAL.name}")
    with bench.sandbox() as sandbox:
        agent = sandbox.agent("a")
        peer = _entr(bench, sandbox, TRIVIAL, SMALL)
        small = _devloop(bench, sandbox, agent, TRIVIAL, SMALL)
        large = _devloop(bench, sandbox, agent, TRIVIAL, LARGE)
        flat = _devloop(bench, sandbox, agent, TRIVIAL, LARGE, flat=True)
        times = measure(bench, [peer, small, large, flat])
        section.samples += [Samples(name, "ms", values) for name, values in times.items()]
        for watcher in (small, large, flat):
            section.samples += stages(watcher, times[watcher.name])
    p50 = {name: quantile(values, 0.5) for name, values in times.items()}
    section.bounds += [
        Bound(f"devloop / entr, {SMALL} files", p50[small.name] / p50[peer.name], RATIO_LIMIT),
        Bound(f"devloop p50, {SMALL} files", p50[small.name], P50_LIMIT_MS, "ms"),
        Bound(f"{LARGE:,} files / {SMALL} files", p50[large.name] / p50[small.name], SIZE_LIMIT),
        Bound(
            f"{LARGE:,} files, flat / {SMALL} files", p50[flat.name] / p50[small.name], SIZE_LIMIT
        ),
    ]
    return section


def bench_imports(bench: Bench, requirement: str) -> Section:
    """The script imports something heavy first."""
    module = requirement.partition("==")[0]
    section = Section(f"save-{module}", f"save → first line, with `import {module}` at the top")
    section.notes.append(install(bench.environment, requirement))
    return _small_only(bench, section, Script(f"import {module}", f"import {module}\n"), True)


def bench_live(bench: Bench) -> Section:
    """Every save first has to end the run before: what a training script makes of the loop."""
    section = Section("save-live", f"save → first line, while {LIVE.name}")
    section.notes.append("held to the bound of a trivial script, which was not asked for")
    return _small_only(bench, section, LIVE, False)


def _small_only(bench: Bench, section: Section, script: Script, bounded: bool) -> Section:
    with bench.sandbox() as sandbox:
        peer = _entr(bench, sandbox, script, SMALL)
        ours = _devloop(bench, sandbox, sandbox.agent("a"), script, SMALL)
        times = measure(bench, [peer, ours])
        section.samples += [Samples(name, "ms", values) for name, values in times.items()]
        section.samples += stages(ours, times[ours.name])
    p50 = {name: quantile(values, 0.5) for name, values in times.items()}
    section.bounds.append(
        Bound(f"devloop / entr, {SMALL} files", p50[ours.name] / p50[peer.name], RATIO_LIMIT)
    )
    if bounded:
        section.bounds.append(
            Bound(f"devloop p50, {SMALL} files", p50[ours.name], P50_LIMIT_MS, "ms")
        )
    return section


def _devloop(
    bench: Bench, sandbox: Sandbox, agent: Agent, script: Script, files: int, *, flat: bool = False
) -> Watcher:
    name = f"devloop up --plain, {files:,} files{', flat' if flat else ''}"
    watcher = new_watcher(bench, sandbox, name, script, files, flat=flat)
    return start_devloop(sandbox, watcher, agent)


def _entr(bench: Bench, sandbox: Sandbox, script: Script, files: int) -> Watcher:
    if shutil.which("entr") is None:
        raise Skipped("entr is not installed: apt-get install entr")
    watcher = new_watcher(bench, sandbox, f"entr -r python3 -u, {files:,} files", script, files)
    return start_entr(sandbox, watcher)


def new_watcher(
    bench: Bench,
    sandbox: Sandbox,
    name: str,
    script: Callable[[str], str],
    files: int,
    *,
    flat: bool = False,
) -> Watcher:
    key = "-".join(re.findall(r"\w+", name))
    project = make_project(sandbox.directory(f"p-{key}"), files, flat=flat)
    return Watcher(name, project, script, SAVES[bench.save], sandbox.root / f"{key}.err")


def measure(bench: Bench, watchers: list[Watcher]) -> dict[str, list[float]]:
    """Milliseconds of each, taken in turns so that what else the machine does meets all alike."""
    times: dict[str, list[float]] = {watcher.name: [] for watcher in watchers}
    pause_s = PAUSE_S / len(watchers)
    rng = random.Random(1)
    for turn in range(WARM_UP + bench.saves):
        for watcher in watchers:
            # No fixed beat: a tool's own timers must not fall into step with the saves.
            time.sleep(pause_s * rng.uniform(1.0, 1.5))
            took = watcher.save()
            if turn >= WARM_UP:
                times[watcher.name].append(took)
    return times


def stages(watcher: Watcher, times: list[float]) -> list[Samples]:
    """What `up` itself says of the same saves, and what is left between that and our clock."""
    time.sleep(PAUSE_S)  # the last run's own line comes after its output
    found = _STAGES.findall(watcher.log.read_text(errors="replace"))[-len(times) :]
    where = watcher.name.removeprefix("devloop up --plain")
    stages: dict[str, list[float]] = {}
    totals = []
    for words in found:
        parts = [(name, float(spent)) for name, spent in _STAGE.findall(words)]
        for name, spent in parts:
            stages.setdefault(name, []).append(spent)
        totals.append(sum(spent for _, spent in parts))
    samples = [Samples(f"    {name}{where}", "ms", values) for name, values in stages.items()]
    if totals:
        rest = [quantile(times, 0.5) - quantile(totals, 0.5)]
        samples.append(Samples(f"    all stages{where}", "ms", totals))
        samples.append(Samples(f"    not in any stage{where}, of the p50s", "ms", rest))
    return samples
