"""A Unix socket of this machine for one connection, which leads to the agent on the box.

gRPC takes an address and no open stream. So it is given this one, in a directory that is the user's
alone; whoever connects first gets the box, and then the address is gone.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from .sockets import new_place

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

__all__ = ["Gateway"]


class Gateway:
    """Listens while it is entered. Raises DirectoryUnusable."""

    def __init__(self) -> None:
        self._place = new_place("g")
        self.path: Path = self._place.path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.bind(str(self.path))
        self._socket.listen(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._place.clear()

    async def accept(self) -> socket.socket:
        """The first connection; it is in non-blocking mode."""
        connection, _ = await asyncio.get_running_loop().sock_accept(self._socket)
        return connection
