"""What is written to a run while its link is lost is not lost with it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

from devloop.cafs.digest import digest_of
from devloop.sync.agent_errors import AgentGone
from devloop.sync.model import Run, RunEnd, RunState, StdinAck
from devloop.sync.resume import ResumingAttachment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from devloop.sync.model import AttachEvent
    from devloop.sync.target import Connection

ENDED = Run(
    *(1, "w-1", "w", digest_of(b""), (b"cat",), "exec", (), False, RunState.ENDED, 1, 2, 3),
    *(RunEnd(0, 0, "", 0, 0.0, 0.0, 0.0, False, ""), "cold", "", 0),
)


class Box:
    """A run that takes input by offset, as the agent does, and ends with it."""

    def __init__(self) -> None:
        self.input = b""
        self.signals: list[int] = []
        self.ended = asyncio.Event()

    def take(self, offset: int, data: bytes, *, eof: bool) -> None:
        assert offset <= len(self.input)
        self.input += data[len(self.input) - offset :]
        if eof:
            self.ended.set()


class Link:
    """To that run; write number `cut_at` meets a link that is lost, and so does all after it."""

    def __init__(self, box: Box, cut_at: int | None) -> None:
        self._box = box
        self._writes_left = cut_at
        self._cut = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[AttachEvent]:
        yield StdinAck(len(self._box.input), closed=False)
        waits = [asyncio.create_task(e.wait()) for e in (self._cut, self._box.ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._cut.is_set():
            raise AgentGone("cut")
        yield ENDED

    def _write(self) -> None:
        if self._writes_left == 0:
            self._cut.set()
            raise AgentGone("cut")
        if self._writes_left is not None:
            self._writes_left -= 1

    async def send_stdin(self, offset: int, data: bytes, *, eof: bool = False) -> None:
        self._write()
        self._box.take(offset, data, eof=eof)

    async def signal(self, number: int) -> None:
        self._write()
        self._box.signals.append(number)


class Target:
    name = "box"
    is_local = False


class Links:
    """A connection whose first links are cut at these writes; the last one holds."""

    target = Target()

    def __init__(self, box: Box, *cuts: int) -> None:
        self._links = iter([*(Link(box, cut) for cut in cuts), Link(box, None)])
        self.client = self

    @contextlib.asynccontextmanager
    async def attach(self, *_: Any, **__: Any) -> AsyncIterator[Link]:
        yield next(self._links)

    async def reconnect(self) -> None:
        """At once."""


async def events_of(attachment: ResumingAttachment) -> list[AttachEvent]:
    return [event async for event in attachment]


async def test_input_goes_on_after_a_write_that_met_a_lost_link() -> None:
    box = Box()
    connection = cast("Connection", Links(box, 1, 0, 2))
    attachment = ResumingAttachment(connection, "w-1", 1, stdin=True)
    reading = asyncio.create_task(events_of(attachment))
    async with asyncio.timeout(20):
        for offset in range(5):
            await attachment.send_stdin(offset, b"%d" % offset)
        await attachment.send_stdin(5, b"", eof=True)
        assert (await reading)[-1] == ENDED
    assert box.input == b"01234"


async def test_a_signal_that_met_a_lost_link_is_sent_over_the_next() -> None:
    box = Box()
    connection = cast("Connection", Links(box, 0))
    attachment = ResumingAttachment(connection, "w-1", 1)
    reading = asyncio.create_task(events_of(attachment))
    async with asyncio.timeout(20):
        await attachment.signal(2)
        box.ended.set()
        await reading
    assert box.signals == [2]
