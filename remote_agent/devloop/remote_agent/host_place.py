"""The box itself as a place where runs start (`spawn`): no container, the agent's own user.

Owns the spawner process and the pool of zygotes. Knows nothing of what is learned.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import resolve_command
from .forker import Forker
from .interpreter import own_prefix
from .terminal import open_pty
from .zygote import words
from .zygotes import ZygotePool

if TYPE_CHECKING:
    from collections.abc import Callable

    from .command import Command
    from .spawn import StartRequest
    from .terminal import Pty

__all__ = ["HostPlace"]

_PROGRAM = Path(__file__).parent / "zygote" / "spawner.py"
_SERVICE_TIMEOUT_S = 20.0


class HostPlace:
    learned_as = b""
    identity: dict[str, Any] | None = None
    last_resort = None

    def __init__(self, highest_level: str) -> None:
        self.level = words.PROCESS_GROUP
        self.level_hint = "the agent is still starting"
        self.user_namespace = False
        self._highest_level = highest_level
        self._service: Forker | None = None
        self.pool = ZygotePool(lambda: {"level": self.level, "user_namespace": self.user_namespace})

    async def start(self) -> None:
        """Finds out the level. Raises ForkerFailed or TimeoutError when not even this works."""
        service = await self.service()
        loaded = service.loaded.result()
        self.level, self.level_hint = loaded["level"], loaded["hint"]
        self.user_namespace = loaded["user_namespace"]

    def witness(self) -> Callable[[], str]:
        return str

    async def service(self) -> Forker:
        """The spawner, started if need be. Raises ForkerFailed or TimeoutError."""
        if self._service is None or not self._service.is_alive:
            command = [os.fsencode(sys.executable), b"-I", b"-S", os.fsencode(_PROGRAM), b"{fd}"]
            self._service = Forker.start(command, dict(os.environb), b"/")
            self._service.configure({"highest_level": self._highest_level})
        service = self._service
        async with asyncio.timeout(_SERVICE_TIMEOUT_S):
            await asyncio.shield(service.loaded)
        return service

    def translated(self, request: StartRequest) -> StartRequest:
        return request

    async def resolve(self, request: StartRequest) -> Command:
        """Raises CommandNotExecutable."""
        local_root = None if request.local_root is None else Path(os.fsdecode(request.local_root))
        workspace = Path(os.fsdecode(request.workspace))
        return resolve_command(
            request.argv, request.env, request.cwd, workspace, local_root, own_prefix()
        )

    async def open_pty(self) -> Pty:
        """Raises OSError."""
        return open_pty()

    def touch(self) -> None:
        return

    def close(self) -> list[Forker]:
        """Ends every run that is left; returns those whose processes are still ending."""
        ending = self.pool.close()
        if self._service is not None:
            self._service.close()
            ending.append(self._service)
        return ending
