"""A Unix socket of this machine for one connection, which leads to the agent on the box.

gRPC takes an address and no open stream. So it is given this one, in a directory that is the user's
alone; whoever connects first gets the box, and then the address is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from typing import TYPE_CHECKING

from devloop.cafs import dirs

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

__all__ = ["Gateway"]


class Gateway:
    """Listens while it is entered. Raises DirectoryUnusable."""

    def __init__(self) -> None:
        directory = dirs.runtime_dir()
        dirs.ensure_private(directory)
        self.path: Path = directory / f"g-{secrets.token_hex(4)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.bind(str(self.path))
        self._socket.listen(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    async def accept(self) -> socket.socket:
        """The first connection; it is in non-blocking mode."""
        connection, _ = await asyncio.get_running_loop().sock_accept(self._socket)
        return connection
