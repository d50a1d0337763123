"""What a connection over SSH is to the rest of `sync`, whichever client carries it. No I/O here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import AsyncIterator

    from .errors import SshError

__all__ = ["MAX_STDERR_BYTES", "Command", "Completed", "Link", "Prompter", "Stream"]

MAX_STDERR_BYTES = 64 << 10


class Completed(NamedTuple):
    """A command that has ended. `stderr` holds the last 64 KiB at most."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Command(Protocol):
    """A command that runs on the box. Whoever opened it closes it."""

    @property
    def stderr_tail(self) -> bytes:
        """What it wrote to stderr, the last 64 KiB at most."""

    async def wait(self) -> int:
        """Its exit code; 255 when the link was lost, or the command was ended by a signal."""

    async def close(self) -> None:
        """Ends the command's stdin and stdout. Idempotent."""


class Stream(Command, Protocol):
    """A command whose stdin and stdout are one byte stream."""

    async def read(self, max_bytes: int = 1 << 16) -> bytes:
        """What there is, waiting for the first byte; b"" at the end."""

    async def write(self, data: bytes) -> None:
        """Returns when the bytes are taken. Raises LinkLost when nobody takes them any more."""

    async def write_eof(self) -> None:
        """Ends the command's stdin; its output can still be read."""


class Link(Protocol):
    """One authenticated connection. Commands run side by side on it."""

    @property
    def lost(self) -> asyncio.Event:
        """Set when the connection has ended, by `close` too."""

    @property
    def reason(self) -> SshError | None:
        """What ended the connection; None while it lives, and after `close`."""

    async def run(
        self,
        command: str,
        *,
        stdin: bytes | AsyncIterator[bytes] = b"",
        timeout_s: float = 60.0,
        max_output_bytes: int = 1 << 20,
    ) -> Completed:
        """Runs it by the user's login shell. Raises CommandTimedOut, OutputTooLong, LinkLost."""

    async def open(self, command: str) -> Stream:
        """Starts it by the user's login shell. Raises LinkLost."""

    async def connect_socket(self, command: str, sock: socket.socket) -> Command:
        """Starts it with a connected socket as its stdin and stdout; takes the socket over.

        Raises LinkLost.
        """

    async def close(self) -> None:
        """Ends the connection and what runs on it. Idempotent."""


class Prompter(Protocol):
    """Somebody to ask while connecting. Answers None when nobody is there or wants to answer."""

    @property
    def owns_terminal(self) -> bool:
        """Whether nothing else draws on the controlling terminal: `ssh` may then ask there."""

    async def ask(self, question: str, *, secret: bool) -> str | None: ...

    async def confirm_host(self, host: str, key_type: str, fingerprint: str) -> str | None:
        """An unknown host's key: "yes", "no", or the fingerprint that the user expects."""
