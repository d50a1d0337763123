"""How a user names a box: an alias of ~/.ssh/config, `user@host:port`, an ssh:// address. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import TargetInvalid

__all__ = ["HostSpec", "parse_host"]

_PORT = re.compile(r"[0-9]{1,5}\Z")
# What a shell would read as more than a word, since %h and %r reach the shell in a ProxyCommand.
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f'`\"$\\;&<>|(){}*?!]")


class HostSpec(NamedTuple):
    """What was said; None where the SSH configuration decides."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return f"{user}{host}:{self.port}" if self.port else f"{user}{host}"


def parse_host(words: str) -> HostSpec:
    """`host`, `user@host`, `host:port`, `[::1]:port`, `ssh://…`; a lone IPv6 address is a host.

    Raises TargetInvalid, for what ssh would take for an option above all.
    """
    user, at, address = words.removeprefix("ssh://").rstrip("/").rpartition("@")
    host, port = _split_port(words, address)
    for part in (host, user) if at else (host,):
        if not part or part.startswith("-") or _UNSAFE.search(part) or "/" in part:
            raise TargetInvalid(f"{words!r} is no SSH target")
    return HostSpec(host, user if at else None, port)


def _split_port(words: str, address: str) -> tuple[str, int | None]:
    if address.startswith("["):
        host, closed, rest = address[1:].partition("]")
        if closed and not rest:
            return host, None
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = address.partition(":")
        if not colon or ":" in port:
            return address, None
    if colon != ":" or not _PORT.match(port) or not 0 < int(port) < 65536:
        raise TargetInvalid(f"{words!r} is no SSH target: {port!r} is no port")
    return host, int(port)
