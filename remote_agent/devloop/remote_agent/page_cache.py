"""Which pages of a file a program has used, as far as the kernel knows.

Owns the questions to it: mincore(2) says what is in memory, which is also all that the disk read
ahead, megabytes of it; /proc/kpageflags tells what of that was used since. Only CAP_SYS_ADMIN may
read it (Documentation/admin-guide/mm/pagemap.rst). Knows nothing of images.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from array import array
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["let_go", "used_pieces"]

_PAGE_BYTES = mmap.PAGESIZE
_ENTRY_BYTES = 8  # of pagemap, kpageflags and kpagecount
_PRESENT, _FRAME_BITS = 1 << 63, (1 << 55) - 1
_REFERENCED, _ACTIVE, _TAIL = 1 << 2, 1 << 6, 1 << 16
_AROUND_PAGES = 16  # half of what the kernel reads around a page, by default
_MOST_PAGES = 1 << 14  # looked at in one go

_libc = ctypes.CDLL(None, use_errno=True)


def let_go(path: Path) -> None:
    """Takes the file out of the page cache, so that what is there afterwards was read. Pages that
    a process has mapped stay. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def used_pieces(path: Path, piece_bytes: int) -> list[int]:
    """The numbers of the pieces of the file in which a page was used, or, where that cannot be
    known, is in memory; and those that are read along with it, since a page that is touched comes
    with its neighbours. `piece_bytes` is a multiple of a page. Raises OSError."""
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=_READ_WRITE)
    with memory:
        memory.madvise(mmap.MADV_RANDOM)  # nothing is read ahead, and our look counts for no use
        here = _resident(memory)
        with ExitStack() as stack:
            try:
                kernel = _Kernel(stack)
                for start, end in _runs(here):
                    here[start:end] = kernel.used(memory, start, end)
            except OSError:
                here = _resident(memory)
    step = piece_bytes // _PAGE_BYTES
    return [
        at // step
        for at in range(0, len(here), step)
        if 1 in here[max(0, at - _AROUND_PAGES) : at + step + _AROUND_PAGES]
    ]


_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE  # private: nothing is written to the file
_LOWEST_BIT = bytes(byte & 1 for byte in range(256))


def _resident(memory: mmap.mmap) -> bytearray:
    """A byte a page: 1 for what is in memory."""
    pages = (ctypes.c_ubyte * -(-len(memory) // _PAGE_BYTES))()
    length = ctypes.c_size_t(len(memory))
    if _libc.mincore(ctypes.c_void_p(_address(memory)), length, pages):
        raise OSError(ctypes.get_errno(), "mincore")
    return bytearray(bytes(pages).translate(_LOWEST_BIT))


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _runs(here: bytearray) -> Iterator[tuple[int, int]]:
    """Of pages that are in memory, each of a bounded length."""
    start = here.find(1)
    while start >= 0:
        end = here.find(0, start)
        end = min(len(here) if end < 0 else end, start + _MOST_PAGES)
        yield start, end
        start = here.find(1, end)


class _Kernel:
    """Raises OSError to whoever may not know."""

    def __init__(self, stack: ExitStack) -> None:
        self._frames, self._flags, self._counts = (
            self._open(stack, path)
            for path in ("/proc/self/pagemap", "/proc/kpageflags", "/proc/kpagecount")
        )

    @staticmethod
    def _open(stack: ExitStack, path: str) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return fd

    def used(self, memory: mmap.mmap, start: int, end: int) -> bytes:
        """A byte for each of these pages, which are in memory."""
        # A byte of each, so that it has a frame here. MADV_POPULATE_READ would mark it as used.
        memory[start * _PAGE_BYTES : end * _PAGE_BYTES : _PAGE_BYTES]
        first = _address(memory) // _PAGE_BYTES + start
        found = bytearray()
        for frame, count in _neighbours(_read(self._frames, first, end - start)):
            flags, users = _read(self._flags, frame, count), _read(self._counts, frame, count)
            is_used = 0
            for flag, processes in zip(flags, users, strict=True):
                # A folio's flags may be its first page's alone. We are one of those who map it.
                is_used &= bool(flag & _TAIL)
                is_used |= bool(flag & (_REFERENCED | _ACTIVE)) or processes > 1
                found.append(is_used)
        return bytes(found)


def _neighbours(entries: array[int]) -> Iterator[tuple[int, int]]:
    """Runs of frames of memory that follow one another: the first, and how many."""
    first = count = 0
    for entry in entries:
        frame = entry & _FRAME_BITS
        if not entry & _PRESENT or not frame:
            raise PermissionError("the kernel tells nobody else where pages are")
        if count and frame == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = frame, 1
    yield first, count


def _read(fd: int, first: int, count: int) -> array[int]:
    entries = array("Q")
    entries.frombytes(os.pread(fd, count * _ENTRY_BYTES, first * _ENTRY_BYTES))
    if len(entries) != count:
        raise OSError("the kernel tells less of its pages than it has")
    return entries
