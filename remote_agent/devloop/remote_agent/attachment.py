"""One client at one run, or at all runs of an owner: what they print there, what is typed here.

Part of the servicer: knows the words of the protocol, and leaves runs and their input to run.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from devloop.cafs.errors import DevloopError
from devloop.proto.v1 import agent_pb2 as pb

from . import convert
from .run import RunState
from .run_lease import lease

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .agent import Project
    from .run import Run
    from .stdin import StdinWriter

__all__ = ["Attachment"]

logger = logging.getLogger(__name__)


class Attachment:
    """One client at one run, or at all runs of a workspace that start from now on."""

    def __init__(self, project: Project, opened: pb.AttachOpen, context: Any) -> None:
        self._project = project
        self._opened = opened
        self._context = context
        self._sending = asyncio.Lock()
        self._holds_stdin = False

    async def follow(self) -> None:
        if self._opened.run:
            run = self._project.runs.get(self._opened.run)
            async with self._input_of(run):
                await self._follow_run(run, self._opened.from_record)
            return
        self._project.followers += 1
        try:
            await self._follow_many()
        finally:
            self._project.followers -= 1

    async def _follow_many(self) -> None:
        runs = self._project.runs
        resumed = {r.run: r.from_record for r in self._opened.resume if r.run in runs}
        after_run = self._opened.HasField("after_run")
        number = self._opened.after_run if after_run else runs.last_number
        async with asyncio.TaskGroup() as tasks:
            for run_number, from_record in resumed.items():
                run = runs.get(run_number)
                tasks.create_task(self._follow_one_of_many(run, from_record))
            while True:
                for run in await runs.started_after(number):
                    number = run.number
                    if self._opened.owner in ("", run.spec.owner) and number not in resumed:
                        tasks.create_task(self._follow_one_of_many(run, 0))

    @contextlib.asynccontextmanager
    async def _input_of(self, run: Run) -> AsyncIterator[None]:
        """Held until the attachment ends, where it asks for it and nobody else has it."""
        if not self._opened.stdin:
            yield
            return
        while run.state is RunState.STARTING and run.stdin is None:
            await run.changed()
        stdin = run.stdin
        self._holds_stdin = stdin is not None and stdin.hold(self)
        try:
            await self._send_ack(stdin)
            yield
        finally:
            if stdin is not None:
                stdin.release(self)

    async def _follow_one_of_many(self, run: Run, from_record: int) -> None:
        """What spoils the news of one run must not end that of the others."""
        try:
            await self._follow_run(run, from_record)
        except Exception:
            if not self._context.done():  # else the client has hung up
                logger.exception("run %d can no longer be followed", run.number)

    async def _follow_run(self, run: Run, from_record: int) -> None:
        if self._opened.holds_lease:
            with lease(run):
                await self._send_all(run, from_record)
        else:
            await self._send_all(run, from_record)

    async def _send_all(self, run: Run, from_record: int) -> None:
        """Its state while it is live, its records, and last, when it has ended, its state."""
        while run.state is RunState.STARTING:
            await run.changed()
        if run.live:
            await self._send_state(run)
        states = asyncio.create_task(self._send_states(run))
        try:
            await self._send_records(run, from_record)
        except (OSError, DevloopError):
            logger.exception("the log of run %d cannot be read", run.number)
        finally:
            states.cancel()
        if self._opened.follow:
            await run.ended.wait()
            await self._send_state(run)

    async def _send_records(self, run: Run, from_record: int) -> None:
        with run.log.reader(
            from_record,
            lossless=self._opened.lossless,
            follow=self._opened.follow,
        ) as reader:
            async for batch in reader:
                await self._send(pb.AttachReply(records=convert.log_records(run, batch)))

    async def _send_states(self, run: Run) -> None:
        while run.live:
            await run.changed()
            if run.live:
                await self._send_state(run)

    async def _send_state(self, run: Run) -> None:
        workspace = self._project.workspace
        message = convert.run_message(run, workspace.id, workspace.name)
        await self._send(pb.AttachReply(run=message))

    async def _send(self, reply: pb.AttachReply) -> None:
        async with self._sending:
            await self._context.write(reply)

    async def listen(self, requests: AsyncIterator[pb.AttachRequest]) -> None:
        """Signals overtake input that the program does not read."""
        async with asyncio.TaskGroup() as tasks:
            # Not bounded here: a client sends no more than its window ahead of the acks.
            inputs: asyncio.Queue[tuple[Run, pb.Stdin]] = asyncio.Queue()
            writing = tasks.create_task(self._write_stdin(inputs))
            await self._listen(requests, inputs)
            writing.cancel()

    async def _write_stdin(self, inputs: asyncio.Queue[tuple[Run, pb.Stdin]]) -> None:
        while True:
            run, message = await inputs.get()
            with _dropping():
                await self._stdin(run, message)

    async def _listen(
        self,
        requests: AsyncIterator[pb.AttachRequest],
        inputs: asyncio.Queue[tuple[Run, pb.Stdin]],
    ) -> None:
        async for request in requests:
            with _dropping():
                self._take(request, inputs)

    def _take(self, request: pb.AttachRequest, inputs: asyncio.Queue[tuple[Run, pb.Stdin]]) -> None:
        run = self._project.runs.get(request.run or self._opened.run)
        match request.WhichOneof("kind"):
            case "stdin":
                inputs.put_nowait((run, request.stdin))
            case "size":
                run.resize(request.size.rows, request.size.columns)
            case "signal":
                run.signal(request.signal)

    async def _stdin(self, run: Run, message: pb.Stdin) -> None:
        if run.stdin is None or not self._holds_stdin:
            return
        await run.stdin.write(message.offset, message.data)
        if message.eof:
            run.stdin.end()
        await self._send_ack(run.stdin)

    async def _send_ack(self, stdin: StdinWriter | None) -> None:
        """Whoever holds no stdin hears why: there is none, or another attachment has it."""
        ack = pb.StdinAck(
            received_bytes=stdin.received_bytes if stdin is not None else 0,
            closed=stdin is None or stdin.is_over,
            held=stdin is not None and not self._holds_stdin,
        )
        await self._send(pb.AttachReply(stdin_ack=ack))


@contextlib.contextmanager
def _dropping() -> Iterator[None]:
    """A message that makes no sense costs itself only: the Ctrl-C behind it must be heard."""
    try:
        yield
    except (DevloopError, OSError, ValueError) as error:
        logger.info("a client's message was dropped: %s", error)
