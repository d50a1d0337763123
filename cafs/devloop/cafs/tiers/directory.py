"""A tier that is a folder of this machine, or one mounted here: file:///FOLDER.

Reading makes nothing; the first put makes the folder a blob store, for whoever the umask lets read
it: a web server of another user, say.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from devloop.cafs.blobdir import SHARED, disk_full
from devloop.cafs.errors import BlobMismatch, BlobMissing
from devloop.cafs.wholefiles import WholeFiles

from .tier import TierUnreachable, check_name, check_prefix, profile_list_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from devloop.cafs.digest import Digest

    from .tier import Wanted

__all__ = ["DirectoryTier"]

_PIECE_BYTES = 1 << 20
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class DirectoryTier:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: WholeFiles | None = None
        self._lock = Lock()

    def describe(self) -> str:
        return f"file://{self.root}"

    def close(self) -> None:
        with self._lock:
            if self._files is not None:
                self._files.close()
            self._files = None

    # ------------------------------------------------------------------ reading

    def has(self, digests: Sequence[Digest]) -> set[Digest]:
        return {digest for digest in digests if self._path(digest).exists()}

    def fetch(self, digest: Digest, size_bytes: int) -> Iterator[bytes]:
        with self._told(digest), self._path(digest).open("rb", buffering=0) as file:
            left_bytes = size_bytes
            while left_bytes and (piece := file.read(min(_PIECE_BYTES, left_bytes))):
                left_bytes -= len(piece)
                yield piece

    def fetch_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes:
        with self._told(digest), self._path(digest).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size_bytes, offset)

    def fetch_many(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Digest, bytes]]:
        for digest, size_bytes in wanted:
            with contextlib.suppress(BlobMissing):
                yield digest, b"".join(self.fetch(digest, size_bytes))

    def get_named(self, name: str) -> bytes | None:
        try:
            return (self.root / check_name(name)).read_bytes()
        except OSError as error:
            if error.errno not in _ABSENT:
                raise self._unreachable(error) from error
            self._check_root()
            return None

    def list_named(self, prefix: str) -> list[str]:
        folder, start = check_prefix(prefix)
        try:
            names = sorted(os.listdir(self.root / folder))
        except OSError as error:
            if error.errno not in _ABSENT:
                raise self._unreachable(error) from error
            return []
        return [f"{folder}/{name}" for name in names if name.startswith(start)]

    def _path(self, digest: Digest) -> Path:
        text = digest.hex()
        return self.root / "blobs" / text[:2] / text[2:]

    @contextlib.contextmanager
    def _told(self, digest: Digest) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _ABSENT:
                raise self._unreachable(error) from error
            self._check_root()
            raise BlobMissing(digest) from None

    def _check_root(self) -> None:
        """A folder that is not (or no longer) mounted has lost nothing."""
        if not (self.root / "blobs").is_dir():
            raise TierUnreachable(self.describe(), "there is no blob store")

    def _unreachable(self, error: OSError) -> TierUnreachable:
        return TierUnreachable(self.describe(), error.strerror or str(error))

    # ------------------------------------------------------------------ putting

    def put_blob(self, digest: Digest, size_bytes: int, path: Path) -> None:
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise BlobMissing(digest) from None
        with file, self._store().writer(digest, size_bytes) as writer:
            if os.fstat(file.fileno()).st_size != size_bytes:
                raise BlobMismatch(digest, f"at {path} are not {size_bytes:,}")
            while piece := file.read(_PIECE_BYTES):
                writer.write(piece)
            writer.commit()

    def put_named(self, name: str, data: bytes) -> None:
        self._store().sync()
        self._write(check_name(name), data)
        list_name = profile_list_name(name)
        if list_name is not None:
            listed = self.list_named(list_name.removesuffix(".list") + "-")
            self._write(list_name, "".join(f"{each}\n" for each in listed).encode())

    def _store(self) -> WholeFiles:
        with self._lock:
            if self._files is None:
                self._files = WholeFiles(self.root, folder_mode=SHARED)
            return self._files

    def _write(self, name: str, data: bytes) -> None:
        path = self.root / name
        temp = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(mode=SHARED, exist_ok=True)
            with temp.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temp.replace(path)
        except OSError as error:
            temp.unlink(missing_ok=True)
            raise disk_full(error, self.root, len(data)) or self._unreachable(error) from error
