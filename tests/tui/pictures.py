"""The screen in each state worth a picture, with clock and data fixed; and a picture as a file."""

from __future__ import annotations

import html
import re
import string
from collections import Counter
from typing import TYPE_CHECKING

from devloop.sync.events import Connected, Paused, Reconnecting
from devloop.sync.metrics import ContainerState, GpuState, Warmth

from .fakes import (
    TRACEBACK,
    FakeGround,
    connected,
    ended,
    facts,
    finished,
    first_output,
    printed,
    sample,
    started,
)

if TYPE_CHECKING:
    from devloop.sync.progress import Step
    from devloop.tui.app import UpApp

SIZES = ((60, 15), (80, 24), (160, 45))
STATES = (
    *("running", "failed", "disconnected", "paused", "no_gpu"),
    *("out_of_memory", "agent_restarted", "prefetching", "first_sync", "asked"),
    "zoomed",
)

_TEXT = re.compile(r'<text class="[^"]*-(r\d+)" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>')
_CLASS = re.compile(r"-(r\d+) \{([^}]*)\}")
_GROUND = re.compile(r'<rect fill="([^"]*)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"')
_LINE = re.compile(r'<clipPath id="[^"]*-line-\d+">')
_MATRIX = re.compile(r'<g class="[^"]*-matrix">(.*?)</g>', re.DOTALL)
CELL_WIDTH, CELL_HEIGHT = 12.2, 24.4
RULE = "─" * 20
LETTERS = string.ascii_letters + string.digits


PREFETCHING = Warmth(
    zygotes=0,
    loading=1,
    container=ContainerState.STARTING,
    ahead_files=412,
    ahead_of_files=1031,
    ahead_bytes=40_000_000,
    ahead_of_bytes=120_000_000,
)


FIRST: dict[str, Step] = {"first_sync": "upload", "prefetching": "apply"}


class Clock:
    """Monotonic seconds, as a test sets them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def ground_of(state: str, theme: str = "default") -> FakeGround:
    image = "registry.example/team/train:latest" if state == "prefetching" else ""
    return FakeGround(
        command="" if state == "asked" else "python train.py", image=image, theme=theme
    )


def show(app: UpApp, clock: Clock, state: str) -> None:
    """Brings the screen into the state, as a session would."""
    if state == "asked":
        return
    app.event(connected())
    if state in FIRST:
        _begin(app, clock, FIRST[state], PREFETCHING if state == "prefetching" else None)
    else:
        _run(app, clock, state)
    app.log_pane.flush()
    app.draw()


def _begin(app: UpApp, clock: Clock, step: Step, warmth: Warmth | None) -> None:
    """Before the first run: what takes the time is told with how far it is."""
    for at in range(3):
        app.sample(sample(at)._replace(warmth=warmth))
    progress = app._progress
    progress._steps.append(step)
    progress.began_s = progress.upload_began_s = clock.now_s - 4.0
    progress.total_files, progress.total_bytes = 12_418, 940_000_000
    progress.sent(4_102, 312_000_000)


def _run(app: UpApp, clock: Clock, state: str) -> None:
    _earlier_runs(app, clock)
    samples = GpuState.NONE if state == "no_gpu" else GpuState.OK
    for at in range(90):
        app.sample(sample(at, state=samples))
    app.round_trip(0.0021)
    app.event(started(14))
    app.event(first_output(14))
    lines = (f"step={i:5} loss={8 / (i + 9):.4f} tok/s={51000 + i}\n" for i in range(60))
    app.event(printed(14, "".join(lines)))
    clock.now_s += 12.4
    app.sample(sample(91, state=samples))
    match state:
        case "failed":
            app.event(printed(14, TRACEBACK, stderr=True))
            app.event(finished(14, ended(1)))
        case "disconnected":
            app.event(Reconnecting("the box does not answer", 0.0))
            clock.now_s += 4.2
            app.event(Reconnecting("the box does not answer", 0.8))
            clock.now_s += 0.3
        case "paused":
            app.event(Paused(paused=True))
            app.log_pane.flush()
            app.log_pane.action_page(-1)
            app.event(printed(14, "".join(f"new line {i}\n" for i in range(312)), record=1))
        case "zoomed":
            app.action_pane("gpu")
            app.action_zoom()
        case "out_of_memory":
            words = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"
            app.event(printed(14, TRACEBACK.partition("Runtime")[0] + words + "\n", stderr=True))
            app.event(finished(14, ended(1)))
        case "agent_restarted":
            app.event(Reconnecting("the agent has ended", 0.0))
            app.event(Connected(facts(pid=7)))
            app.event(finished(14, ended(255, reason="lost: the agent was killed")))


def _earlier_runs(app: UpApp, clock: Clock) -> None:
    app.event(started(12, paths=()))
    app.event(printed(12, "hello\n"))
    app.event(finished(12, ended(0, wall_s=31.0)))
    app.event(started(13))
    app.event(first_output(13, 0.021))
    app.event(finished(13, ended(130, signal=2, reason="stopped for a restart", wall_s=4.2)))
    clock.now_s += 40


def approved_form(svg: str, columns: int) -> str:
    """A picture as a file that people can compare: its characters, below them the style of each
    cell as a letter, and what the letters mean. Without what is random in the SVG."""
    cells = _cells(svg, columns)
    counts = Counter(style for row in cells for _, style in row)
    names = {counts.most_common(1)[0][0]: "."}
    for style in counts:
        names.setdefault(style, LETTERS[len(names) - 1])
    text = ["".join(character for character, _ in row).rstrip() for row in cells]
    styles = ["".join(names[style] for _, style in row).rstrip(".") for row in cells]
    legend = [f"{letter} {style}" for style, letter in names.items()]
    return "\n".join([*text, RULE, *styles, RULE, *legend]) + "\n"


def _cells(svg: str, columns: int) -> list[list[tuple[str, str]]]:
    """(character, style) by row and column."""
    pens = {name: _pen(css) for name, css in _CLASS.findall(svg)}
    rows = len(_LINE.findall(svg)) + 1  # the last one has no clip of its own
    grounds = [[""] * columns for _ in range(rows)]
    for fill, x, y, width in _GROUND.findall(svg):
        start, row = round(float(x) / CELL_WIDTH), int(float(y) / CELL_HEIGHT)
        for at in range(start, min(start + round(float(width) / CELL_WIDTH), columns)):
            grounds[row][at] = f"on {fill}"
    cells = [[(" ", ground) for ground in row] for row in grounds]
    matrix = _MATRIX.search(svg)
    for name, x, y, text in _TEXT.findall(matrix[1] if matrix else svg):
        start, row = round(float(x) / CELL_WIDTH), int(float(y) / CELL_HEIGHT)
        for at, character in enumerate(html.unescape(text).replace("\xa0", " "), start):
            if at < columns:
                cells[row][at] = (character, f"{pens[name]} {grounds[row][at]}")
    return [_without_pens_of_blanks(row) for row in cells]


def _without_pens_of_blanks(row: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A blank has the style of what is before it, where that cannot be seen."""
    before, quiet = "", []
    for character, style in row:
        if character == " " and "underline" not in style + before:
            is_same = before.rpartition("on ")[2] == style.rpartition("on ")[2]
            style = before if is_same and before else "on " + style.rpartition("on ")[2]
        before = style
        quiet.append((character, style))
    return quiet


def _pen(css: str) -> str:
    """ "#c8d0e0 bold underline", from the declarations of a class."""
    words = dict(part.split(":", 1) for part in css.split(";") if ":" in part)
    return " ".join(value.strip() for value in words.values())
