"""Which cipher carries bulk over SSH. Knows neither a configuration file nor a connection.

OpenSSH prefers chacha20-poly1305, which costs a processor with AES instructions twice as much as
AES-GCM does, on either side (docs/benchmarks.md). Nothing is used that is not allowed.
"""

from __future__ import annotations

import platform
from functools import cache

__all__ = ["fast_first", "has_aes"]

_SLOW = "chacha20-poly1305@openssh.com"
_CPUINFO_BYTES = 8192  # the first processor's entry; a large machine has a megabyte of them


def fast_first(ciphers: str) -> str | None:
    """The `Ciphers` of a configuration, as `ssh -G` prints them, in another order.

    None where the order is to stay: the first is not OpenSSH's own choice, or is the best one.
    """
    names = ciphers.split(",")
    fast = [name for name in names if "-gcm@" in name]
    if names[0] != _SLOW or not fast or not has_aes():
        return None
    return ",".join(fast + [name for name in names if name not in fast])


@cache
def has_aes() -> bool:
    """Has this machine's processor instructions for AES? The other side's is taken to be alike."""
    if platform.system() != "Linux":
        return platform.machine() in ("arm64", "x86_64")  # every Mac that Python 3.11 runs on
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - imports count
            return " aes " in file.read(_CPUINFO_BYTES).replace("\n", " ")
    except OSError:
        return False
