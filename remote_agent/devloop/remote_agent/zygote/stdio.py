"""Makes sys.stdin, stdout and stderr what CPython would have made of the new descriptors 0, 1, 2.

The objects stay the same, since imported libraries may hold them; they are initialised anew, as
`create_stdio` in CPython's pylifecycle.c does it.
"""

from __future__ import annotations

import io
import sys
from typing import Any

_NAMES = ("<stdin>", "<stdout>", "<stderr>")
_BLOCK_LIMIT_BYTES = 8 << 20


def renew() -> None:
    for fd, stream in enumerate((sys.__stdin__, sys.__stdout__, sys.__stderr__)):
        if stream is not None:
            _renew(fd, stream)
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__


def _renew(fd: int, text: Any) -> None:
    encoding, errors, buffer = text.encoding, text.errors, text.buffer
    unbuffered = text.write_through
    # A FileIO remembers for good whether it could seek.
    raw = io.FileIO(fd, "rb" if fd == 0 else "wb", closefd=False)
    raw.name = _NAMES[fd]
    if isinstance(buffer, io.FileIO):
        buffer = raw
    else:
        buffer.__init__(raw, _buffer_bytes(raw))
    line_buffering = not unbuffered and (raw.isatty() or fd == 2)
    text.__init__(
        buffer, encoding, errors, "\n", line_buffering=line_buffering, write_through=unbuffered
    )


def _buffer_bytes(raw: Any) -> int:
    block_bytes = int(raw._blksize)
    if sys.version_info >= (3, 14):
        return max(min(block_bytes, _BLOCK_LIMIT_BYTES), io.DEFAULT_BUFFER_SIZE)
    return block_bytes if block_bytes > 1 else io.DEFAULT_BUFFER_SIZE
