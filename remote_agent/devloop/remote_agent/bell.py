"""Waking those who wait for a condition, with nothing to do when nobody waits."""

from __future__ import annotations

import asyncio

__all__ = ["Bell"]


class Bell:
    """`wait` returns at the next `ring`. Check the condition, then wait: nothing comes between."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def ring(self) -> None:
        if not self._waiting:
            return
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()
