"""The target `local`: an agent on this machine, a process of its own like on any other box."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import select
import sys
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs import dirs
from devloop.cafs.errors import DevloopError
from devloop.cafs.version import VERSION

from .agent_errors import AgentGone
from .target import AgentEnded, OtherVersion, import_client

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .client import AgentClient
    from .model import HostFacts

__all__ = ["AgentDidNotStart", "LocalTarget", "connect_if_running"]

START_TIMEOUT_S = 20.0
HELLO_TIMEOUT_S = 10.0

_started: list[subprocess.Popen[bytes]] = []


class AgentDidNotStart(DevloopError):
    """The embedded agent could not be started; the message holds its last words."""


class _Settings(NamedTuple):
    idle_timeout_s: float
    store_limit_bytes: int


class LocalTarget:
    """The target `local`. See `target.Target`."""

    name = "local"
    is_local = True

    def __init__(self, idle_timeout_s: float, store_limit_bytes: int = 50 * 10**9) -> None:
        """For an agent that this starts: after `idle_timeout_s` without work it ends itself, and
        it drops blobs that nobody needs to keep its store below `store_limit_bytes`."""
        self._settings = _Settings(idle_timeout_s, store_limit_bytes)

    async def connect(self, *, again: bool = False) -> tuple[AgentClient, HostFacts]:
        """An idle agent of another version is replaced.

        Raises AgentDidNotStart, OtherVersion, AgentEnded.
        """
        if again and await _was_ended():
            raise AgentEnded("the agent was ended by `devloop down`")
        return await _connect(self._settings)

    async def connect_if_running(self) -> tuple[AgentClient, HostFacts] | None:
        return await connect_if_running()

    async def wait_until_ended(self) -> bool:
        return await wait_until_ended()

    async def close(self) -> None:
        """There is nothing between us and the agent."""

    async def forget(self) -> None:
        """As for `close`."""


async def connect_if_running() -> tuple[AgentClient, HostFacts] | None:
    """The agent of this user on this machine, of whatever version; None when there is none.

    Raises DirectoryUnusable for a socket that somebody else may have planted.
    """
    socket = dirs.socket_path()
    # The directory comes first: in one that somebody else has closed, no socket can be looked for.
    if not dirs.is_private(socket.parent) or not socket.exists():
        return None
    client = import_client()(socket)
    try:
        return client, await client.hello(timeout_s=HELLO_TIMEOUT_S)
    except AgentGone:
        await client.close()  # a killed agent leaves its socket
        return None
    except BaseException:
        await client.close()
        raise


async def _connect(settings: _Settings) -> tuple[AgentClient, HostFacts]:
    found = await connect_if_running()
    if found is not None and found[1].agent_version != VERSION:
        await _replace_other_version(*found)
        found = None
    if found is not None:
        return found
    dirs.ensure_private(dirs.runtime_dir())
    async with _starting():
        found = await connect_if_running()
        if found is None:
            await asyncio.to_thread(_start_agent, settings)
            found = await connect_if_running()
    if found is None:
        raise AgentDidNotStart(
            "the agent started, and does not answer",
            hint=f"its log is {dirs.state_dir() / 'agent.log'}",
        )
    return found


async def _replace_other_version(client: AgentClient, facts: HostFacts) -> None:
    live = await client.shutdown(stop_runs=False)
    await client.close()
    if live:
        raise OtherVersion("here", facts.agent_version, live)
    await wait_until_ended()


async def _was_ended() -> bool:
    """Whether it ended in good order: a killed agent leaves its socket."""
    if dirs.socket_path().exists():
        return False
    await wait_until_ended()
    return not dirs.socket_path().exists()


async def wait_until_ended(timeout_s: float = 15.0) -> bool:
    """Until the agent's lock is free: its socket is gone, and its runs with it."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    path = dirs.socket_path().with_suffix(".lock")
    while asyncio.get_running_loop().time() < deadline:
        if not _is_locked(path):
            return True
        await asyncio.sleep(0.01)
    return False


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.asynccontextmanager
async def _starting() -> AsyncIterator[None]:
    """Two clients must not start two agents."""
    with (dirs.runtime_dir() / "start.lock").open("wb") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield


def _start_agent(settings: _Settings) -> None:
    import subprocess  # only the first command of a day pays for it

    if importlib.util.find_spec("psutil") is None:
        raise AgentDidNotStart(
            "this machine lacks the agent's half of devloop",
            hint="pip install 'devloop[agent]'",
        )
    _started[:] = [process for process in _started if process.poll() is None]
    ready_read, ready_write = os.pipe()
    errors_read, errors_write = os.pipe()
    try:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "devloop.remote_agent", "serve"),
                *("--idle-timeout", str(settings.idle_timeout_s)),
                *("--store-limit", str(settings.store_limit_bytes)),
                *("--ready-fd", str(ready_write)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors_write,
            pass_fds=[ready_write],
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(ready_write)
        os.close(errors_write)
    with os.fdopen(ready_read, "rb") as ready, os.fdopen(errors_read, "rb") as errors:
        readable, _, _ = select.select([ready], [], [], START_TIMEOUT_S)
        if not readable:
            process.kill()
            raise AgentDidNotStart(f"the agent did not answer within {START_TIMEOUT_S:g} s")
        if not ready.readline():
            process.wait()
            raise _did_not_start(errors.read().decode(errors="replace"))
    # It outlives this process; a client that outlives it, and starts another one, buries it.
    _started.append(process)


def _did_not_start(words: str) -> AgentDidNotStart:
    """From the agent's `error: …` and `hint: …` lines, or the end of its traceback."""
    lines = [line for line in words.splitlines() if line.strip()]
    message, hint = "the agent did not start", ""
    for line in lines:
        if line.startswith("error: "):
            message = line.removeprefix("error: ")
        elif line.startswith("hint: "):
            hint = line.removeprefix("hint: ")
    if message == "the agent did not start" and lines:
        message = f"{message}: {lines[-1]}"
    return AgentDidNotStart(message, hint=hint)
