"""One `ssh` process and the framing that it carries: for one thread at a time, or by a pipeline.

Every wait has a deadline: `timeout_s` without a byte is a lost connection.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import tempfile
import time
from importlib import resources
from threading import Condition, Lock
from typing import TYPE_CHECKING, Any

from .ssh_server import MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Answer", "Connection", "Lost", "Pipeline"]

_CONNECT_S = (
    20.0  # at most, for the connection and the login shell; less where the tier allows less
)
_MOST_NOISE = 1 << 16  # of what a login shell may print first
_MOST_HEAD = 64 << 20
_MOST_BODY = 16 << 20
_READ_BYTES = 1 << 18


Answer = tuple[dict[str, Any], bytes]


class Lost(Exception):
    """The connection is of no use any more."""


class Connection:
    def __init__(self, argv: Sequence[str], folder: str, timeout_s: float) -> None:
        """Raises Lost, OSError."""
        program = resources.files(__package__).joinpath("ssh_server.py").read_text()
        text = f"{program}\nmain({folder!r})\n".encode()
        self._timeout_s = timeout_s
        self._buffer = bytearray()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the connection)
        self._process = subprocess.Popen(
            [*argv, f"exec python3 -c 'import sys; exec(sys.stdin.buffer.read({len(text)}))'"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            process_group=0,  # a terminal's Ctrl-C is not meant for it
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to = self._process.stdin.fileno()
        self._from = self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        try:
            self._write(text)
            self._skip_noise()
        except Lost:
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        return self._process.stdin is not None and not self._process.stdin.closed

    def kill(self) -> None:
        """From any thread: whoever reads from it or writes to it gets Lost."""
        self._process.kill()

    def close(self) -> None:
        """Idempotent. Ends the far side, too."""
        if not self.is_open:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def ask(self, fields: dict[str, Any], body: Iterable[bytes] = ()) -> None:
        """The answer is read later: several requests may be under way. Raises Lost."""
        data = json.dumps(fields).encode()
        self._write(struct.pack(">I", len(data)) + data)
        for piece in body:
            self._write(piece)

    def answer(self, most_bytes: int = _MOST_BODY, *, wait_s: float | None = None) -> Answer:
        """To the oldest request that has none yet. Raises Lost."""
        head_bytes = struct.unpack(">I", self._read(4, wait_s))[0]
        if head_bytes > _MOST_HEAD:
            raise Lost("the other side does not speak like a tier")
        try:
            fields: dict[str, Any] = json.loads(self._read(head_bytes))
            size_bytes = int(fields.get("size", 0))
        except (ValueError, TypeError, AttributeError):
            raise Lost("the other side does not speak like a tier") from None
        if not 0 <= size_bytes <= most_bytes:
            raise Lost("the other side sends more than it was asked for")
        body = self._read(size_bytes)
        if "error" in fields:
            raise Lost(str(fields["error"]))
        return fields, body

    # ------------------------------------------------------------------ bytes

    def _skip_noise(self) -> None:
        deadline = time.monotonic() + min(_CONNECT_S, self._timeout_s)
        while MAGIC not in self._buffer:
            if len(self._buffer) > _MOST_NOISE:
                raise Lost("the login shell prints without an end")
            self._fill(deadline)
        del self._buffer[: self._buffer.index(MAGIC) + len(MAGIC)]

    def _read(self, size_bytes: int, wait_s: float | None = None) -> bytes:
        while len(self._buffer) < size_bytes:
            self._fill(time.monotonic() + (wait_s or self._timeout_s))
        data = bytes(memoryview(self._buffer)[:size_bytes])
        del self._buffer[:size_bytes]
        return data

    def _fill(self, deadline: float) -> None:
        self._wait(self._from, select.POLLIN, deadline)
        data = os.read(self._from, _READ_BYTES)
        if not data:
            raise self._ended()
        self._buffer += data

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._to, select.POLLOUT, time.monotonic() + self._timeout_s)
            try:
                view = view[os.write(self._to, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._ended() from None

    def _wait(self, fd: int, what: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(fd, what)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise Lost(f"no answer within {self._timeout_s:g} s")

    def _ended(self) -> Lost:
        """Why, in the words of `ssh` or of the far side: its last line."""
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return Lost("the connection was lost")
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if status == 127:
            return Lost(f"python3 does not run there: {said}"[:300])
        return Lost(f"the connection was lost: {said or f'ssh exits with {status}'}"[:300])


class Pipeline:
    """A connection for many threads: what one asks goes out while the answers to others come in, so
    that a small request does not cost the link a round trip."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asking = Lock()
        self._turn = Condition()  # of all that follows
        self._asked = self._answered = 0
        self._users = 0
        self.is_lost = False

    def call(
        self, requests: Sequence[dict[str, Any]], *, answers: int = 0, most_bytes: int = 0
    ) -> list[Answer]:
        """The answers, in the same order: one to each, where `answers` does not say how many there
        are. `most_bytes`: what one may hold, where that is much. Raises Lost."""
        with self._turn:
            if self.is_lost:
                raise Lost("the connection was lost")
            self._users += 1
        try:
            number = self._ask(requests)
            return self._answers(number, answers or len(requests), most_bytes or _MOST_BODY)
        except BaseException:
            self._lose()  # nobody knows whose answer comes next
            raise
        finally:
            with self._turn:
                self._users -= 1
                self._close_unused()

    def close(self) -> None:
        """Whoever still waits for an answer gets Lost."""
        self._lose()
        with self._turn:
            self._close_unused()

    def _ask(self, requests: Sequence[dict[str, Any]]) -> int:
        with self._asking:
            number, self._asked = self._asked, self._asked + 1
            for fields in requests:
                self._connection.ask(fields)
        return number

    def _answers(self, number: int, count: int, most_bytes: int) -> list[Answer]:
        with self._turn:
            # It comes: who is before us has his answer within the deadline, or loses all.
            self._turn.wait_for(lambda: self._answered == number or self.is_lost)
            if self.is_lost:
                raise Lost("the connection was lost")
        answers = [self._connection.answer(most_bytes) for _ in range(count)]
        with self._turn:
            self._answered += 1
            self._turn.notify_all()
        return answers

    def _lose(self) -> None:
        with self._turn:
            if not self.is_lost:
                self.is_lost = True
                self._connection.kill()
                self._turn.notify_all()

    def _close_unused(self) -> None:
        """A descriptor that somebody still reads from must not become another file's."""
        if self.is_lost and not self._users:
            self._connection.close()
