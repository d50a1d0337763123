"""Limits of processes, see setrlimit(2), as docker writes them: `nofile = 65536`,
`memlock = "unlimited"`, `core = "0:unlimited"`, the soft one first. The units are the kernel's:
bytes, seconds or counts.

Both halves need it: the laptop refuses what makes no sense, the box sets them. Changes no limit.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import DevloopError

__all__ = ["ULIMITS", "UNLIMITED", "BadUlimit", "Ulimit", "parse_ulimit"]

UNLIMITED = -1
_MOST = 2**63 - 1
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)

# What the kernel knows, under docker's names.
ULIMITS = (
    *("as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nice", "nofile", "nproc"),
    *("rss", "rtprio", "rttime", "sigpending", "stack"),
)


class BadUlimit(DevloopError):
    """The words name no limit."""

    hint = 'write it as { nofile = 65536 } or { memlock = "unlimited" } or { core = "0:unlimited" }'


class Ulimit(NamedTuple):
    """A process may raise `soft` up to `hard`, and no further. Raises BadUlimit by `checked`."""

    name: str
    soft: int
    hard: int

    def checked(self) -> Ulimit:
        if self.name not in ULIMITS:
            raise BadUlimit(f"no limit is called {self.name!r}", hint=f"one of {_names()}")
        for value in (self.soft, self.hard):
            if not UNLIMITED <= value <= _MOST:
                raise BadUlimit(f"{self.name} cannot be {value}")
        if self.hard != UNLIMITED and not 0 <= self.soft <= self.hard:
            raise BadUlimit(f"the soft limit of {self.name} is above its hard one")
        return self


def parse_ulimit(name: str, value: object) -> Ulimit:
    """`value`: a number, or text. Raises BadUlimit."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadUlimit(f"{name} must be a number or a string")
    soft, colon, hard = str(value).partition(":")
    return Ulimit(name, _number(name, soft), _number(name, hard if colon else soft)).checked()


def _number(name: str, text: str) -> int:
    if text in ("unlimited", "-1"):
        return UNLIMITED
    if not _NUMBER.fullmatch(text):
        raise BadUlimit(f"{name} cannot be {text[:40]!r}")
    return int(text)


def _names() -> str:
    return ", ".join(ULIMITS)
