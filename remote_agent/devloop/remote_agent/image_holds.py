"""Which images nobody may remove just now: runs are about to start in them.

Owns the time from the answer that an image is here to the container that needs it. Knows no files.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devloop.cafs.digest import Digest

__all__ = ["ImageHolds"]

KEPT_S = 60.0  # who was told that an image is here has so long to ask for a run


class ImageHolds:
    def __init__(self) -> None:
        self._kept_until_s: dict[Digest, float] = {}
        self._used: Counter[Digest] = Counter()

    def keep(self, index: Digest) -> None:
        """For a while."""
        self._kept_until_s[index] = time.monotonic() + KEPT_S

    @contextlib.contextmanager
    def holding(self, index: Digest) -> Iterator[None]:
        self._used[index] += 1
        try:
            yield
        finally:
            self._used[index] -= 1

    def held(self) -> set[Digest]:
        now_s = time.monotonic()
        self._kept_until_s = {i: s for i, s in self._kept_until_s.items() if s > now_s}
        self._used = +self._used
        return {*self._kept_until_s, *self._used}
