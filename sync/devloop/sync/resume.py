"""An attachment to one run that outlives its link.

Owns where the run's log goes on after a lost link, and the input that the agent has not said it
has. Neither a record nor a byte of input is lost or repeated: records are numbered, input has
offsets. Knows no terminal; a caller is told of the loss through `on_lost`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.errors import DevloopError

from .agent_errors import AgentGone, RemoteError
from .model import LogRecord, StdinAck
from .target import AgentEnded, backoff_s

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from .client import AgentClient, Attachment
    from .model import AttachEvent, Run
    from .target import Connection

__all__ = ["ResumingAttachment"]

# A run outlives its client for its lease; who has been away for longer finds out how it ended.
GIVE_UP_S = 24 * 3600.0


class _Piece(NamedTuple):
    """Of the input, from `offset` of the whole."""

    offset: int
    data: bytes
    is_last: bool

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class ResumingAttachment:
    """Iterate it once, for what happens up to the run's end; write to it what the user does.

    What is written while the link is down waits for it. On a connection that does not come back
    by itself (the embedded agent: without it there is no run) AgentGone is raised.
    """

    def __init__(
        self,
        connection: Connection,
        workspace_id: str,
        run: int,
        *,
        from_record: int = 0,
        holds_lease: bool = True,
        stdin: bool = False,
        owner: str = "",
        on_lost: Callable[[str, float], None] = lambda reason, delay_s: None,
    ) -> None:
        """`on_lost` is told why, and in how many seconds the next try is."""
        self._connection = connection
        self._workspace_id = workspace_id
        self._run = run
        self._next_record = from_record
        self._holds_lease = holds_lease
        self._stdin = stdin
        self._owner = owner
        self._on_lost = on_lost
        self._attachment: Attachment | None = None
        self._attached = asyncio.Event()
        self._unacked: deque[_Piece] = deque()

    @property
    def client(self) -> AgentClient:
        return self._connection.client

    @property
    def is_local(self) -> bool:
        """Without the agent's answer there is no run."""
        return self._connection.target.is_local

    async def __aiter__(self) -> AsyncIterator[AttachEvent]:
        """Raises AgentGone, and RemoteError for a run that is not there."""
        while True:
            try:
                async with contextlib.aclosing(self._until_lost()) as events:
                    async for event in events:
                        yield event
                return
            except AgentGone as error:
                if self.is_local:
                    raise
                await self._reconnect(str(error))

    async def _until_lost(self) -> AsyncGenerator[AttachEvent, None]:
        attaching = self._connection.client.attach(
            self._workspace_id,
            self._run,
            from_record=self._next_record,
            lossless=True,
            holds_lease=self._holds_lease,
            stdin=self._stdin,
            owner=self._owner,
        )
        try:
            async with attaching as self._attachment:
                if not self._stdin:
                    self._attached.set()
                async for event in self._attachment:
                    if isinstance(event, LogRecord):
                        yield event
                        self._next_record = event.number + (event.dropped_records or 1)
                        continue
                    if isinstance(event, StdinAck):
                        await self._take_ack(event, self._attachment)
                    yield event
                    if not isinstance(event, StdinAck) and not event.live:
                        return
            raise AgentGone("the agent has ended")
        finally:
            self._attached.clear()

    async def _take_ack(self, ack: StdinAck, attachment: Attachment) -> None:
        unacked = self._unacked
        # The end itself is never acked: it stays, and is harmless when it comes twice.
        while unacked and not unacked[0].is_last and unacked[0].end <= ack.received_bytes:
            unacked.popleft()
        if self._attached.is_set():
            return
        # The first of this link: what the agent has not got goes again, and the rest may follow.
        for piece in list(unacked):
            await attachment.send_stdin(piece.offset, piece.data, eof=piece.is_last)
        self._attached.set()

    async def _reconnect(self, reason: str) -> None:
        """Raises what says that trying again is of no use."""
        give_up_at_s = time.monotonic() + GIVE_UP_S
        for delay_s in backoff_s():
            self._on_lost(reason, delay_s)
            await asyncio.sleep(delay_s)
            try:
                await self._connection.reconnect()
                return
            except (AgentEnded, RemoteError):
                raise
            except DevloopError as error:
                reason = str(error)
                if time.monotonic() > give_up_at_s:
                    raise

    # -- what the user does

    async def send_stdin(self, offset: int, data: bytes, *, eof: bool = False) -> None:
        self._unacked.append(_Piece(offset, data, eof))
        await self._tell(lambda attachment: attachment.send_stdin(offset, data, eof=eof))

    async def resize(self, rows: int, columns: int) -> None:
        await self._tell(lambda attachment: attachment.resize(rows, columns))

    async def signal(self, number: int) -> None:
        await self._tell(lambda attachment: attachment.signal(number))

    async def _tell(self, tell: Callable[[Attachment], Awaitable[None]]) -> None:
        """A link that is lost amid it is waited for: whoever reads from us hears of the loss."""
        while True:
            await self._attached.wait()
            attachment = self._attachment
            assert attachment is not None
            try:
                await tell(attachment)
                return
            except AgentGone:
                if self._attachment is attachment:
                    self._attached.clear()

    async def ended_run(self, ask_s: float) -> Run:
        """Asks every `ask_s`, since what is attached hears of the end only after all output."""
        while True:
            with contextlib.suppress(AgentGone):
                for run in await self.client.list_runs(self._workspace_id):
                    if run.number == self._run and not run.live:
                        return run
            await asyncio.sleep(ask_s)
