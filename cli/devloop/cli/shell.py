"""`devloop shell`: an interactive shell where runs run.

It opens at once. Where nothing is in the way, the files there are brought up to date first, as
`exec` does; where a run holds them, the shell opens beside it, on the files as they are.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from devloop.sync.progress import Progress
from devloop.sync.session import ensured

from .attached import attach_to_run, report_end, terminal_size
from .common import (
    config_of,
    container_of,
    forwarded_ports,
    open_connection,
    open_session,
    run_spec,
    say,
    say_notes,
    say_problems,
    say_saved_aside,
    workspace_ref,
)
from .errors import UsageError
from .output import StreamSink

if TYPE_CHECKING:
    import argparse

    from devloop.sync.model import RunSpec, WorkspaceRef
    from devloop.sync.session import Session
    from devloop.sync.target import Connection

    from .config import Config

__all__ = ["run"]

TERMINAL_VARIABLES = ("TERM", "COLORTERM")
LONGEST_LEASE_S = 600.0  # also where runs wait longer for a client, or for ever


def run(args: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "devloop shell: stdin and stdout are not both a terminal",
            hint="scripts use `devloop exec -- COMMAND`",
        )
    command, args.command = tuple(args.command), None  # else it would be run.command
    config = config_of(args, will_sync=args.sync)
    return asyncio.run(_shell(args, config, command))


async def _shell(args: argparse.Namespace, config: Config, command: tuple[str, ...]) -> int:
    spec = _spec(args, config, command)
    if not args.sync:
        async with open_connection(config, start=True) as connection:
            workspace = workspace_ref(config)
            if (container := container_of(config)) is not None:
                progress = Progress()
                placed = await ensured(connection.client, container, workspace, progress)
                spec = spec._replace(container=placed)
                say_notes(progress)
            return await _attach(config, connection, workspace, spec)
    async with open_session(config) as session:
        await _sync(session)
        return await _attach(config, session.connection, session.workspace, session.placed(spec))


def _spec(args: argparse.Namespace, config: Config, command: tuple[str, ...]) -> RunSpec:
    from .exec import below_root

    spec = run_spec(config, command, warm=False, reason="shell", owner=os.urandom(16).hex())
    terminal = {
        name: os.environb[name.encode()] for name in TERMINAL_VARIABLES if name in os.environ
    }
    rows, columns = terminal_size()
    lease_s = min(spec.lease_s or LONGEST_LEASE_S, LONGEST_LEASE_S)
    return spec._replace(
        lease_s=lease_s,
        gpus="",  # it would hold them for as long as it is open, or wait for them
        env=terminal | dict(spec.env),
        cwd=below_root(args.directory, config.root),
        stdin=True,
        tty=True,
        rows=rows,
        columns=columns,
    )


async def _sync(session: Session) -> None:
    say_notes(session.progress)
    if session.last_scan is not None:
        say_problems(session.last_scan.problems)
    applied = (await session.push()).applied
    say_saved_aside(applied.saved_aside)
    if applied.busy:
        say(f"run {applied.busy[0]} uses another version of these files: they stay as they are")


async def _attach(
    config: Config, connection: Connection, workspace: WorkspaceRef, spec: RunSpec
) -> int:
    started = await connection.client.start_shell(workspace, spec)
    async with forwarded_ports(config, connection):
        outcome = await attach_to_run(
            connection,
            workspace.id,
            started.number,
            StreamSink(),
            stdin=True,
            is_tty=True,
            owner=spec.owner,
            is_shell=True,
        )
    if outcome.run is not None:
        report_end(outcome.run)
    return outcome.status
