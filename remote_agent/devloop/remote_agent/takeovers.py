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
        self._inside: dict[tuple[str, int, str], list[asyncio.Task[object]]] = {}

    @contextlib.asynccontextmanager
    async def only_one(self, workspace_id: str, run: int, owner: str) -> AsyncIterator[None]:
        """For the current task: older ones are cancelled, and have ended when this is entered."""
        if not owner:
            yield
            return
        key = (workspace_id, run, owner)
        me = asyncio.current_task()
        assert me is not None
        inside = self._inside.setdefault(key, [])
        # All of them: the one before this may itself still wait for an older one.
        older = list(inside)
        inside.append(me)
        try:
            for task in older:
                if not task.cancelling():  # a second time would disturb it as it cleans up
                    task.cancel()
            if older:
                await asyncio.wait(older)
            yield
        finally:
            inside.remove(me)
            if not inside and self._inside.get(key) is inside:
                del self._inside[key]
