"""Messages between agent, zygote, init and child: one JSON object a packet, with descriptors.

Owns the framing and nothing of what the messages mean. Sockets are AF_UNIX, SOCK_SEQPACKET: one
send is one message. What does not fit a packet travels in an anonymous file, as the last
descriptor. Bytes of paths, arguments and variables travel as text with surrogate escapes.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

PACKET_BYTES = 64 << 10
MAX_FDS = 16
_IN_FILE = b"\x00"

Message = Dict[str, Any]


class Received(NamedTuple):
    message: Message
    fds: List[int]


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def socket_pair() -> Tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Raises OSError when the other side is gone."""
    data = json.dumps(message).encode("ascii")
    if len(data) <= PACKET_BYTES:
        _send_packet(sock, data, fds)
        return
    file = _anonymous_file(data)
    try:
        _send_packet(sock, _IN_FILE, [*fds, file])
    finally:
        os.close(file)


def receive(sock: socket.socket) -> Optional[Received]:
    """Blocks for the next message; None when the other side has closed. Descriptors are owned
    by the caller and are not inherited by what is exec'd."""
    try:
        data, ancillary, _flags, _address = sock.recvmsg(
            PACKET_BYTES, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None
    fds = list(_fds_of(ancillary))
    if not data:
        return None
    if data == _IN_FILE:
        data = _read_and_close(fds.pop())
    return Received(json.loads(data.decode("ascii")), fds)


def _send_packet(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)


def _fds_of(ancillary: Iterable[Tuple[int, int, bytes]]) -> Iterable[int]:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds = array.array("i")
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
            yield from fds


def _anonymous_file(data: bytes) -> int:
    fd = os.memfd_create("devloop-message", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _read_and_close(fd: int) -> bytes:
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()
