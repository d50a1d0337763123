"""What several verbs need: the configuration as flags leave it, a session, words for sizes."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError
from devloop.sync import local
from devloop.sync.model import RunSpec
from devloop.sync.session import Project, Session, workspace_of

from .config import load_config, run_environment
from .parser import config_flags
from .words import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Iterable, Sequence

    from devloop.cafs.errors import Problem
    from devloop.sync.client import AgentClient
    from devloop.sync.model import Run, SavedAside, WorkspaceRef

    from .config import Config

__all__ = [
    "NoAgent",
    "choose_run",
    "config_of",
    "open_agent",
    "open_session",
    "project_of",
    "run_spec",
    "say",
    "say_kept",
    "say_problems",
    "say_saved_aside",
    "shell_words",
]

LOCAL_LEASE_S = 5.0  # a Unix socket closes with its client: there is no link to wait for


class NoAgent(DevloopError):
    """There is nothing to ask: no agent runs."""

    hint = "`devloop exec` and `devloop up` start it"


class NoRun(DevloopError):
    """The project has no run to speak of: there was nothing to do it to."""

    exit_code = 1
    hint = "`devloop exec -- COMMAND` starts one; `devloop ps -a` lists those of all projects"


def config_of(args: argparse.Namespace, *, will_sync: bool) -> Config:
    return load_config(args.directory, flags=config_flags(args), will_sync=will_sync)


def project_of(config: Config) -> Project:
    return Project(config.root, config.sync.ignore, config.sync.outputs)


@contextlib.asynccontextmanager
async def open_session(config: Config) -> AsyncIterator[Session]:
    session = await Session.open(project_of(config), idle_timeout_s=config.agent.idle_timeout_s)
    try:
        yield session
    finally:
        await session.close()


@contextlib.asynccontextmanager
async def open_agent(
    config: Config, *, start: bool = False
) -> AsyncIterator[tuple[AgentClient, WorkspaceRef]]:
    """The agent that runs, if one does; with `start`, one is started. Raises NoAgent."""
    starting = local.connect(config.agent.idle_timeout_s) if start else None
    found = await (starting or local.connect_if_running())
    if found is None:
        raise NoAgent("no agent runs here")
    client, _ = found
    try:
        yield client, workspace_of(config.root)
    finally:
        await client.close()


async def choose_run(
    client: AgentClient, workspace: WorkspaceRef, number: int | None, *, live: bool = False
) -> Run:
    """The run of that number, or the newest (with `live`, the newest live) one. Raises NoRun."""
    runs = await client.list_runs(workspace.id)
    for run in runs:
        if run.number == number or (number is None and (run.live or not live)):
            return run
    if number is not None:
        raise NoRun(f"{workspace.name} has no run {number}")
    raise NoRun(f"no run of {workspace.name} is live" if live else f"{workspace.name} has no runs")


def run_spec(
    config: Config,
    command: Sequence[str],
    *,
    warm: bool = True,
    reason: str = "",
    owner: str = "",
) -> RunSpec:
    """A run on this machine sees what a command started from this shell would see."""
    env = {name: os.fsencode(value) for name, value in os.environ.items()}
    env |= {name: os.fsencode(value) for name, value in run_environment(config.run).items()}
    return RunSpec(
        argv=tuple(os.fsencode(word) for word in command),
        env=env,
        env_is_whole=True,
        warm=warm,
        preload=config.run.preload,
        stop_timeout_s=config.run.stop_timeout_s,
        lease_s=LOCAL_LEASE_S,
        reason=reason,
        outputs=config.sync.outputs,
        owner=owner,
    )


# -- talk, on stderr


def say(text: str) -> None:
    sys.stderr.write(f"devloop: {printable(text)}\n")
    sys.stderr.flush()


def say_problems(problems: Sequence[Problem]) -> None:
    for problem in problems[:5]:
        say(f"skipped {os.fsdecode(problem.path)!r}: {problem.reason}")
    if len(problems) > 5:
        say(f"skipped {len(problems) - 5} more files")


def say_kept(paths: Iterable[bytes]) -> None:
    """Of a pull: what it did not replace."""
    for path in paths:
        say(f"kept {os.fsdecode(path)}: it was there before, and differs; move it away and pull")


def say_saved_aside(saved: Sequence[SavedAside]) -> None:
    for aside in saved:
        kept = os.fsdecode(aside.kept_at)
        say(f"{os.fsdecode(aside.path)} had changed on the box; that version is kept at {kept}")


def shell_words(argv: Sequence[bytes]) -> str:
    """The command as one would type it."""
    import shlex

    return printable(shlex.join(os.fsdecode(word) for word in argv))
