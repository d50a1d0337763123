"""The byte stream below SSH: a TCP connection that notices a dead link, or a ProxyCommand."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from .errors import ConnectFailed, ConnectTimedOut, HostUnknown, PortRefused

if TYPE_CHECKING:
    from .resolve import Resolved

__all__ = ["DEAD_LINK_S", "Proxy", "dial", "start_proxy"]

DEAD_LINK_S = 10
KEEPALIVE_S = 5
MACOS_TCP_KEEPALIVE = 0x10
MACOS_TCP_RXT_CONNDROPTIME = 0x80

_FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}


def dial(resolved: Resolved, timeout_s: float) -> socket.socket:
    """Blocks. Raises HostUnknown, PortRefused, ConnectTimedOut, ConnectFailed."""
    where = f"{resolved.hostname} port {resolved.port}"
    try:
        addresses = socket.getaddrinfo(
            resolved.hostname,
            resolved.port,
            _FAMILIES[resolved.address_family],
            socket.SOCK_STREAM,
        )
    except (socket.gaierror, UnicodeError) as error:
        raise HostUnknown(f"cannot reach {resolved.name}: {resolved.hostname}: {error}") from None
    failure: OSError = TimeoutError("timed out")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout_s)
            sock.connect(address)
            _make_alert(sock)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    if isinstance(failure, ConnectionRefusedError):
        raise PortRefused(f"cannot reach {resolved.name}: {where} refuses connections")
    if isinstance(failure, TimeoutError):
        raise ConnectTimedOut(f"cannot reach {resolved.name}: {where} does not answer")
    raise ConnectFailed(
        f"cannot reach {resolved.name}: {where}: {failure.strerror or failure}",
        hint="check the network, and the VPN if there is one",
    )


def _make_alert(sock: socket.socket) -> None:
    """What was sent must be acknowledged in time, and silence is asked about."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "darwin":
        sock.setsockopt(socket.IPPROTO_TCP, MACOS_TCP_KEEPALIVE, KEEPALIVE_S)
        sock.setsockopt(socket.IPPROTO_TCP, MACOS_TCP_RXT_CONNDROPTIME, DEAD_LINK_S)
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_LINK_S * 1000)


class Proxy:
    """A running ProxyCommand; `sock` is its stdin and stdout."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.sock = sock
        self._process = process

    def close(self) -> None:
        """Idempotent. End of file is what ends a proxy; one that stays is told to."""
        self.sock.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._process.send_signal(number)
            try:
                self._process.wait(1.0)
                return
            except subprocess.TimeoutExpired:
                continue


def start_proxy(resolved: Resolved, command: str) -> Proxy:
    """Raises ConnectFailed."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                start_new_session=True,
            )
    except OSError as error:
        ours.close()
        raise ConnectFailed.at(
            resolved.name, f"cannot start the ProxyCommand of {resolved.name}: {error}"
        ) from None
    return Proxy(ours, process)
