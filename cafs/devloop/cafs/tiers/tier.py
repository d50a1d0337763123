"""What a tier is: somewhere else that has blobs, and small named files that lead to them.

Owns the interface, its errors and which names there are. Refuses to know how a tier is reached.
Every tier has the layout of `images` (another agent's, or a copy of it):

    blobs/ab/cdef…     a blob, whole; "ab" + "cdef…" is its digest in hex
    FOLDER/NAME        a named file; FOLDER is one of NAMED_FOLDERS, NAME has no "/"
    profiles/HEX.list  the names of the profiles of the index HEX, a line each, for tiers that
                       cannot list a folder; written by whoever puts a profile
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from devloop.cafs.digest import Digest

__all__ = [
    "MAX_NAMED_BYTES",
    "NAMED_FOLDERS",
    "Tier",
    "TierError",
    "TierInvalid",
    "TierReadOnly",
    "TierUnreachable",
    "Wanted",
    "check_name",
    "check_prefix",
    "profile_list_name",
]

NAMED_FOLDERS = ("indexes", "manifests", "profiles", "refs")
MAX_NAMED_BYTES = 256 << 20  # of an index of some millions of entries

_NAME = re.compile(rf"(?:{'|'.join(NAMED_FOLDERS)})/[0-9A-Za-z][0-9A-Za-z._+-]{{0,200}}")
_PROFILE = re.compile(r"profiles/([0-9a-f]{64})-.*")

Wanted = tuple["Digest", int]  # a blob and its size in bytes


class TierError(DevloopError):
    """A tier cannot do what was asked."""


class TierInvalid(TierError):
    """Not the address of a tier."""

    hint = "a tier is file:///FOLDER, http(s)://HOST/PATH or ssh://HOST[/STATE FOLDER]"


class TierUnreachable(TierError):
    """A tier does not answer, or not what a tier answers. Another one may."""

    hint = "check that the other side is up; the next access tries it again"

    def __init__(self, tier: str, reason: str) -> None:
        super().__init__(f"{tier}: {reason}")
        self.tier = tier
        self.reason = reason


class TierReadOnly(TierError):
    """Blobs can be had from this tier, but not put there."""


class Tier(Protocol):
    """Methods block, with a deadline each, and may be called from several threads at once.

    Nothing that comes from a tier is verified here: `Tiers` does that. Each method raises
    TierUnreachable, and those that name one blob raise BlobMissing where the tier does not have it.
    """

    def describe(self) -> str:
        """Its address as the user gave it, without secrets."""

    def has(self, digests: Sequence[Digest], /) -> set[Digest]:
        """Those of them that are there."""

    def fetch(self, digest: Digest, size_bytes: int, /) -> Iterator[bytes]:
        """The blob in pieces of at most 1 MiB, never more than `size_bytes` in all."""

    def fetch_range(self, digest: Digest, offset: int, size_bytes: int, /) -> bytes:
        """That much of the blob, or less where it ends before."""

    def fetch_many(self, wanted: Sequence[Wanted], /) -> Iterator[tuple[Digest, bytes]]:
        """Small blobs, in any order, each as soon as it is here; who is missing is left out."""

    def get_named(self, name: str, /) -> bytes | None:
        """A named file, such as "indexes/…"; None when there is none."""

    def list_named(self, prefix: str, /) -> list[str]:
        """The names that start so, such as "profiles/…-"."""

    def put_blob(self, digest: Digest, size_bytes: int, path: Path, /) -> None:
        """Raises BlobMismatch when the file is not that blob, TierReadOnly, StoreFull."""

    def put_named(self, name: str, data: bytes, /) -> None:
        """Every blob that was put before is durable first. Raises TierReadOnly, StoreFull."""

    def close(self) -> None:
        """Idempotent. What was put last is durable only where `put_named` followed."""


def check_name(name: str) -> str:
    """Returns `name`. Raises TierError unless it is one of a named file."""
    if not _NAME.fullmatch(name):
        raise TierError(f"not the name of a file of a tier: {name[:80]!r}")
    return name


def check_prefix(prefix: str) -> tuple[str, str]:
    """The folder, and how names in it are to start. Raises TierError."""
    folder, _, start = check_name(prefix).partition("/")
    return folder, start


def profile_list_name(name: str) -> str | None:
    """The file that lists the profiles among which `name` is, or which start so."""
    found = _PROFILE.fullmatch(name)
    return f"profiles/{found[1]}.list" if found else None
