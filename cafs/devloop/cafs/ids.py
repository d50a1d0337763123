"""User and group ids: which exist where this process lives, and which its user may have.

Owns the formats of /proc/PID/uid_map (user_namespaces(7)) and /etc/subuid (subuid(5)). Makes no
namespace.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ALL",
    "OUTSIDE",
    "Extent",
    "Ids",
    "exchanged",
    "granted",
    "ids_here",
    "mapping",
    "own_names",
]

# The variable that says, to a process in a user namespace, who it is outside: "UID:GID".
OUTSIDE = "DEVLOOP_OUTSIDE"

_MAX_ID = 2**32 - 2
NOBODY = 65534


class Extent(NamedTuple):
    """`size` ids from `inside` on are, outside, those from `outside` on."""

    inside: int
    outside: int
    size: int


class Ids:
    """The ids of one kind that a user namespace has."""

    def __init__(self, extents: Iterable[Extent]) -> None:
        self.extents = tuple(extents)
        self.are_all = any(extent.size > _MAX_ID for extent in self.extents)

    @classmethod
    def parse(cls, text: str) -> Ids:
        """A uid_map or gid_map as its own namespace reads it."""
        return cls(Extent(*map(int, line.split())) for line in text.splitlines())

    def __contains__(self, number: int) -> bool:
        return any(0 <= number - extent.inside < extent.size for extent in self.extents)

    def shown(self, number: int) -> int:
        """`number`, or whose file it is where that id does not exist: nobody's, or root's where
        root alone does. The kernel lets nobody change a file whose owner it cannot name."""
        if self.are_all or number in self:
            return number
        return NOBODY if NOBODY in self else 0


ALL = Ids([Extent(0, 0, _MAX_ID + 1)])


def ids_here(kind: str) -> Ids:
    """Of this process's namespace; `kind`: "uid" or "gid"."""
    return Ids.parse(Path(f"/proc/self/{kind}_map").read_text())


def mapping(own: int, ranges: Iterable[tuple[int, int]]) -> list[Extent]:
    """Root is `own`; whoever else there is gets an id of `ranges`, from 1 on."""
    extents, inside = [Extent(0, own, 1)], 1
    for start, count in ranges:
        extents.append(Extent(inside, start, count))
        inside += count
    return extents


def exchanged(one: int, other: int) -> list[Extent]:
    """All ids, these two in each other's place."""
    low, high = sorted((one, other))
    extents = [
        Extent(0, 0, low),
        Extent(low, high, 1),
        Extent(low + 1, low + 1, high - low - 1),
        Extent(high, low, 1),
        Extent(high + 1, high + 1, _MAX_ID - high),
    ]
    return [e for e in extents if e.size > 0] if low != high else [Extent(0, 0, _MAX_ID + 1)]


def granted(text: str, owners: Iterable[str]) -> list[tuple[int, int]]:
    """The ranges that a file like /etc/subuid gives to one of these names: (first, count)."""
    wanted, found = frozenset(owners), []
    for line in text.splitlines():
        name, _, numbers = line.strip().partition(":")
        start, _, count = numbers.partition(":")
        if name in wanted and start.isdecimal() and count.isdecimal() and int(count):
            found.append((int(start), int(count)))
    return found


def own_names(number: int) -> list[str]:
    """As the files name a user: by name, or by number."""
    import pwd

    try:
        return [pwd.getpwuid(number).pw_name, str(number)]
    except KeyError:
        return [str(number)]
