"""One attachment of a client session to the same runs: the newest.

A link that is lost is noticed by the client first. When it comes back, the old attachment may still
hold the run's input, and slow the program down to a reader that will never read again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Takeovers"]


class Takeovers:
    """The tasks that serve attachments, by what they are attached to and for whom."""

    def __init__(self) -> None:
        self._serving: dict[tuple[str, int, str], asyncio.Task[object]] = {}

    @contextlib.asynccontextmanager
    async def only_one(self, workspace_id: str, run: int, owner: str) -> AsyncIterator[None]:
        """For the current task: an older one is cancelled, and has ended when this is entered."""
        if not owner:
            yield
            return
        key = (workspace_id, run, owner)
        me = asyncio.current_task()
        assert me is not None
        older, self._serving[key] = self._serving.get(key), me
        try:
            if older is not None:
                older.cancel()
                await asyncio.wait([older])
            yield
        finally:
            if self._serving.get(key) is me:
                del self._serving[key]
