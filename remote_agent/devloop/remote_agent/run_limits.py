"""How much of old runs is kept: what they take, and which are dropped. Deletes nothing itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

__all__ = ["beyond_limit", "sizes_bytes_of"]


def beyond_limit(
    sizes_bytes: Mapping[int, int], needed: Collection[int], limit_bytes: int
) -> list[int]:
    """The oldest runs that nobody needs, until the rest fits; never the newest."""
    excess = sum(sizes_bytes.values()) - limit_bytes
    doomed = []
    for number in sorted(sizes_bytes)[:-1]:
        if excess > 0 and number not in needed:
            doomed.append(number)
            excess -= sizes_bytes[number]
    return doomed


def sizes_bytes_of(directory: Path, numbers: list[int]) -> dict[int, int]:
    return {number: _size_bytes(directory / str(number)) for number in numbers}


def _size_bytes(directory: Path) -> int:
    try:
        with os.scandir(directory) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:  # it is being dropped
        return 0
