"""The session under a screen: opened, followed, measured, given up, and opened again when asked.

The only owner of the session and its tasks. Knows no widget: what happens is told to a listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from devloop.cafs.digest import Digest
    from devloop.sync.events import SessionEvent
    from devloop.sync.loop import Loop
    from devloop.sync.metrics import Sample
    from devloop.sync.session import Session

    from .ground import Ground, Opened

__all__ = ["Feed", "Listener"]

SAMPLE_PERIOD_S = 1.0
RTT_PERIOD_S = 4.0
RTT_TIMEOUT_S = 5.0
LAST_EVENTS_S = 1.0


class Listener(Protocol):
    """Hears of a session, on the event loop."""

    def opening(self) -> None: ...

    def event(self, event: SessionEvent) -> None: ...

    def sample(self, sample: Sample) -> None: ...

    def round_trip(self, rtt_s: float) -> None: ...

    def over(self, error: DevloopError | None) -> None:
        """`error`: what ended it, or kept it from being opened."""


class Feed:
    """`run` it once; it returns after `leave`."""

    def __init__(
        self, ground: Ground, listener: Listener, lend: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """`lend`: the terminal is whoever's who asks the user something, while it is open."""
        self._ground = ground
        self._listener = listener
        self._lend = lend
        self._opened: Opened | None = None
        self._session: asyncio.Task[None] | None = None
        self._again = asyncio.Event()
        self._leaving = False

    @property
    def loop(self) -> Loop | None:
        """None while no session is open."""
        return self._opened.loop if self._opened is not None else None

    async def run(self) -> None:
        """Sessions, one after another, until `leave`."""
        while not self._leaving:
            self._again.clear()
            self._listener.opening()
            self._session = asyncio.create_task(self._follow_session())
            try:
                error = await self._end_of(self._session)
            finally:
                self._session.cancel()
            self._opened = None
            if not self._leaving:
                self._listener.over(error)
                await self._again.wait()

    def again(self) -> None:
        """Opens a session where none is."""
        self._again.set()

    def leave(self, *, kill: bool = False, keep: bool = False) -> None:
        """Ends the live run and the session; `keep` lets the run go on without us."""
        self._leaving = True
        self._again.set()
        if self._opened is not None:
            self._opened.loop.leave(kill=kill, keep=keep)
        elif self._session is not None:
            self._session.cancel()

    async def diff_of_code(self, old: Digest, new: Digest) -> list[str]:
        """Lines of a unified diff. Raises DevloopErrors."""
        from devloop.sync.codediff import diff_of_code

        if self._opened is None:
            raise DevloopError("not connected", hint="the code of old runs is on the box")
        return await diff_of_code(self._opened.session.client, old, new)

    async def _end_of(self, session: asyncio.Task[None]) -> DevloopError | None:
        """Whatever ended it: the screen stays, and says so."""
        await asyncio.wait([session])
        if session.cancelled():
            return None
        return _as_error(session.exception())

    async def _follow_session(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            opened = await self._open(stack)
            self._opened = opened
            async with asyncio.TaskGroup() as tasks:
                showing = tasks.create_task(self._show(opened.loop))
                others = [
                    tasks.create_task(self._sample(opened.session)),
                    tasks.create_task(self._measure(opened.session)),
                ]
                await opened.loop.run()
                await asyncio.wait([showing], timeout=LAST_EVENTS_S)
                for task in (showing, *others):
                    task.cancel()
            if opened.loop.ended_by is not None:
                raise opened.loop.ended_by

    async def _open(self, stack: contextlib.AsyncExitStack) -> Opened:
        """Nobody is asked anything unless that is what is in the way."""
        try:
            return await stack.enter_async_context(self._ground.opened(may_ask=False))
        except DevloopError as error:
            if not self._ground.wants_to_ask(error):
                raise
        with self._lend():
            return await stack.enter_async_context(self._ground.opened(may_ask=True))

    async def _show(self, loop: Loop) -> None:
        while (event := await loop.events.get()) is not None:
            self._listener.event(event)

    async def _sample(self, session: Session) -> None:
        """Through lost links: the loop gets the session a new connection."""
        while True:
            with contextlib.suppress(DevloopError):
                samples = session.client.metrics(SAMPLE_PERIOD_S, session.workspace.id)
                async with contextlib.aclosing(samples):
                    async for sample in samples:
                        self._listener.sample(sample)
            await asyncio.sleep(SAMPLE_PERIOD_S)

    async def _measure(self, session: Session) -> None:
        while True:
            began = time.perf_counter()
            with contextlib.suppress(DevloopError):
                await session.client.hello(timeout_s=RTT_TIMEOUT_S)
                self._listener.round_trip(time.perf_counter() - began)
            await asyncio.sleep(RTT_PERIOD_S)


def _as_error(error: BaseException | None) -> DevloopError | None:
    """The first of devloop's own in a group; anything else is worded as one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is None or isinstance(error, DevloopError):
        return error
    if not isinstance(error, Exception):
        raise error
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return DevloopError(words, hint="nobody foresaw this; `devloop up --plain` may say more")
