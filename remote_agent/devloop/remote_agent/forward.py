"""TCP connections of the box, carried to the client and back: one call of the protocol each.

Part of the servicer: knows the words of the protocol, opens the sockets, and looks into no byte. A
connection ends whole when both sides have ended it; any other end is a reset, so that nobody takes
half of a stream for all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import itertools
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from devloop.cafs.errors import DevloopError
from devloop.proto.v1 import agent_pb2 as pb

from .agent import InvalidRequest
from .bell import Bell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["ConnectionCut", "Forwards", "PortInUse", "Unreachable"]

MAX_DATA_BYTES = 256 << 10
MAX_CONNECTIONS = 1024
MAX_PORTS = 64
MAX_PENDING = 128
TAKE_UP_S = 30.0
CONNECT_TIMEOUT_S = 10.0
OUT_OF_DESCRIPTORS_S = 0.5  # until the next try
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Unreachable(DevloopError):
    """The box cannot connect to what was asked for."""


class PortInUse(DevloopError):
    """The box's port cannot be listened on."""


class ConnectionCut(DevloopError):
    """The connection did not end as both sides wanted."""


class Forwards:
    """One an agent. `forward` and `listen` are the bodies of the calls of these names."""

    def __init__(self) -> None:
        self._open = 0
        self._pending: dict[int, socket.socket] = {}  # accepted, and not yet taken up
        self._fewer_pending = Bell()
        self._ids = itertools.count(1)

    async def forward(self, requests: AsyncIterator[pb.ForwardRequest], context: Any) -> None:
        """Raises Unreachable, ConnectionCut, InvalidRequest."""
        first = await anext(aiter(requests), None)
        if first is None or not first.HasField("open"):
            raise InvalidRequest("a connection starts with `open`")
        if self._open >= MAX_CONNECTIONS:
            raise Unreachable(f"the agent carries {MAX_CONNECTIONS} connections, and no more")
        self._open += 1
        try:
            await _carry(await self._socket(first.open), requests, context)
        finally:
            self._open -= 1

    async def _socket(self, opened: pb.ForwardOpen) -> socket.socket:
        if not opened.accepted:
            return await _connect(opened.host, opened.port)
        sock = self._pending.pop(opened.accepted, None)
        if sock is None:
            raise Unreachable("the connection is gone: it was taken up too late")
        self._fewer_pending.ring()
        return sock

    async def listen(self, request: pb.ListenRequest, context: Any) -> None:
        """Until it is cancelled. Raises PortInUse, InvalidRequest."""
        if len(request.ports) > MAX_PORTS:
            raise InvalidRequest(f"{len(request.ports)} ports in one call; at most {MAX_PORTS}")
        with contextlib.ExitStack() as stack:
            sockets = [
                (index, stack.enter_context(sock))
                for index, port in enumerate(request.ports)
                for sock in _listening_sockets(port.host, port.port)
            ]
            await context.write(pb.ListenReply(listening=True))
            accepted: asyncio.Queue[tuple[int, socket.socket]] = asyncio.Queue(1)
            stack.callback(_reset_all, accepted)
            async with asyncio.TaskGroup() as tasks:
                for index, sock in sockets:
                    tasks.create_task(_accept(sock, index, accepted))
                await self._announce(accepted, context)

    async def _announce(
        self, accepted: asyncio.Queue[tuple[int, socket.socket]], context: Any
    ) -> None:
        mine: set[int] = set()
        try:
            while True:
                while len(self._pending) >= MAX_PENDING:
                    await self._fewer_pending.wait()
                port_index, sock = await accepted.get()
                number = next(self._ids)
                self._pending[number] = sock
                mine.add(number)
                asyncio.get_running_loop().call_later(TAKE_UP_S, self._expire, number, mine)
                named = pb.Accepted(id=number, port_index=port_index)
                await context.write(pb.ListenReply(accepted=named))
        finally:
            for number in mine:
                self._drop(number)

    def _expire(self, number: int, mine: set[int]) -> None:
        mine.discard(number)
        self._drop(number)

    def _drop(self, number: int) -> None:
        sock = self._pending.pop(number, None)
        if sock is not None:
            _reset(sock)
            self._fewer_pending.ring()


# -- one connection


async def _carry(
    sock: socket.socket, requests: AsyncIterator[pb.ForwardRequest], context: Any
) -> None:
    """Until both sides have ended it; closes the socket. Raises ConnectionCut."""
    try:
        with contextlib.suppress(OSError):  # it may be gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_to_socket(sock, requests))
            tasks.create_task(_from_socket(sock, context))
    except BaseExceptionGroup as group:
        _reset(sock)
        raise ConnectionCut(f"the connection was cut: {group.exceptions[0]}") from None
    except BaseException:
        _reset(sock)
        raise
    sock.close()


async def _to_socket(sock: socket.socket, requests: AsyncIterator[pb.ForwardRequest]) -> None:
    loop = asyncio.get_running_loop()
    async for request in requests:
        if request.eof:
            sock.shutdown(socket.SHUT_WR)
            return
        if len(request.data) > MAX_DATA_BYTES:
            raise InvalidRequest(f"{len(request.data)} bytes in one message of a connection")
        await loop.sock_sendall(sock, request.data)
    raise ConnectionCut("the client has gone")


async def _from_socket(sock: socket.socket, context: Any) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, MAX_DATA_BYTES):
        await context.write(pb.ForwardReply(data=data))
    await context.write(pb.ForwardReply(eof=True))


def _reset(sock: socket.socket) -> None:
    """Closes it so that the other side sees a reset, not an end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


def _reset_all(accepted: asyncio.Queue[tuple[int, socket.socket]]) -> None:
    while not accepted.empty():
        _reset(accepted.get_nowait()[1])


# -- connecting and listening


async def _connect(host: str, port: int) -> socket.socket:
    """The first of the host's addresses that answers. Raises Unreachable."""
    if not 0 < port < 65536:
        raise InvalidRequest(f"{port} is no port")
    refusal = Unreachable(f"{host} has no address")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            for family, address in await _addresses(host, port):
                sock = socket.socket(family, socket.SOCK_STREAM)
                sock.setblocking(False)
                try:
                    await asyncio.get_running_loop().sock_connect(sock, address)
                except OSError as error:
                    sock.close()
                    refusal = _refusal(host, port, error)
                except BaseException:
                    _reset(sock)
                    raise
                else:
                    return sock
    except TimeoutError:
        raise Unreachable(f"port {port} of {host} does not answer") from None
    raise refusal


async def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    if host == "localhost":  # programs listen on either, and the box's hosts file may know one
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"the box cannot find the host {host}: {error}") from None
    return [(family, address) for family, _, _, _, address in found]


def _refusal(host: str, port: int, error: OSError) -> Unreachable:
    if error.errno in (errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        where = "the box" if host == "localhost" else host
        return Unreachable(f"nothing listens on port {port} of {where}")
    return Unreachable(f"port {port} of {host}: {error.strerror}")


def _listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Raises InvalidRequest for an address that others reach, and PortInUse."""
    if not 0 < port < 65536:
        raise InvalidRequest(f"{port} is no port")
    if host == "localhost":
        sockets = [_listening("127.0.0.1", port)]
        with contextlib.suppress(PortInUse):  # there may be no IPv6
            sockets.append(_listening("::1", port))
        return sockets
    if not _is_loopback(host):
        raise InvalidRequest(
            f"the box listens on its loopback addresses only, not on {host}", hint="leave it out"
        )
    return [_listening(host, port)]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=MAX_PENDING)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise PortInUse(
            f"the box cannot listen on port {port}: {reason}",
            hint="give another one, and the laptop's after it: `-R OTHER:PORT`",
        ) from None


async def _accept(
    listening: socket.socket, port_index: int, accepted: asyncio.Queue[tuple[int, socket.socket]]
) -> None:
    listening.setblocking(False)
    while True:
        sock = await _accepted(listening)
        try:
            await accepted.put((port_index, sock))
        except BaseException:
            _reset(sock)
            raise


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
