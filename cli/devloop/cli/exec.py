"""`devloop exec`: sync, run once, and exit as the command did."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError
from devloop.sync.agent_errors import RemoteError
from devloop.sync.model import OnBusy
from devloop.sync.progress import Progress

from .attached import attach_to_run, report_end, terminal_size
from .common import (
    config_of,
    forwarded_ports,
    has_command,
    open_session,
    run_spec,
    say,
    say_kept,
    say_notes,
    say_problems,
    say_saved_aside,
)
from .errors import UsageError, report_error
from .jsonlines import JsonSink
from .output import StreamSink
from .progress import shown_progress

if TYPE_CHECKING:
    import argparse

    from devloop.sync.model import Run, RunSpec
    from devloop.sync.push import Pushed
    from devloop.sync.session import Session

    from .config import Config

__all__ = ["below_root", "run"]


def run(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=True)
    if not has_command(config):
        raise UsageError(
            "devloop exec: no command",
            hint="devloop exec -- python train.py; or set run.command in devloop.toml",
        )
    return asyncio.run(_exec(args, config))


async def _exec(args: argparse.Namespace, config: Config) -> int:
    progress = Progress()
    shown = contextlib.nullcontext() if args.quiet else shown_progress(progress)
    async with shown, open_session(config, progress) as session:
        spec = _spec(args, config, session.owner)
        if not args.quiet:
            say_notes(session.progress)
            say_problems(session.last_scan.problems if session.last_scan is not None else ())
        if args.fresh:
            await _cool(session)
        pushed = await _push(session, spec, quiet=args.quiet)
        started = pushed.applied.run
        assert started is not None, "an applied push with a spec has a run"
        if not args.quiet:
            say_saved_aside(pushed.applied.saved_aside)
            if started.gpus:
                names = ", ".join(dict.fromkeys(gpu.name for gpu in started.gpus))
                say(f"run {started.number} has {started.gpu_words} ({names})")
        sink = JsonSink() if args.json else StreamSink(quiet=args.quiet)
        if isinstance(sink, JsonSink):
            await _emit_started(sink, pushed, started)
        if args.detach:
            if not args.json:
                sys.stdout.write(f"{started.number}\n")
            return 0
        async with forwarded_ports(config, session, quiet=args.quiet):
            outcome = await attach_to_run(
                session.connection,
                session.workspace.id,
                started.number,
                sink,
                stdin=spec.stdin,
                is_tty=spec.tty,
                owner=session.owner,
            )
        if outcome.run is not None and outcome.is_complete:
            if config.sync.outputs:  # the import alone costs a start 5 ms
                await _pull(session, quiet=args.quiet)
            if isinstance(sink, JsonSink):
                await _emit_ended(sink, outcome.run)
            else:
                report_end(outcome.run)
        return outcome.status


class StillLive(DevloopError):
    """What is live in the container would end with it."""

    hint = "`devloop stop` ends it; without --fresh this run shares its container"


async def _cool(session: Session) -> None:
    """As the screen's `R` does. A workspace in which nothing has run is as cold as can be."""
    client, workspace_id = session.client, session.workspace.id
    try:
        if live := [run.number for run in await client.list_runs(workspace_id) if run.live]:
            raise StillLive(f"devloop exec --fresh: run {', '.join(map(str, live))} is live")
        await client.cool(workspace_id)
    except RemoteError as error:
        if error.kind != "NoSuchWorkspace":
            raise


async def _emit_started(sink: JsonSink, pushed: Pushed, started: Run) -> None:
    await sink.emit(
        "started",
        run=started.number,
        command=[os.fsdecode(word) for word in started.argv],
        tree=started.tree.hex(),
        start=started.start_kind,
        gpus=[gpu._asdict() for gpu in started.gpus],
        files_sent=pushed.blobs_sent,
        bytes_sent=pushed.bytes_sent,
    )


def _spec(args: argparse.Namespace, config: Config, owner: str) -> RunSpec:
    spec = run_spec(config, config.run.command, warm=args.warm, reason="exec", owner=owner)
    if args.command:  # run.command starts in the project's root, what is typed where it is typed
        spec = spec._replace(cwd=below_root(args.directory, config.root))
    if args.detach:
        return spec._replace(lease_s=0.0)
    is_tty = args.tty
    if is_tty is None:
        is_tty = sys.stdin.isatty() and sys.stdout.isatty() and not args.json
    elif is_tty and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "devloop exec -t: stdin and stdout are not both a terminal", hint="leave -t out"
        )
    rows, columns = terminal_size() if is_tty else (0, 0)
    return spec._replace(stdin=True, tty=is_tty, rows=rows, columns=columns)


def below_root(directory: str | None, root: Path) -> bytes:
    here = Path(directory or ".").resolve()
    below = os.fsencode(here.relative_to(root)) if here.is_relative_to(root) else b"."
    return b"" if below == b"." else below


async def _push(session: Session, spec: RunSpec, *, quiet: bool) -> Pushed:
    pushed = await session.push(run=spec)
    if not (pushed.applied.busy or pushed.applied.gpus_busy):
        return pushed
    if pushed.applied.gpus_busy and not quiet:
        say(pushed.applied.gpus_awaited)
    elif not quiet:
        runs = ", ".join(map(str, pushed.applied.busy))
        say(
            f"run {runs} uses another version of these files; waiting for its end "
            f"(`devloop stop {pushed.applied.busy[0]}` ends it)"
        )
    return await session.push(run=spec, on_busy=OnBusy.WAIT)


async def _pull(session: Session, *, quiet: bool) -> None:
    """A failure is told; the exit code is the command's."""
    try:
        result = await session.pull()
    except DevloopError as error:
        report_error(error, sys.stderr)
        return
    if not quiet:
        say_kept(result.kept)


async def _emit_ended(sink: JsonSink, run: Run) -> None:
    end = run.end
    await sink.emit(
        "ended",
        run=run.number,
        exit_code=end.exit_code,
        signal=end.signal,
        reason=end.reason,
        wall_s=end.wall_s,
        user_s=end.user_s,
        system_s=end.system_s,
        peak_memory_bytes=end.peak_memory_bytes,
    )
