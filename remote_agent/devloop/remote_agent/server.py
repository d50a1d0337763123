"""The agent as a process: its socket, its lock, its log file, its end.

There is one agent a user. A lock file says so, since a socket file outlives a killed agent; the
socket lies in a directory of mode 0700, which is what keeps other users out: gRPC never asks who
the peer is.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import logging.handlers
import os
import signal
from typing import TYPE_CHECKING

import grpc.aio

from devloop.cafs.dirs import ensure_private
from devloop.cafs.errors import DevloopError
from devloop.proto.v1 import agent_pb2_grpc

from .agent import Agent
from .service import MAX_MESSAGE_BYTES, Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["AlreadyRunning", "serve"]

logger = logging.getLogger(__name__)

IDLE_CHECK_S = 5.0
LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS


class AlreadyRunning(DevloopError):
    """Another agent of this user holds the lock."""

    hint = "`devloop down` ends it"


class SocketPathTooLong(DevloopError):
    """The kernel allows no such long path for a Unix socket."""

    hint = "set DEVLOOP_RUNTIME_DIR to a shorter path"


async def serve(state_dir: Path, socket: Path, idle_timeout_s: float, ready_fd: int | None) -> None:
    """Serves until a signal, a Shutdown call, or `idle_timeout_s` without a call or a live run.

    One line is written to `ready_fd` once the socket answers. Raises AlreadyRunning and others.
    """
    if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
        raise SocketPathTooLong(f"{socket} is too long for a socket")
    ensure_private(socket.parent)
    ensure_private(state_dir)
    with _locked(socket.with_suffix(".lock")):
        _log_to(state_dir / "agent.log")
        socket.unlink(missing_ok=True)
        async with Agent(state_dir) as agent:
            service = Service(agent)
            server = grpc.aio.server(
                options=[
                    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ]
            )
            agent_pb2_grpc.add_AgentServicer_to_server(service, server)
            server.add_insecure_port(f"unix:{socket}")
            await server.start()
            if ready_fd is not None:
                os.write(ready_fd, b"ready\n")
                os.close(ready_fd)
            try:
                await _until_over(agent, service, idle_timeout_s)
            finally:
                socket.unlink(missing_ok=True)
                await server.stop(grace=0.5)


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
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise AlreadyRunning("an agent of yours already runs on this machine") from None
    try:
        yield
    finally:
        os.close(fd)


def _log_to(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=1 << 20, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
