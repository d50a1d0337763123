"""Ports of this machine that lead to the box, and ports of the box that lead here.

Owns the sockets on this side and what becomes of each connection. One ends whole when both sides
have ended it, and is reset otherwise, so that nobody takes half of a stream for all of it.
Connections end with the link; the listening sockets stay, and work again with the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from devloop.cafs.errors import DevloopError

from .agent_errors import AgentGone, RemoteError
from .carrier import MAX_DATA_BYTES, Carrier
from .ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from .carrier import Accepted
    from .client import AgentClient
    from .ports import PortSpec

    Opening: TypeAlias = Callable[[], Awaitable[None]]

__all__ = ["Forwarder", "HasClient", "PortInUse"]

MAX_CONNECTIONS = 512  # at once; others wait in the kernel's queue
BACKLOG = 128
OUT_OF_DESCRIPTORS_S = 0.5  # until the next try
PORTS_TRIED = 100  # for the hint that names a free one
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class PortInUse(DevloopError):
    """A port of this machine cannot be listened on."""


class HasClient(Protocol):
    """Whatever holds the connection to the agent: it may be another one after each loss."""

    @property
    def client(self) -> AgentClient: ...


class Forwarder:
    """Carries connections while it is open. `tell` hears (text, hint), once for each trouble."""

    def __init__(self, connection: HasClient, tell: Callable[[str, str], None]) -> None:
        self._connection = connection
        self._tell = tell
        self._sockets = contextlib.ExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._troubled: set[PortSpec] = set()
        self._owner = os.urandom(16).hex()

    async def __aenter__(self) -> Forwarder:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Resets what is open."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sockets.close()

    def listen(self, spec: PortSpec) -> None:
        """From now on, connections to its listening side here lead to the box. Raises PortInUse."""
        for sock in _listening_sockets(spec):
            self._sockets.enter_context(sock)
            self._spawn(self._accept(sock, spec))

    async def listen_on_box(self, specs: Sequence[PortSpec], on_open: Callable[[], None]) -> None:
        """Connections to their listening sides on the box lead here, until the link is lost.

        `on_open` is called when the box listens. Raises AgentGone, and RemoteError when it cannot.
        """
        on_box = self._connection.client.accepted_on_box(specs, self._owner)
        async with contextlib.aclosing(on_box) as accepted:
            async for one in accepted:
                if one.id:
                    self._spawn(self._take_up(one, specs[one.port_index]))
                else:
                    on_open()
        raise AgentGone("the agent has ended")

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._tell(f"a forwarded port failed: {error}", "")

    async def _accept(self, listening: socket.socket, spec: PortSpec) -> None:
        while True:
            await self._room.acquire()
            sock = await _accepted(listening)
            self._spawn(self._carry_to_box(sock, spec))

    async def _carry_to_box(self, sock: socket.socket, spec: PortSpec) -> None:
        try:
            with contextlib.closing(self._connection.client.carrier()) as carrier:
                await self._carry(
                    sock, carrier, partial(carrier.connect, spec.host, spec.port), spec
                )
        except AgentGone:  # there is no link now: whoever holds the connection tells of it
            _reset(sock)
        finally:
            self._room.release()

    async def _take_up(self, accepted: Accepted, spec: PortSpec) -> None:
        """Where nothing listens here, the box's connection is reset."""
        with (
            contextlib.suppress(AgentGone),
            contextlib.closing(self._connection.client.carrier()) as carrier,
        ):
            try:
                sock = await _connect(spec.host, spec.port)
            except OSError as error:
                self._say_once(spec, f"{spec}: {_refused(spec, error)}", "")
                await carrier.refuse(accepted)
                return
            await self._carry(sock, carrier, partial(carrier.take_up, accepted), spec)

    async def _carry(
        self, sock: socket.socket, carrier: Carrier, opening: Opening, spec: PortSpec
    ) -> None:
        """Until both sides have ended it. What cuts it is told, once, unless it is the link."""
        try:
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # it may be gone already
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_to_box(sock, carrier, opening))
                tasks.create_task(self._from_box(sock, carrier, spec))
        except BaseExceptionGroup as group:
            _reset(sock)
            for error in group.exceptions:
                if isinstance(error, RemoteError) and error.kind == "Unreachable":
                    self._say_once(spec, f"{spec}: {error}", error.hint)
        except BaseException:
            _reset(sock)
            raise
        else:
            sock.close()

    async def _from_box(self, sock: socket.socket, carrier: Carrier, spec: PortSpec) -> None:
        loop = asyncio.get_running_loop()
        async for data in carrier:
            self._troubled.discard(spec)
            if data:
                await loop.sock_sendall(sock, data)
            else:
                sock.shutdown(socket.SHUT_WR)

    def _say_once(self, spec: PortSpec, text: str, hint: str) -> None:
        """Until a connection has worked: a browser tries again and again."""
        if spec not in self._troubled:
            self._troubled.add(spec)
            self._tell(text, hint)


async def _to_box(sock: socket.socket, carrier: Carrier, opening: Opening) -> None:
    loop = asyncio.get_running_loop()
    try:
        await opening()
        while data := await loop.sock_recv(sock, MAX_DATA_BYTES):
            await carrier.send(data)
        await carrier.end()
    except AgentGone:
        """The call is over; what comes from the box says why."""


def _reset(sock: socket.socket) -> None:
    """Closes it so that the other side sees a reset, not an end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


# -- connecting and listening on this machine


async def _connect(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    hosts = ["127.0.0.1", "::1"] if host == LOOPBACK else [host]
    loop = asyncio.get_running_loop()
    refusal = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    for name in hosts:
        for family, *_, address in await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
            except OSError as error:
                sock.close()
                refusal = error
            else:
                return sock
    raise refusal


def _refused(spec: PortSpec, error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return f"nothing listens on port {spec.port} of this machine"
    return f"port {spec.port} of {spec.host}: {error.strerror}"


def _listening_sockets(spec: PortSpec) -> Iterable[socket.socket]:
    if spec.listen_host != LOOPBACK:
        return [_listening(spec.listen_host, spec)]
    sockets = [_listening("127.0.0.1", spec)]
    with contextlib.suppress(PortInUse):  # there may be no IPv6
        sockets.append(_listening("::1", spec))
    return sockets


def _listening(address: str, spec: PortSpec) -> socket.socket:
    try:
        sock = _server(address, spec.listen_port)
    except OSError as error:
        raise _port_error(address, spec, error) from None
    sock.setblocking(False)
    return sock


def _server(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=BACKLOG)


def _port_error(address: str, spec: PortSpec, error: OSError) -> PortInUse:
    port = spec.listen_port
    if error.errno == errno.EADDRINUSE:
        message = f"port {port} is in use on this machine"
    else:
        message = f"cannot listen on port {port} of {address}: {error.strerror or error}"
    free = _next_free(address, port)
    hint = f"port {free} is free: {spec.with_listen_port(free)}" if free else ""
    return PortInUse(message, hint=hint)


def _next_free(address: str, port: int) -> int | None:
    """None where no port is the trouble."""
    first = max(port + 1, 1024)
    for candidate in range(first, min(first + PORTS_TRIED, 65536)):
        with contextlib.suppress(OSError):
            _server(address, candidate).close()
            return candidate
    return None


async def _accepted(listening: socket.socket) -> socket.socket:
    while True:
        try:
            return (await asyncio.get_running_loop().sock_accept(listening))[0]
        except ConnectionAbortedError:  # it was gone before we came
            continue
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            await asyncio.sleep(OUT_OF_DESCRIPTORS_S)
