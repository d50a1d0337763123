"""Which of an image's variants runs on this machine. Plain values; knows no manifest.

The words are those of Go, as the OCI image index wants them: linux/amd64, linux/arm64/v8,
linux/arm/v7 (https://github.com/opencontainers/image-spec/blob/main/image-index.md).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .source_errors import PlatformMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Platform", "amd64_variant", "best", "host_platform", "parse_platform"]

_MACHINES = {
    "x86_64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "arm64": ("arm64", ""),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
}
# What a processor needs for a level of amd64, beyond the one below, as the kernel names it.
# https://gitlab.com/x86-psABIs/x86-64-ABI; `abm` has lzcnt, `xsave` stands for osxsave.
_AMD64_LEVELS = (
    ("v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    ("v3", "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"),
    ("v4", "avx512bw avx512cd avx512dq avx512f avx512vl"),
)
# What an entry without a variant means.
_UNSAID = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


class Platform(NamedTuple):
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)

    @property
    def level(self) -> int:
        """Machines of a higher level run what is for a lower one."""
        digits = (self.variant or _UNSAID.get(self.architecture, "")).removeprefix("v")
        return int(digits) if digits.isascii() and digits.isdigit() else 0

    def runs(self, other: Platform) -> bool:
        return self[:2] == other[:2] and other.level <= self.level


def host_platform() -> Platform:
    """Linux on this machine's processor: that is what containers are, on a Mac too."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    if architecture == "amd64":
        variant = amd64_variant(_processor_flags())
    return Platform("linux", architecture, variant)


def amd64_variant(flags: frozenset[str]) -> str:
    """The highest of which a processor with these flags has everything; empty for the lowest."""
    variant = ""
    for level, needed in _AMD64_LEVELS:
        if not flags.issuperset(needed.split()):
            break
        variant = level
    return variant


def _processor_flags() -> frozenset[str]:
    """Of the first one; none where the kernel does not say."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            found = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(found.partition(":")[2].split())


def parse_platform(text: str) -> Platform:
    """Of `linux/arm64` or `linux/arm/v7`. Raises PlatformMissing."""
    parts = text.lower().split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise PlatformMissing(f'"{text}" names no platform', hint="such as linux/amd64")
    return Platform(*parts)


def best(wanted: Platform, offered: Sequence[Platform | None], image: str) -> int:
    """The place in `offered` of what runs on `wanted`, the most specific first.

    None stands for an entry that does not say: it is taken only when it is the only one.
    Raises PlatformMissing, which lists what there is.
    """
    if list(offered) == [None]:
        return 0
    fitting = [i for i, one in enumerate(offered) if one is not None and wanted.runs(one)]
    if not fitting:
        names = sorted({str(one) for one in offered if one is not None})
        there = f"there is {', '.join(names)}" if names else "its index names no platform"
        hint = "build the image for this platform, or run it on another machine"
        raise PlatformMissing(f"{image} is not there for {wanted}: {there}", hint=hint)
    return max(fitting, key=lambda i: (_level(offered[i]), -i))


def _level(platform: Platform | None) -> int:
    return -1 if platform is None else platform.level
