"""Line mode: what the loop tells, as lines. The runs' output on stdout, all talk on stderr.

Also what screen readers, logs and CI get: no colour is needed to read it, and no line is redrawn
but that of a sync which takes longer than a second, on a terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from typing import TYPE_CHECKING, assert_never

from devloop.sync.events import (
    Connected,
    FirstOutput,
    Notice,
    Paused,
    Pulled,
    Reconfigured,
    Reconnecting,
    RunFinished,
    RunLost,
    RunStarted,
    Skipped,
    Waiting,
)
from devloop.sync.model import LogRecord

from .common import say, say_kept, say_problems, say_saved_aside, shown_command
from .output import StreamSink
from .statusline import status_line
from .words import duration, printable, seconds, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devloop.sync.events import Cycle, SessionEvent
    from devloop.sync.loop import Loop
    from devloop.sync.model import Run

    from .renewal import LiveConfig

__all__ = ["Plain", "describe_stages", "describe_start"]

RULE = "──"
LEAVE_WITHIN_S = 2.0
LONGEST_STAGES = 96  # with the indentation, one line of 99 columns


class Plain:
    """Renders one loop's events."""

    def __init__(self, loop: Loop, live: LiveConfig) -> None:
        self._loop = loop
        self._live = live
        self._sink = StreamSink()
        self._cycles: dict[int, Cycle] = {}
        self._interrupted_at = -LEAVE_WITHIN_S  # of `time.monotonic`
        self._leaving = False
        self._lost: set[str] = set()  # what was told of the link that is lost

    async def show(self) -> None:
        """Until the loop ends."""
        while (event := await self._loop.events.get()) is not None:
            try:
                await self._show(event)
            except BrokenPipeError:
                self._loop.leave()

    async def _show(self, event: SessionEvent) -> None:
        match event:
            case LogRecord():
                if not self._leaving:
                    await self._sink.record(event)
            case RunStarted():
                self._cycles[event.run.number] = event.cycle
                say_saved_aside(event.saved_aside)
                self._rule(describe_start(event))
                if event.run.start_note:
                    warmth = "cold" if event.run.start_kind == "cold" else "warm"
                    say(f"{warmth} start: {event.run.start_note}")
            case FirstOutput(number, cycle):
                self._cycles[number] = cycle
            case RunFinished(run):
                self._finished(run)
            case RunLost(number):
                say(f"run {number} ■ lost with its agent; save to run again")
            case Connected(facts):
                self._lost.clear()
                config = self._live.config
                words = shown_command(config)
                what = f"`{words}`" if config.run.command else words
                say(f"watching {config.root}, running {what} on {facts.hostname}")
            case Reconnecting(reason):
                self._lost_link(reason)
            case Waiting(runs):
                numbers = ", ".join(map(str, runs))
                say(
                    f"run {numbers} uses another version of these files; waiting for its end "
                    f"(`devloop attach {runs[0]}` shows it, `devloop stop {runs[0]}` ends it)"
                )
            case Skipped(problems):
                say_problems(problems)
            case Pulled():
                self._pulled(event)
            case Notice(text, hint) | Reconfigured(text, hint):
                say(text)
                if hint:
                    say(f"hint: {hint}")
            case Paused(paused):
                say("paused: saves are noted, nothing runs" if paused else "running on save again")
            case _:
                assert_never(event)

    def _lost_link(self, reason: str) -> None:
        """Each reason once, however often it is tried."""
        if reason not in self._lost:
            first = not self._lost
            self._lost.add(reason)
            say(f"{reason}; trying again until it answers" if first else reason)

    def _rule(self, words: str) -> None:
        status_line.write(f"{RULE} {printable(words)} {RULE}\n")

    def _finished(self, run: Run) -> None:
        glyph, words = "✓" if run.end.status == 0 else "✗", run.end.words
        if run.end.cause:
            # Ended on purpose, but for who ran out of memory.
            glyph = "✗" if run.end.is_out_of_memory else "■"
            words = f"{words} ({run.end.cause})"
        took = duration(run.end.wall_s)
        cycle = self._cycles.pop(run.number, None)
        if cycle is None or not cycle.output_s:
            self._rule(f"run {run.number} {glyph} {words} · {took}")
        else:
            to_output = f"save→out {seconds(cycle.total_s)}"
            self._rule(f"run {run.number} {glyph} {words} · {took} · {to_output}")
            sys.stderr.write(f"   {describe_stages(cycle)}\n")
        if run.end.is_out_of_memory:
            say(f"kernel: {run.end.detail}")
        if run.end.start_failed and run.end.detail:
            say(f"hint: {run.end.detail}")

    def _pulled(self, pulled: Pulled) -> None:
        if pulled.files:
            files = "1 output" if pulled.files == 1 else f"{pulled.files} outputs"
            say(f"pulled {files}, {size(pulled.size_bytes)}")
        say_kept(pulled.kept)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C interrupts the run; again, within two seconds, it leaves."""
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGINT: self._interrupt,
            signal.SIGTERM: self._loop.leave,
            signal.SIGHUP: self._loop.leave,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        before, self._interrupted_at = self._interrupted_at, time.monotonic()
        if self._interrupted_at - before < LEAVE_WITHIN_S:
            self._leaving = True
            say("leaving")
            self._loop.leave(kill=True)
        elif self._lost and self._loop.live_run is not None:
            say(f"run {self._loop.live_run} cannot be reached now; Ctrl-C again to leave it there")
        elif self._loop.live_run is not None:
            say(f"interrupting run {self._loop.live_run}; Ctrl-C again to leave")
            self._loop.interrupt()
        else:
            say("Ctrl-C again to leave")


def describe_start(event: RunStarted) -> str:
    """ "run 14 · model.py changed · synced 3 files in 0.021 s"."""
    parts = [f"run {event.run.number}", event.run.reason, event.run.gpu_words]
    if event.files_sent:
        files = "1 file" if event.files_sent == 1 else f"{event.files_sent} files"
        parts.append(f"synced {files} in {seconds(event.cycle.sync_s)}")
    return " · ".join(part for part in parts if part)


def describe_stages(cycle: Cycle) -> str:
    """ "detect 2.1 · scan 0.4 · … · output 3.2 ms", with fewer digits where it gets too long."""
    spent_ms = [(name, 1000 * spent_s) for name, spent_s in cycle.stages() if spent_s]
    for digits, between in ((1, " · "), (0, " · "), (0, " ")):
        line = between.join(f"{name} {ms:.{digits}f}" for name, ms in spent_ms) + " ms"
        if len(line) <= LONGEST_STAGES:
            break
    return line
