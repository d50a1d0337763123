"""The agent as a process: its socket, its lock, its log file, its end.

There is one agent a socket, and one a state directory: two would give one run number twice. Lock
files say so, since a socket file outlives a killed agent. The socket lies in a directory of mode
0700, which is what keeps other users out: gRPC never asks who the peer is.

On disk, `agent.lock` in the state directory: the socket's path, the machine's name and the agent's
build, a line each. It is empty when the agent has ended in good order.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import logging.handlers
import os
import shlex
import signal
import socket as sockets
from typing import TYPE_CHECKING

import grpc.aio

from devloop.cafs.dirs import (
    DirectoryUnusable,
    bridge_socket_path,
    ensure_own,
    ensure_private,
)
from devloop.cafs.errors import DevloopError
from devloop.proto.v1 import agent_pb2_grpc

from .agent import STORE_LIMIT_BYTES, Agent
from .build import own_build
from .service import MAX_MESSAGE_BYTES, Service

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["AlreadyRunning", "serve"]

logger = logging.getLogger(__name__)

IDLE_CHECK_S = 5.0

# For clients that come over a link: `sshd` may hold a dead one for hours. A client on this machine
# is not asked, since one that is stopped (Ctrl-Z) would not answer.
_PINGS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # else a minute, whatever the line above says
    ("grpc.keepalive_permit_without_calls", 1),
    # What the client sends to notice the same is not too much.
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
)
LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS


class AlreadyRunning(DevloopError):
    """Another agent of this user holds the socket."""

    hint = "`devloop down` ends it"


class StateInUse(DevloopError):
    """Another agent, at another socket, holds the state directory."""

    def __init__(self, state_dir: Path, socket: str, machine: str) -> None:
        where = "" if machine == sockets.gethostname() else f" on {machine}"
        variable = f"DEVLOOP_RUNTIME_DIR={shlex.quote(os.path.dirname(socket))}"
        super().__init__(
            f"{state_dir} is in use by the agent at {socket}{where}",
            hint=f"`{variable} devloop …`{where} speaks to it, `{variable} devloop down`{where} "
            "ends it; or give this one a DEVLOOP_STATE_DIR of its own",
        )


class SocketPathTooLong(DevloopError):
    """The kernel allows no such long path for a Unix socket."""

    hint = "set DEVLOOP_RUNTIME_DIR to a shorter path"


async def serve(
    state_dir: Path,
    socket: Path,
    idle_timeout_s: float,
    ready_fd: int | None,
    store_limit_bytes: int = STORE_LIMIT_BYTES,
) -> None:
    """Serves until a signal, a Shutdown call, or `idle_timeout_s` without a call or a live run.

    One line is written to `ready_fd` once the socket answers. Raises AlreadyRunning, StateInUse
    and others.
    """
    if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
        raise SocketPathTooLong(f"{socket} is too long for a socket")
    ensure_private(socket.parent)
    ensure_own(state_dir)
    with _socket_locked(socket), _state_locked(state_dir, socket):
        _log_to(state_dir / "agent.log")
        bridges = bridge_socket_path(socket)
        for path in (socket, bridges):
            path.unlink(missing_ok=True)
        async with Agent(state_dir, store_limit_bytes) as agent:
            service = Service(agent)
            servers = [_server(service, socket), _server(service, bridges, _PINGS)]
            for server in servers:
                await server.start()
            if ready_fd is not None:
                os.write(ready_fd, b"ready\n")
                os.close(ready_fd)
            try:
                await _until_over(agent, service, idle_timeout_s)
            finally:
                socket.unlink(missing_ok=True)
                bridges.unlink(missing_ok=True)
                await asyncio.gather(*(server.stop(grace=0.5) for server in servers))


def _server(
    service: Service, socket: Path, options: Sequence[tuple[str, int]] = ()
) -> grpc.aio.Server:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            *options,
        ]
    )
    agent_pb2_grpc.add_AgentServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{socket}")
    return server


async def _until_over(agent: Agent, service: Service, idle_timeout_s: float) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, service.stopping.set)
    while not service.stopping.is_set():
        if service.activity.idle_s >= idle_timeout_s and not agent.live_runs():
            logger.info("idle for %g s: ending", idle_timeout_s)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(service.stopping.wait(), min(IDLE_CHECK_S, idle_timeout_s))


@contextlib.contextmanager
def _socket_locked(socket: Path) -> Iterator[None]:
    with _lock(socket.with_suffix(".lock")) as (_, is_ours):
        if not is_ours:
            raise AlreadyRunning("an agent of yours already runs on this machine")
        yield


@contextlib.contextmanager
def _state_locked(state_dir: Path, socket: Path) -> Iterator[None]:
    with _lock(state_dir / "agent.lock") as (fd, is_ours):
        if not is_ours:
            raise StateInUse(state_dir, *_holder(fd))
        with contextlib.suppress(OSError):  # a full disk costs others its name, not the lock
            os.ftruncate(fd, 0)
            words = f"{socket}\n{sockets.gethostname()}\n{own_build()}\n"
            os.pwrite(fd, os.fsencode(words), 0)
        yield
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)


def _holder(fd: int) -> tuple[str, str]:
    """The socket and the machine; it may have locked the file, and not yet written them."""
    lines = os.fsdecode(os.pread(fd, 4096, 0)).splitlines()
    if len(lines) < 2:
        return "ANOTHER/agent.sock", sockets.gethostname()
    return lines[0], lines[1]


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[tuple[int, bool]]:
    """The file, and whether the lock is ours. Raises DirectoryUnusable.

    Some network file systems have no locks; without one nobody is safe from a second agent.
    """
    with contextlib.ExitStack() as stack:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            stack.callback(os.close, fd)
            is_ours = _try_lock(fd)
        except OSError as error:
            raise DirectoryUnusable(
                f"cannot lock {path}: {error.strerror}",
                hint="set DEVLOOP_STATE_DIR and DEVLOOP_RUNTIME_DIR to directories of yours on a "
                "local disk",
            ) from error
        yield fd, is_ours


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _log_to(path: Path) -> None:
    path.touch(mode=0o600)  # others may look into the directory
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=1 << 20, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
