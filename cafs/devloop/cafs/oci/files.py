"""Files by name, in a directory or inside a tar, read from several threads.

Owns nothing of what the names mean. A name never leads out: in a directory it is opened below it,
in a tar it is one of the members.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol

from .source_errors import ImageCorrupt, SourceUnreadable
from .verified import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DirectoryFiles", "FileSet", "Slice", "TarFiles", "open_tar", "read_whole"]

MAX_MEMBERS = 100_000
MAX_LINKS = 40
_GZIP = b"\x1f\x8b"


class Slice:
    """A part of an open file; its descriptor is its own."""

    def __init__(self, fd: int, offset: int, size_bytes: int) -> None:
        self._fd = fd
        self._offset = offset
        self._end = offset + size_bytes
        self.size_bytes = size_bytes

    def readinto(self, buffer: memoryview) -> int:
        with buffer[: self._end - self._offset] as view:
            count = os.preadv(self._fd, [view], self._offset) if view.nbytes else 0
        self._offset += count
        return count

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class FileSet(Protocol):
    def open(self, name: str) -> Slice | None:
        """None when there is no such file. Raises SourceUnreadable."""

    def close(self) -> None: ...


class DirectoryFiles:
    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, name: str) -> Slice | None:
        path = self._root / name
        try:
            # A FIFO must not make us wait.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceUnreadable(f"cannot read {path}: {error.strerror}") from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise SourceUnreadable(f"{path} is no file")
        return Slice(fd, 0, found.st_size)

    def close(self) -> None:
        """It holds nothing open."""


class TarFiles:
    """The members of an uncompressed tar. Symbolic and hard links between them are followed."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self._parts: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        for member in self._members():
            self._note(member)

    def open(self, name: str) -> Slice | None:
        target = self._target(name)
        if target is None:
            return None
        offset, size_bytes = self._parts[target]
        return Slice(os.dup(self._file.fileno()), offset, size_bytes)

    def close(self) -> None:
        self._file.close()

    def _members(self) -> Iterator[tarfile.TarInfo]:
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                for count, member in enumerate(tar):
                    if count == MAX_MEMBERS:
                        raise ImageCorrupt(f"{self._path} has more than {MAX_MEMBERS:,} members")
                    yield member
                    tar.members = []  # type: ignore[attr-defined] # it would keep them all
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise ImageCorrupt(f"{self._path} is no tar: {error}") from None

    def _note(self, member: tarfile.TarInfo) -> None:
        name = _plain(member.name)
        if member.isreg() and not member.issparse():
            self._parts[name] = (member.offset_data, member.size)
            self._links.pop(name, None)
        elif member.islnk():
            self._links[name] = _plain(member.linkname)
        elif member.issym():
            self._links[name] = _plain(f"{PurePosixPath(name).parent}/{member.linkname}")

    def _target(self, name: str) -> str | None:
        for _ in range(MAX_LINKS):
            if name in self._parts and name not in self._links:
                return name
            if name not in self._links:
                return None
            name = self._links[name]
        return None


def _plain(name: str) -> str:
    """Without `.` and `..`: a name of a member, never of a file outside."""
    return os.path.normpath(f"/{name}").lstrip("/")


def open_tar(path: Path) -> TarFiles:
    """Of a tar that may be compressed with gzip. Raises SourceUnreadable, ImageCorrupt."""
    try:
        file: IO[bytes] = path.open("rb")
    except OSError as error:
        raise SourceUnreadable(f"cannot read {path}: {error.strerror}") from None
    try:
        if file.read(2) == _GZIP:
            with file:
                file = _unpacked(file, path)
        file.seek(0)
        return TarFiles(file, path)
    except BaseException:
        file.close()
        raise


def _unpacked(file: IO[bytes], path: Path) -> IO[bytes]:
    """In a file without a name: the parts of a compressed archive cannot be read out of order."""
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 # it is what we return
    file.seek(0)
    try:
        with gzip.GzipFile(fileobj=file) as inside:
            shutil.copyfileobj(inside, unpacked, 1 << 20)
        unpacked.flush()
    except (gzip.BadGzipFile, zlib.error, EOFError):
        unpacked.close()
        raise ImageCorrupt(f"{path} is no whole gzip file") from None
    except OSError as error:
        unpacked.close()
        where = tempfile.gettempdir()
        hint = f"unpack {path.name} first, or let TMPDIR name a disk with more space than {where}"
        raise SourceUnreadable(f"cannot unpack {path}: {error.strerror}", hint=hint) from None
    except BaseException:
        unpacked.close()
        raise
    return unpacked


def read_whole(files: FileSet, name: str) -> bytes | None:
    """A small file; None when there is none. Raises SourceUnreadable, ImageCorrupt."""
    part = files.open(name)
    if part is None:
        return None
    try:
        if part.size_bytes > MAX_DOCUMENT_BYTES:
            raise ImageCorrupt(f"{name} has {part.size_bytes:,} bytes")
        data = bytearray(part.size_bytes)
        with memoryview(data) as view:
            position = 0
            while position < len(data) and (count := part.readinto(view[position:])):
                position += count
        return bytes(data[:position])
    finally:
        part.close()
