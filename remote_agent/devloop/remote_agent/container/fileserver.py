"""The process that serves an image's missing files (`cafs.fuse`), as its keeper sees it.

Owns the process and its mount's connection. Knows nothing of what it serves.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devloop.cafs.errors import DevloopError

from . import locked

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FileServer", "NotServed"]

_READY_S = 20.0
_CLOSE_S = 2.0
_READ_BYTES = 1 << 16
_CONNECTIONS = "/sys/fs/fuse/connections"


class NotServed(DevloopError):
    """The file server does not start, so that missing files of the image cannot be read."""

    hint = "`devloop doctor` says what this box allows"


class FileServer:
    def __init__(self, order: dict[str, Any]) -> None:
        """`order`: {command, env, ahead}, see `cafs.fuse.request`. It is started, and loads."""
        self._order = order
        self._connection = ""
        self._unsaid = b""
        request, self._stdin = os.pipe()
        self.says, answer = os.pipe()
        command = order["command"]
        actions = [(os.POSIX_SPAWN_DUP2, request, 0), (os.POSIX_SPAWN_DUP2, answer, 1)]
        self._pid = os.posix_spawn(command[0], command, order["env"], file_actions=actions)
        os.close(request)
        os.close(answer)
        self._tell_it(order["ahead"])

    @property
    def pid(self) -> int:
        """-1 when it was closed."""
        return self._pid

    def is_for(self, order: dict[str, Any]) -> bool:
        return self._order == order

    def announce(self, image: dict[str, Any]) -> None:
        """What it will serve: it begins meanwhile. At most once, before `serve`."""
        self._tell_it(image)

    def serve(self, request: dict[str, Any], target: Path) -> None:
        """At `target`, a directory. Returns when files can be read. Raises NotServed."""
        self._tell_it({**request, "mountpoint": str(target)})
        self._await_ready()
        self._note_connection(target)

    def _tell_it(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # its last words are read
            os.write(self._stdin, json.dumps(message).encode() + b"\n")

    def tell(self, say: Callable[[dict[str, Any]], None]) -> bool:
        """Passes on what it says, a JSON object a line. False when it has ended."""
        data = os.read(self.says, _READ_BYTES)
        self._pass_on(data, say)
        return bool(data)

    def tell_first(self, say: Callable[[dict[str, Any]], None]) -> None:
        """What it has said before it was ready."""
        self._pass_on(b"", say)

    def _pass_on(self, data: bytes, say: Callable[[dict[str, Any]], None]) -> None:
        *lines, self._unsaid = (self._unsaid + data).split(b"\n")
        for line in lines:
            say({"event": "served", "line": line.decode("utf-8", "replace")})

    def abort(self) -> None:
        """Whoever waits for it gets an error, at once and from now on."""
        if self._connection and self._pid >= 0:
            try:
                Path(self._connection, "abort").write_text("1")
            except OSError:  # not in reach of who is not root; it ends with its server, too
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """It ends at the end of its input, by itself or not."""
        if self._pid < 0:
            return
        os.close(self._stdin)
        pidfd = os.pidfd_open(self._pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_CLOSE_S * 1000):
            self.abort()
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(pidfd)
        self._pid = -1

    def _await_ready(self) -> None:
        poll = select.poll()
        poll.register(self.says, select.POLLIN)
        end = time.monotonic() + _READY_S
        while b"ready\n" not in self._unsaid:
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                raise NotServed("the file server of the image does not get ready")
            data = os.read(self.says, _READ_BYTES)
            if not data:
                last = self._unsaid.decode("utf-8", "replace").strip().rpartition("\n")[2]
                raise NotServed(f"the file server of the image has ended: {last or 'no word'}")
            self._unsaid += data
        before, _, after = self._unsaid.partition(b"ready\n")
        self._unsaid = before + after  # it may have fetched something by then

    def _note_connection(self, target: Path) -> None:
        """Now, while it answers: a look at a mount whose server is stuck would hang, too."""
        with contextlib.suppress(OSError):
            if not os.listdir(_CONNECTIONS):
                locked.mount("none", _CONNECTIONS, "fusectl", locked.MS_NOSUID | locked.MS_NODEV)
        self._connection = f"{_CONNECTIONS}/{os.minor(os.stat(target).st_dev)}"
