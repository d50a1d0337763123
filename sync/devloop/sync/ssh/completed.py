"""A command run to its end on any link: fed, read within a limit, given up after its time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from .errors import CommandTimedOut, LinkLost, OutputTooLong
from .link import Completed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .link import Stream

__all__ = ["Opens", "run_on"]


class Opens(Protocol):
    """The part of a Link that this needs."""

    async def open(self, command: str) -> Stream: ...


async def run_on(
    link: Opens,
    command: str,
    stdin: bytes | AsyncIterator[bytes],
    timeout_s: float,
    max_output_bytes: int,
) -> Completed:
    """Raises CommandTimedOut, OutputTooLong, and what `open` raises."""
    stream = await link.open(command)
    try:
        async with asyncio.timeout(timeout_s):
            return await _complete(stream, stdin, max_output_bytes)
    except TimeoutError:
        raise CommandTimedOut(
            f"`{_short(command)}` did not end within {timeout_s:g} s on the box"
        ) from None
    finally:
        await stream.close()


async def _complete(
    stream: Stream, stdin: bytes | AsyncIterator[bytes], max_output_bytes: int
) -> Completed:
    feeding = asyncio.create_task(_feed(stream, stdin))
    reading = asyncio.create_task(_read(stream, max_output_bytes))
    try:
        await asyncio.wait([feeding, reading], return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            feeding.result()
        # A command that ends without reading has no use for the rest.
        stdout = await reading
        return Completed(await stream.wait(), stdout, stream.stderr_tail)
    finally:
        for task in (feeding, reading):
            task.cancel()
        await asyncio.gather(feeding, reading, return_exceptions=True)


async def _feed(stream: Stream, stdin: bytes | AsyncIterator[bytes]) -> None:
    try:
        if isinstance(stdin, bytes):
            await stream.write(stdin)
        else:
            async for piece in stdin:
                await stream.write(piece)
        await stream.write_eof()
    except LinkLost:
        pass  # the command ended early: its exit code says what that means


async def _read(stream: Stream, max_output_bytes: int) -> bytes:
    pieces, size = [], 0
    while piece := await stream.read():
        pieces.append(piece)
        size += len(piece)
        if size > max_output_bytes:
            raise OutputTooLong(
                f"a command on the box printed more than {max_output_bytes:,} bytes"
            )
    return b"".join(pieces)


def _short(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
