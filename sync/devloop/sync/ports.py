"""Which port leads where: the words of `ports`, `forward` and `forward -R`. Opens nothing."""

from __future__ import annotations

import re
from typing import NamedTuple

from devloop.cafs.errors import DevloopError

__all__ = ["LOOPBACK", "BadPort", "PortSpec", "parse_port"]

LOOPBACK = "localhost"
_PART = re.compile(r"\[([^]]*)\]|([^:]*)")
_HOST = re.compile(r"[\w.:%-]+")


class BadPort(DevloopError):
    """These words name no port."""

    exit_code = 2
    hint = "write PORT, PORT:PORT or PORT:HOST:PORT, the side that listens first"


class PortSpec(NamedTuple):
    """Connections to `listen_host:listen_port` on one side go to `host:port` as the other sees it.

    LOOPBACK as a host stands for both loopback addresses.
    """

    listen_host: str
    listen_port: int
    host: str
    port: int

    @property
    def is_private(self) -> bool:
        """No other machine reaches the listening side."""
        return self.listen_host in (LOOPBACK, "::1") or self.listen_host.startswith("127.")

    def with_listen_port(self, port: int) -> PortSpec:
        return self._replace(listen_port=port)

    def __str__(self) -> str:
        """As one would write it."""
        listen = "" if self.listen_host == LOOPBACK else f"{_bracketed(self.listen_host)}:"
        if self.host != LOOPBACK:
            return f"{listen}{self.listen_port}:{_bracketed(self.host)}:{self.port}"
        if self.listen_port != self.port or listen:
            return f"{listen}{self.listen_port}:{self.port}"
        return str(self.port)


def parse_port(words: str) -> PortSpec:
    """`6006`, `8888:80`, `8080:db:80`, `127.0.0.2:8080:80`, `[::1]:8080:db:80`. Raises BadPort."""
    match _split(words):
        case [port]:
            listening, target = (LOOPBACK, port), (LOOPBACK, port)
        case [listen, port]:
            listening, target = (LOOPBACK, listen), (LOOPBACK, port)
        case [listen, host, port] if listen.isdecimal():  # as `ssh -L` has it
            listening, target = (LOOPBACK, listen), (host, port)
        case [address, listen, port]:  # as `docker -p` has it
            listening, target = (address, listen), (LOOPBACK, port)
        case [address, listen, host, port]:
            listening, target = (address, listen), (host, port)
        case _:
            raise BadPort(f'"{words}" has more than four parts')
    return PortSpec(
        *(_host(listening[0], words), _number(listening[1], words)),
        *(_host(target[0], words), _number(target[1], words)),
    )


def _split(words: str) -> list[str]:
    """At colons outside of brackets, which hold an IPv6 address."""
    parts, position = [], 0
    while True:
        found = _PART.match(words, position)
        assert found is not None, "its second half matches anything"
        parts.append(found[1] if found[1] is not None else found[2])
        position = found.end() + 1
        if found.end() == len(words):
            return parts
        if words[found.end()] != ":":
            raise BadPort(f'"{words}" has no colon after a bracket')


def _number(text: str, words: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    if text == words:
        raise BadPort(f'"{words}" is no port from 1 to 65535')
    raise BadPort(f'"{words}" has "{text}" where a port from 1 to 65535 belongs')


def _host(text: str, words: str) -> str:
    if not _HOST.fullmatch(text):
        raise BadPort(f'"{words}" has "{text}" where a host belongs')
    return text


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
