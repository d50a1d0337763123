"""The FUSE server with tiers that have faults, by the path of their address:

file:///FOLDER?raise     whatever is asked of it raises what no tier may raise
file:///FOLDER?stick     sends one small blob of a batch, and nothing else, ever
"""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from devloop.cafs.fuse import server
from devloop.cafs.fuse.__main__ import leave, main
from devloop.cafs.tiers import open_tier
from devloop.cafs.tiers.directory import DirectoryTier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from devloop.cafs.digest import Digest
    from devloop.cafs.tiers import Tier
    from devloop.cafs.tiers.tier import Wanted


class Raises(DirectoryTier):
    def has(self, digests: Sequence[Digest]) -> set[Digest]:
        raise KeyError("has")

    def fetch(self, digest: Digest, size_bytes: int) -> Iterator[bytes]:
        yield b"some"
        raise ValueError("fetch")

    def fetch_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes:
        raise AttributeError("fetch_range")

    def fetch_many(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Digest, bytes]]:
        raise TypeError("fetch_many")


class Sticks(DirectoryTier):
    def fetch(self, digest: Digest, size_bytes: int) -> Iterator[bytes]:
        Event().wait()
        yield b""

    def fetch_many(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Digest, bytes]]:
        digest, size_bytes = wanted[0]
        yield digest, b"".join(super().fetch(digest, size_bytes))
        Event().wait()


_KINDS = {"raise": Raises, "stick": Sticks}


def _open_tier(url: str, *, timeout_s: float) -> Tier:
    address, _, fault = url.partition("?")
    if not fault:
        return open_tier(url, timeout_s=timeout_s)
    return _KINDS[fault](Path(address.removeprefix("file://")))


if __name__ == "__main__":
    vars(server)["open_tier"] = _open_tier
    sys.exit(leave(main()))
