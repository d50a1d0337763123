"""The first process of every container: a static program of some two hundred bytes, written here.

Owns its machine code. It waits until its standard input ends, which is when its keeper has ended,
however that happened; with it the kernel ends everything in the container. Children that come to
it are reaped by the kernel, since it ignores SIGCHLD. The kernel keeps a namespace's first process
from signals of its own namespace. Knows nothing of images: it needs no file of theirs.

    rt_sigaction(SIGCHLD, {SIG_IGN}, NULL, 8)
    prctl(PR_SET_DUMPABLE, 0)
    while ((n = read(0, stack, 8)) > 0 || n == -EINTR) ;
    exit_group(0)
"""

from __future__ import annotations

import struct

from devloop.cafs.errors import DevloopError

__all__ = ["NoPause", "pause_program"]

_ADDRESS = 0x400000
_HEADER = struct.Struct("<4sBBBBB7xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_LOADED, _READ_EXECUTE, _PAGE = 1, 5, 0x10000

# ELF's number of the machine, and the program.
_MACHINES = {
    "x86_64": (
        62,
        "31c0 50 50 50 6a01 b00d 6a11 5f 4889e6 31d2 6a08 415a 0f05"  # rt_sigaction
        "b89d000000 6a04 5f 31f6 0f05"  # prctl
        "31c0 31ff 4889e6 6a08 5a 0f05 4883f8fc 74ee 4885c0 7fe9"  # read, until its end
        "b8e7000000 31ff 0f05",  # exit_group
    ),
    "aarch64": (
        183,
        "290080d2 e97fbea9 ff7f01a9 200280d2 e1030091 020080d2 030180d2 c81080d2 010000d4"
        "800080d2 010080d2 e81480d2 010000d4"
        "000080d2 e1030091 020180d2 e80780d2 010000d4 1f1000b1 40ffff54 1f0000f1 0cffff54"
        "000080d2 c80b80d2 010000d4",
    ),
}


class NoPause(DevloopError):
    """Containers cannot be started on this kind of processor."""

    hint = 'use `image = "host"` on this box'


def pause_program(machine: str) -> bytes:
    """An ELF file for `machine`, as os.uname() names it. Raises NoPause."""
    if machine not in _MACHINES:
        raise NoPause(f"devloop has no container support for {machine} processors")
    number, code = _MACHINES[machine]
    body = bytes.fromhex(code)
    start = _HEADER.size + _SEGMENT.size
    size = start + len(body)
    header = _HEADER.pack(
        *(b"\x7fELF", 2, 1, 1, 0, 0),  # 64 bits, little-endian
        *(2, number, 1, _ADDRESS + start),  # an executable, and where it begins
        *(_HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, 1, 0, 0, 0),
    )
    segment = _SEGMENT.pack(_LOADED, _READ_EXECUTE, 0, _ADDRESS, _ADDRESS, size, size, _PAGE)
    return header + segment + body
