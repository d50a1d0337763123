"""The one base of every error that devloop raises on purpose, and what the blob store refuses.

Knows nothing of how a store works: an error carries the values that its message names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from .digest import Digest

__all__ = [
    "BlobCorrupt",
    "BlobMismatch",
    "BlobMissing",
    "DevloopError",
    "Problem",
    "StoreError",
    "StoreFull",
    "StoreUnusable",
    "SyncFailed",
]


class Problem(NamedTuple):
    """One path that failed while the operation as a whole goes on."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class DevloopError(Exception):
    """An operation cannot go on. The message names the thing, the hint names the next step.

    `exit_code` is what the command line exits with when nothing catches the error.
    """

    exit_code: ClassVar[int] = 255
    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class StoreError(DevloopError):
    """The blob store cannot do what was asked."""


class StoreUnusable(StoreError):
    """There is no blob store at that path, and none can be made."""

    hint = "name a folder on a writable disk"


class BlobMissing(StoreError):
    hint = "save a file or run again: the sync sends what is missing"

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"blob {digest.short} is not in the store")
        self.digest = digest


class BlobCorrupt(StoreError):
    """The bytes stored under a digest are not the ones it names. They are gone by now."""

    hint = "it was removed, so the next sync sends it again; check the disk if this comes back"

    def __init__(self, path: Path, digest: Digest, reason: str) -> None:
        super().__init__(f"blob {digest.short} at {path} {reason}")
        self.path = path
        self.digest = digest
        self.reason = reason


class BlobMismatch(StoreError):
    """The bytes offered under a digest are not the ones it names. Nothing was stored."""

    hint = "the sender is broken or the file changed while it was read: send it again"

    def __init__(self, digest: Digest, reason: str) -> None:
        super().__init__(f"bytes sent as blob {digest.short} {reason}")
        self.digest = digest


class StoreFull(StoreError):
    def __init__(self, path: Path, need_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"no space left at {path}: {need_bytes:,} bytes needed, {free_bytes:,} free",
            hint=f"free space or raise the quota of the disk that holds {path}, then try again; "
            "`devloop clean -n` says what is devloop's on the box, containers' layers too",
        )
        self.path = path
        self.need_bytes = need_bytes
        self.free_bytes = free_bytes


class SyncFailed(StoreError):
    """The disk did not take blobs that it had accepted. They are gone, and count as missing."""

    hint = "check the disk (dmesg); the next sync sends the blobs again"

    def __init__(self, path: Path, blobs: int, reason: str) -> None:
        super().__init__(f"{blobs:,} blobs at {path} could not be made durable: {reason}")
        self.path = path
