"""Giving up what a process in a container must not have. Linux calls only; decides nothing.

Nothing given up here can be had again.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["enter_namespaces", "lock_down", "mount", "set_limits"]

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID = 0x04000000, 0x08000000, 0x20000000
CLONE_NEWNET, CLONE_NEWCGROUP = 0x40000000, 0x02000000

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 4, 22, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_INSTRUCTION_BYTES = 8
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    outcome = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        os.fsencode(data) if data else None,
    )
    _checked(outcome, f"mount {kind} at {target}")


def enter_namespaces(pidfd: int, kinds: int) -> None:
    """Those of another process. Children are in its pid namespace, the caller is not."""
    _checked(_libc.setns(pidfd, kinds), "setns")


def set_limits(limits: Mapping[str, tuple[int, int]]) -> None:
    """Soft and hard ones by the names of the `resource` module; -1 is none. Raises OSError."""
    for name, (soft, hard) in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), (soft, hard))
        except (ValueError, OSError):
            word = name.removeprefix("RLIMIT_").lower()
            raise OSError(
                f"this box does not allow container.ulimits.{word} = {soft}:{hard}"
            ) from None


def lock_down(capabilities: Iterable[int], program: bytes) -> None:
    """Keeps only these capabilities; `program`: a seccomp filter, or b"" for none.

    Afterwards no process of another kind can look into this one's memory and descriptors.
    """
    _leave_keyring()
    kept = frozenset(capabilities)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    with open("/proc/sys/kernel/cap_last_cap") as file:  # noqa: PTH123 - imports less
        last = int(file.read())
    for number in range(last + 1):
        if number not in kept:
            _prctl(_PR_CAPBSET_DROP, number)
    _set_capabilities(kept)
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if program:
        _filter_calls(program)


def _set_capabilities(kept: frozenset[int]) -> None:
    mask = sum(1 << number for number in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _checked(_libc.capset(header, data), "capset")


def _filter_calls(program: bytes) -> None:
    value = _Program(len(program) // _INSTRUCTION_BYTES, program)
    outcome = _libc.prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(value), 0, 0
    )
    _checked(outcome, "seccomp")


def _leave_keyring() -> None:
    """The agent's keys are not the runs'. A kernel without keyrings has none to hide."""
    number = _KEYCTL.get(platform.machine())
    if number is not None:
        _libc.syscall(ctypes.c_long(number), _KEYCTL_JOIN_SESSION_KEYRING, None)


def _prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def _checked(outcome: int, what: str) -> None:
    if outcome < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
