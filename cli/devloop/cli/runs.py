"""The verbs about runs: logs, ps, stop, attach, pull."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING

from devloop.sync.model import LogRecord, Run, RunState

from .attached import attach_to_run, report_end
from .common import (
    choose_run,
    config_of,
    open_agent,
    open_connection,
    open_session,
    say,
    say_kept,
    shell_words,
    workspace_ref,
)
from .output import StreamSink
from .words import duration, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["attach", "logs", "ps", "pull", "stop"]


def logs(args: argparse.Namespace) -> int:
    """Prints a run's output; with --follow, until it has ended."""
    return asyncio.run(_logs(args))


async def _logs(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=False)
    # What has ended is on disk, and only an agent reads it: one that has gone comes back for that.
    async with open_agent(config, start=True) as (client, workspace):
        run = await choose_run(client, workspace, args.run)
        sink = StreamSink()
        async with client.attach(
            workspace.id, run.number, follow=args.follow, lossless=args.follow
        ) as attachment:
            async for event in attachment:
                if isinstance(event, LogRecord):
                    await sink.record(event)
    return 0


def ps(args: argparse.Namespace) -> int:
    """Lists the live runs of the project, or with --all every run of every project."""
    return asyncio.run(_ps(args))


async def _ps(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=False)
    async with open_agent(config, start=args.all) as (client, workspace):
        runs = await client.list_runs("" if args.all else workspace.id)
    shown = runs if args.all else [run for run in runs if run.live]
    if not shown:
        say("no live runs; `devloop ps -a` lists those that have ended")
        return 0
    header = ["RUN", "PROJECT", "STATE", "STARTED", "TIME", "PEAK", "GPU", "COMMAND"]
    sys.stdout.write(table([header, *(_row(run) for run in shown)]))
    return 0


def _row(run: Run) -> list[str]:
    end_ns = run.ended_ns or time.time_ns()
    state = run.end.words if run.state is RunState.ENDED else run.state.name.lower()
    started = time.strftime("%m-%d %H:%M:%S", time.localtime(run.started_ns / 1e9))
    peak = size(run.end.peak_memory_bytes) if run.end.peak_memory_bytes else "-"
    took = duration(max(end_ns - run.started_ns, 0) / 1e9)
    command = shell_words(run.argv)
    gpus = ",".join(gpu.label for gpu in run.gpus) or "-"
    return [str(run.number), run.workspace_name, state, started, took, peak, gpus, command]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the last one is not padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]) + "\n")
    return "".join(lines)


def stop(args: argparse.Namespace) -> int:
    """Ends a run and everything that it started."""
    return asyncio.run(_stop(args))


async def _stop(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=False)
    async with open_agent(config) as (client, workspace):
        run = await choose_run(client, workspace, args.run, live=True)
        if not run.live:
            say(f"run {run.number} has already ended: {run.end.reason}")
            return 0
        stopped, left = await client.stop_run(workspace.id, run.number, kill=args.kill)
    for process in left:
        say(f"still there: {process}")
    for ended in stopped:
        if not ended.live:
            say(f"run {ended.number} ended: {ended.end.words}")
    return 1 if left else 0


def attach(args: argparse.Namespace) -> int:
    """Follows a live run from its first output on, and hands it what is typed."""
    return asyncio.run(_attach(args))


async def _attach(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=False)
    async with open_connection(config) as connection:
        workspace = workspace_ref(config)
        run = await choose_run(connection.client, workspace, args.run, live=args.run is None)
        is_tty = run.live and run.tty and sys.stdin.isatty() and sys.stdout.isatty()
        outcome = await attach_to_run(
            connection,
            workspace.id,
            run.number,
            StreamSink(),
            stdin=run.live,
            is_tty=is_tty,
            owner=os.urandom(16).hex(),  # after a lost link this one, not that of the old link
            is_guest=True,
        )
    if outcome.left_by == 0:  # else the terminal was closed: there is nobody to tell
        say(f"detached; `devloop attach {run.number}` comes back to it")
    if outcome.run is not None and run.live:
        report_end(outcome.run)
    return outcome.status


def pull(args: argparse.Namespace) -> int:
    """Fetches the outputs that runs left in the workspace."""
    return asyncio.run(_pull(args))


async def _pull(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=True)
    if not config.sync.outputs:
        say("sync.outputs names no patterns, so there is nothing to pull")
        return 0
    async with open_session(config) as session:
        result = await session.pull()
    say_kept(result.kept)
    for path in result.unfinished:
        say(f"left out {os.fsdecode(path)}: a run still writes it")
    say(f"pulled {result.files} files, {size(result.size_bytes)}")
    return 1 if result.kept or result.unfinished else 0
