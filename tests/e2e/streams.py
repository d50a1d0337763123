"""TCP servers and clients for the tests of forwarded ports; each connection has a thread."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE = bytes(range(256)) * 1024


def free_port() -> int:
    """On both loopback addresses, a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(
    handle: Callable[[socket.socket], None], *, address: str = "127.0.0.1", port: int = 0
) -> Iterator[int]:
    """Yields the port; `handle` gets each connection."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family, backlog=512) as server:
        threading.Thread(target=_accept, args=(server, handle), daemon=True).start()
        yield server.getsockname()[1]
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            sock, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_handled, args=(sock, handle), daemon=True).start()


def _handled(sock: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    with sock, contextlib.suppress(OSError):
        handle(sock)


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


def answer_digest(sock: socket.socket) -> None:
    """Reads to the end, and only then answers: with the digest of what came."""
    sock.sendall(digest_of_all(sock).encode())


def digest_of_all(sock: socket.socket) -> str:
    hasher = hashlib.sha256()
    buffer = bytearray(1 << 20)
    while size := sock.recv_into(buffer):
        hasher.update(memoryview(buffer)[:size])
    return hasher.hexdigest()


def send_pieces(sock: socket.socket, size_bytes: int) -> str:
    """Sends so much, and the end. Returns the digest of it."""
    hasher = hashlib.sha256()
    for start in range(0, size_bytes, len(PIECE)):
        piece = PIECE[: size_bytes - start]
        sock.sendall(piece)
        hasher.update(piece)
    sock.shutdown(socket.SHUT_WR)
    return hasher.hexdigest()


def connect(port: int, address: str = "127.0.0.1") -> socket.socket:
    sock = socket.create_connection((address, port), timeout=30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data
