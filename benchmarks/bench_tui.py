"""The screen: its first picture, what a save costs more than in line mode, floods, and idleness."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from devloop.tui.log.pane import LogPane

from .bench_saves import TRIVIAL, measure
from .bench_tui_log import SIZE, PaneApp, log_batches, measure_pane
from .figures import Bound, Samples, Section, quantile
from .processes import cpu_s
from .projects import SAVES
from .screens import Screen, ScreenWatcher
from .watchers import Watcher, start_devloop

if TYPE_CHECKING:
    from .plan import Bench

__all__ = [
    "bench_tui_flood",
    "bench_tui_idle",
    "bench_tui_log",
    "bench_tui_paint",
    "bench_tui_save",
]

PAINT_LIMIT_MS = 400.0
LINES_LIMIT = 50_000.0
FRAME_LIMIT_MS = 25.0
LAG_LIMIT_MS = 50.0
FLOOD_LIMIT_PERCENT = 40.0
SAVE_LIMIT_MS = 60.0
IDLE_LIMIT_PERCENT = 1.0
MEMORY_LIMIT_MB = 400.0
RATE = 10_000  # lines a second
FLOOD_S = 5.0
PAUSE_S = 1.0  # for the first line to be drawn
SETTLE_S = 5.0
TICK_S = 0.005
# In each tenth of a second as many lines as the rate asks for, coloured.
FLOOD = f"""
import sys, time
line = "\\x1b[2m12:00:11\\x1b[0m \\x1b[32mINFO\\x1b[0m step=%7d loss=0.8118 tok/s=51143\\n"
print("flood begins", flush=True)
time.sleep({PAUSE_S})
began, step = time.monotonic(), 0
while True:
    step += {RATE // 10}
    sys.stdout.write("".join(line % at for at in range(step - {RATE // 10}, step)))
    sys.stdout.flush()
    time.sleep(max(0, began + step / {RATE} - time.monotonic()))
"""


def bench_tui_paint(bench: Bench) -> Section:
    """From the command to a picture with its last line; the session is opened after it."""
    section = Section("tui-paint", "first picture of `devloop up`")
    with bench.sandbox() as sandbox:
        agent, project = sandbox.agent("a"), sandbox.directory("project")
        (project / "main.py").write_text("print('up')\n")
        agent.exec(project, "true")
        times = []
        for _ in range(bench.starts):
            screen = Screen(sandbox, agent, project, "up", "--", "true")
            times.append((screen.wait_for(b"quit") - screen.began) / 1e6)
            screen.wait_for(b"exit 0")
            screen.type("q")
            screen.process.wait(30)
    section.samples.append(Samples("to the footer", "ms", times))
    section.bounds.append(Bound("p50", quantile(times, 0.5), PAINT_LIMIT_MS, "ms"))
    return section


def bench_tui_save(bench: Bench) -> Section:
    section = Section("tui-save", "save → first line, on the screen and in line mode")
    with bench.sandbox() as sandbox:
        way = SAVES[bench.save]
        lines = Watcher(
            "up --plain", sandbox.directory("plain"), TRIVIAL, way, sandbox.root / "plain.err"
        )
        screen = ScreenWatcher(
            "the screen", sandbox.directory("tui"), TRIVIAL, way, sandbox.root / "tui.err"
        )
        start_devloop(sandbox, lines, sandbox.agent("a"))
        screen.open(sandbox, sandbox.agent("b"))
        times = measure(bench, [lines, screen])
    section.samples += [Samples(name, "ms", values) for name, values in times.items()]
    more = quantile(times["the screen"], 0.5) - quantile(times["up --plain"], 0.5)
    section.bounds.append(Bound("later than in line mode, p50", more, SAVE_LIMIT_MS, "ms"))
    return section


def bench_tui_log(bench: Bench) -> Section:
    """The pane alone, and the memory of a million lines in a process of their own."""
    section = Section("tui-log", f"the log pane at {SIZE[0]}×{SIZE[1]}, without a terminal")
    pane = asyncio.run(measure_pane())
    section.bounds += [
        Bound("lines/s settled", pane.lines_per_s, LINES_LIMIT, "lines/s", at_least=True),
        Bound("a frame of 100 lines", pane.frame_cpu_s * 1e3, FRAME_LIMIT_MS, "ms CPU"),
    ]
    million = (
        "import json; from benchmarks.bench_tui_log import measure_million_lines as m;"
        "print(json.dumps(m()._asdict()))"
    )
    found = subprocess.run([sys.executable, "-c", million], capture_output=True, check=True)
    figures = json.loads(found.stdout)
    section.bounds.append(
        Bound("10⁶ lines", figures["size_bytes"] / 1e6, MEMORY_LIMIT_MB, "MB of memory")
    )
    section.samples += [
        Samples("search of 10⁶ lines", "s", [figures["search_s"]]),
        Samples("longest step of it", "ms", [figures["longest_step_s"] * 1e3]),
    ]
    return section


def bench_tui_flood(bench: Bench) -> Section:
    """The real thing's processor time; how late its event loop is, from the pane alone."""
    section = Section("tui-flood", f"{RATE:,} coloured lines a second for {FLOOD_S:g} s")
    lags_ms = asyncio.run(_lags_ms())
    section.samples.append(Samples("lag of the event loop", "ms", lags_ms))
    section.bounds.append(Bound("lag p99", quantile(lags_ms, 0.99), LAG_LIMIT_MS, "ms"))
    with bench.sandbox() as sandbox:
        agent, project = sandbox.agent("a"), sandbox.directory("project")
        (project / "main.py").write_text(FLOOD)
        screen = Screen(sandbox, agent, project, "up", "--", "python3", "main.py")
        screen.wait_for(b"flood begins")
        time.sleep(2 * PAUSE_S)
        share = _share(screen.process.pid, FLOOD_S)
    section.bounds.append(Bound("processor", share, FLOOD_LIMIT_PERCENT, "% of a core"))
    return section


def bench_tui_idle(bench: Bench) -> Section:
    section = Section("tui-idle", f"the screen, idle for {bench.idle_s:g} s after a run")
    with bench.sandbox() as sandbox:
        agent, project = sandbox.agent("a"), sandbox.directory("project")
        (project / "main.py").write_text("print('up')\n")
        screen = Screen(sandbox, agent, project, "up", "--", "python3", "main.py")
        screen.wait_for(b"exit 0")
        time.sleep(SETTLE_S)
        share = _share(screen.process.pid, bench.idle_s)
    section.bounds.append(Bound("processor", share, IDLE_LIMIT_PERCENT, "% of a core"))
    return section


def _share(pid: int, window_s: float) -> float:
    """Percent of a core that a process takes."""
    before, began = cpu_s({pid})[pid], time.monotonic()
    time.sleep(window_s)
    return 100 * (cpu_s({pid})[pid] - before) / (time.monotonic() - began)


async def _lags_ms() -> list[float]:
    """How much later than asked for a sleeper wakes, while a pane takes the flood."""
    app, lags_ms = PaneApp(), list[float]()
    async with app.run_test(size=SIZE):
        feeding = asyncio.create_task(_feed(app.query_one(LogPane)))
        while not feeding.done():
            began = time.perf_counter()
            await asyncio.sleep(TICK_S)
            lags_ms.append((time.perf_counter() - began - TICK_S) * 1e3)
    return lags_ms


async def _feed(pane: LogPane) -> None:
    began = time.monotonic()
    for at, data in enumerate(log_batches(int(RATE * FLOOD_S))):
        pane.append(1, "stdout", data, time.time_ns())
        await asyncio.sleep(max(0.0, began + at * 100 / RATE - time.monotonic()))
