"""What several verbs need: the configuration as flags leave it, a session, words for sizes.

What only a session needs is imported with it: a screen is drawn before there is one.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError
from devloop.sync.agent_errors import RemoteError
from devloop.sync.model import RunSpec

from .config import HOST_IMAGE, load_config, run_environment
from .parser import config_flags
from .statusline import status_line
from .words import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from devloop.cafs.errors import Problem
    from devloop.sync.client import AgentClient
    from devloop.sync.forward import HasClient
    from devloop.sync.images import Container, ImageSource
    from devloop.sync.model import Run, SavedAside, WorkspaceRef
    from devloop.sync.progress import Progress
    from devloop.sync.session import Project, Session
    from devloop.sync.target import Connection, Target

    from .config import Config

__all__ = [
    "NoAgent",
    "choose_run",
    "config_of",
    "container_of",
    "forwarded_ports",
    "has_command",
    "image_source",
    "open_agent",
    "open_connection",
    "open_session",
    "project_of",
    "run_spec",
    "say",
    "say_kept",
    "say_notes",
    "say_problems",
    "say_saved_aside",
    "shell_words",
    "shown_command",
    "target_of",
    "where",
    "workspace_ref",
]

LOCAL = "local"
IMAGE_COMMAND = "the image's own command"

LOCAL_LEASE_S = 5.0  # a Unix socket closes with its client: there is no link to wait for
SHORT_LEASE_S = 30.0  # a link that comes back by then was none that was lost
LEASE_S = 3600.0  # a laptop that sleeps over lunch finds its run as it left it
PATH_KINDS = ("oci", "oci-archive", "docker-archive")
TERMINAL_VARIABLES = frozenset({"TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR"})


class NoAgent(DevloopError):
    """There is nothing to ask, and nothing to end: no agent runs."""

    exit_code = 1
    hint = "`devloop exec` and `devloop up` start it"


class NoRun(DevloopError):
    """The project has no run to speak of: there was nothing to do it to."""

    exit_code = 1
    hint = "`devloop exec -- COMMAND` starts one; `devloop ps -a` lists those of all projects"


def config_of(args: argparse.Namespace, *, will_sync: bool) -> Config:
    return load_config(args.directory, flags=config_flags(args), will_sync=will_sync)


def project_of(config: Config) -> Project:
    from devloop.sync.session import Project

    return Project(
        config.root,
        config.sync.ignore,
        config.sync.outputs,
        container=container_of(config),
        command=tuple(map(os.fsencode, config.run.command)),
    )


def container_of(config: Config) -> Container | None:
    """Where the project's runs live; None: among the box's own files."""
    if config.image == HOST_IMAGE:
        return None
    from devloop.sync.images import Container, Mount  # few projects pay for it

    wanted = config.container
    return Container(
        image_source(config, config.image),
        mounts=tuple(
            Mount(os.fsencode(source), os.fsencode(target), read_only)
            for source, target, read_only in wanted.mounts
        ),
        isolated_network=wanted.network == "isolated",
        shm_bytes=wanted.shm_bytes,
        memory_bytes=wanted.memory_bytes,
        cpus=wanted.cpus,
        keep=wanted.keep,
        caches=wanted.caches,
        user=wanted.user,
        ulimits=tuple(sorted(wanted.ulimits.values())),
    )


def image_source(config: Config, reference: str) -> ImageSource:
    """A path in a reference starts in the project; on another machine the box looks it up."""
    from devloop.sync.images import ImageSource

    kind, colon, path = reference.partition(":")
    if config.target == LOCAL and kind in PATH_KINDS and colon and path[:1] not in "/~":
        reference = f"{kind}:{config.root / path}"
    return ImageSource(reference, config.store, config.registry_mirrors, config.insecure_registries)


@contextlib.asynccontextmanager
async def open_session(config: Config, progress: Progress | None = None) -> AsyncIterator[Session]:
    """`progress` is told how far the session has come, from its first step on."""
    from devloop.sync.session import Session

    session = await Session.open(project_of(config), target_of(config, progress), progress)
    try:
        yield session
    finally:
        await session.close()


@contextlib.asynccontextmanager
async def open_connection(config: Config, *, start: bool = False) -> AsyncIterator[Connection]:
    """To the agent that runs, if one does; with `start`, one is started. Raises NoAgent."""
    from devloop.sync.target import Connection

    target = target_of(config)
    connection = await (Connection.open(target) if start else Connection.open_if_running(target))
    if connection is None:
        raise NoAgent(f"no agent runs {where(target)}, so no run is live")
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def open_agent(
    config: Config, *, start: bool = False
) -> AsyncIterator[tuple[AgentClient, WorkspaceRef]]:
    """As `open_connection`, for verbs that a lost link ends."""
    async with open_connection(config, start=start) as connection:
        yield connection.client, workspace_ref(config)


def workspace_ref(config: Config) -> WorkspaceRef:
    from devloop.sync.session import workspace_of

    return workspace_of(config.root, is_local=config.target == LOCAL)


def target_of(config: Config, progress: Progress | None = None) -> Target:
    """`progress` is told of an installation; without, a line tells of it."""
    if config.target != LOCAL:
        from .box import ssh_target  # runs on this machine do not pay for it

        return ssh_target(config, progress)
    from devloop.sync.local import LocalTarget

    return LocalTarget(config.agent.idle_timeout_s, config.agent.store_limit_bytes)


def where(target: Target) -> str:
    return "here" if target.is_local else f"on {target.name}"


def forwarded_ports(
    config: Config,
    connection: HasClient,
    tell: Callable[[str, str], None] | None = None,
    *,
    quiet: bool = False,
) -> contextlib.AbstractAsyncContextManager[None]:
    """The project's `ports`, while this is open. `tell` hears (text, hint) of what fails."""
    if not config.ports:
        return contextlib.nullcontext()
    from .forward import forwarding, say_trouble  # not every project has some

    return forwarding(config, connection, (lambda *_: None) if quiet else tell or say_trouble)


async def choose_run(
    client: AgentClient, workspace: WorkspaceRef, number: int | None, *, live: bool = False
) -> Run:
    """The run of that number, or the newest (with `live`, the newest live) one. Raises NoRun.

    A shell is meant only by its number.
    """
    for run in await _runs_of(client, workspace):
        is_meant = not run.is_shell and (run.live or not live)
        if run.number == number or (number is None and is_meant):
            return run
    if number is not None:
        raise NoRun(f"{workspace.name} has no run {number}")
    raise NoRun(f"no run of {workspace.name} is live" if live else f"{workspace.name} has no runs")


async def _runs_of(client: AgentClient, workspace: WorkspaceRef) -> list[Run]:
    try:
        return await client.list_runs(workspace.id)
    except RemoteError as error:
        if error.kind != "NoSuchWorkspace":
            raise
        return []


def run_spec(
    config: Config,
    command: Sequence[str],
    *,
    warm: bool = True,
    reason: str = "",
    owner: str = "",
) -> RunSpec:
    """A run on this machine sees what a command started from this shell would see.

    On a box it sees what a command that `ssh` starts would see, and what the project adds; in a
    container, what its image sets.
    """
    is_local = config.target == LOCAL
    is_contained = config.image != HOST_IMAGE
    sees_shell = is_local and not is_contained
    names = os.environ if sees_shell else os.environ.keys() & TERMINAL_VARIABLES
    env = {name: os.fsencode(os.environ[name]) for name in names}
    env |= {name: os.fsencode(value) for name, value in run_environment(config.run).items()}
    return RunSpec(
        argv=tuple(os.fsencode(word) for word in command),
        env=env,
        env_is_whole=sees_shell,
        warm=warm,
        preload=config.run.preload,
        stop_timeout_s=config.run.stop_timeout_s,
        lease_s=_lease_s(config.run.on_disconnect, is_local=is_local),
        reason=reason,
        outputs=config.sync.outputs,
        owner=owner,
        gpus=config.run.gpus,
    )


def has_command(config: Config) -> bool:
    """Or may have one: whether an image names a command, only the box can tell."""
    return bool(config.run.command) or config.image != HOST_IMAGE


def shown_command(config: Config) -> str:
    """What a run runs, for people; empty: nobody says."""
    words = shell_words([os.fsencode(word) for word in config.run.command])
    return words or (IMAGE_COMMAND if has_command(config) else "")


def _lease_s(on_disconnect: str | float, *, is_local: bool) -> float:
    """How long a run goes on while no client is there; 0 = as long as it takes."""
    match on_disconnect:
        case "continue":
            return 0.0
        case "stop":
            return LOCAL_LEASE_S if is_local else SHORT_LEASE_S
        case float():
            return on_disconnect
        case _:
            return LOCAL_LEASE_S if is_local else LEASE_S


# -- talk, on stderr


def say(text: str) -> None:
    status_line.write(f"devloop: {printable(text)}\n")


def say_notes(progress: Progress) -> None:
    """What an image's way to the box is worth a line."""
    for note in progress.take_notes():
        say(note)


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
