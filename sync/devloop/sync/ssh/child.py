"""One `ssh` process: started, its last words kept, and its end, which leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from .errors import ClientMissing
from .link import MAX_STDERR_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Child", "start_child"]

KILLED = 255
END_TIMEOUT_S = 2.0
POLL_S = 0.002
LAST_WORDS_S = 0.5
READ_AHEAD_BYTES = 1 << 20


async def start_child(
    argv: Sequence[str], *, stdin: int, stdout: int, in_terminal: bool = False
) -> Child:
    """`in_terminal`: it may ask the user there; otherwise it has no terminal, and asks nobody.

    Raises ClientMissing.
    """
    environ = dict(os.environ)
    if not in_terminal:
        environ["SSH_ASKPASS_REQUIRE"] = "never"
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environ,
            start_new_session=not in_terminal,
            limit=READ_AHEAD_BYTES,
        )
    except FileNotFoundError:
        raise ClientMissing(f"there is no `{argv[0]}` command on this machine") from None
    return Child(process)


class Child:
    """Its stderr is read all the time, so that it never waits for a reader."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.stdin = process.stdin
        self.stdout = process.stdout
        self.pid = process.pid
        self.stderr_tail = b""
        self._process = process
        self._reading = asyncio.create_task(self._read_stderr())

    async def wait(self) -> int:
        """Its exit code, 255 when a signal ended it; by then its last words are there."""
        code = await self._process.wait()
        # Something it started may hold stderr open, and does not concern us.
        await asyncio.wait([self._reading], timeout=LAST_WORDS_S)
        return code if code >= 0 else KILLED

    async def end(self, *, politely: bytes | None = None) -> None:
        """Ends its stdin, then the process. Idempotent. `politely`: with these last bytes, and
        time to clean up; a client of a master does not listen to SIGTERM, and has nothing to do.
        """
        if self.stdin is not None:
            with contextlib.suppress(OSError):
                self.stdin.write(politely or b"")
                self.stdin.close()
        polite = () if politely is None else (signal.SIGTERM,)
        for number in (*polite, signal.SIGKILL):
            self._signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await self._drain()
                    await self._until_dead()
                break
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._process._transport.close()  # type: ignore[attr-defined] # noqa: SLF001 - no other way

    def _signal(self, number: int) -> None:
        """Not by the process's own method: that may reap it first, which asyncio complains of."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _until_dead(self) -> None:
        """asyncio's own wait lasts until nobody holds stderr, which a master does for longer."""
        while self._process.returncode is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(POLL_S)

    async def _drain(self) -> None:
        """asyncio lets go of a process only when its output was read to the end."""
        with contextlib.suppress(RuntimeError):  # somebody waits in a read, and gets the end
            while self.stdout is not None and await self.stdout.read(READ_AHEAD_BYTES):
                pass

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(MAX_STDERR_BYTES):
            self.stderr_tail = (self.stderr_tail + data)[-MAX_STDERR_BYTES:]
