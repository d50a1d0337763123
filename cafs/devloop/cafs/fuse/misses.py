"""Getting what is missing here, while somebody waits for it: whole blobs, or pieces of large ones.

Owns what is fetched when, and the book of large blobs that are not whole. Refuses to know how
FUSE is answered. For the thread of trio, but for what runs in `Flights`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from devloop.cafs.digest import split_digests
from devloop.cafs.errors import BlobCorrupt, BlobMismatch, BlobMissing, DevloopError
from devloop.cafs.index import chunk_list_bytes

from .flights import Flight, Flights
from .partial import Partial
from .views import Content

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from devloop.cafs.digest import Digest
    from devloop.cafs.tiers import Tiers
    from devloop.cafs.tiers.landing import Landing

    from .descriptors import Descriptors
    from .events import Events
    from .partial import Span

__all__ = ["Misses"]

_THREADS = 16  # for what somebody waits for
_BEHIND_THREADS = 4  # for completing large blobs
_BEHIND_AT_ONCE = 2  # requests for one blob
_AHEAD_THREADS = 6  # for what a profile names
_AHEAD_AT_ONCE = 3  # requests for pieces of large blobs
_SETTLE_S = 0.3
# A start is over when nobody has wanted anything for so long, and is past its time after that.
_QUIET_S = 1.0
_START_S = 15.0


class Misses:
    def __init__(
        self,
        nursery: trio.Nursery,
        tiers: Tiers,
        landing: Landing,
        fds: Descriptors,
        events: Events,
        *,
        deadline_s: float,
        settled: Callable[[], object] = lambda: None,
    ) -> None:
        """`settled` is called in a thread whenever something has got its name."""
        self._nursery = nursery
        self._tiers = tiers
        self._landing = landing
        self._fds = fds
        self._events = events
        self._settled = settled
        flights = partial(Flights, nursery, tiers, deadline_s=deadline_s, shed=fds.shed)
        self._flights = flights(threads=_THREADS)
        self._behind = flights(threads=_BEHIND_THREADS)
        self._ahead = flights(threads=_AHEAD_THREADS)
        self._ahead_slots = trio.Semaphore(_AHEAD_AT_ONCE)
        self.start_is_over = trio.Event()
        self._partials: dict[Digest, Partial] = {}
        self._coming: dict[tuple[Digest, int], Flight] = {}  # by chunk
        self._completing: set[Digest] = set()
        self._slots = trio.Semaphore(_BEHIND_THREADS)
        self._wanted_at = trio.current_time()

    def partial(self, digest: Digest) -> Partial | None:
        return self._partials.get(digest)

    def open(self, digest: Digest) -> int:
        """Raises BlobMissing, OSError."""
        large = self._partials.get(digest)
        return self._landing.open(digest) if large is None else self._landing.open_temp(large.temp)

    async def ensure(self, content: Content) -> None:
        """Makes the blob readable: whole, or as a `Partial` whose pieces are had by `need`.

        Raises BlobUnavailable, NoAnswer, StoreFull, OSError.
        """
        self._wanted_at = trio.current_time()
        if self._landing.has(content.digest):
            return
        if content.chunks is None:
            while not self._landing.has(content.digest):
                await self._flights.land(content.digest, partial(self._fetch, content))
        elif content.digest not in self._partials:
            await self._begin(content, content.chunks)

    async def need(self, large: Partial, offset: int, size_bytes: int) -> None:
        """Returns when that range can be read. Raises as `ensure` does."""
        self._wanted_at = trio.current_time()
        for chunk in large.needed(offset, size_bytes):
            while not large.is_here(chunk):
                await self._need(large, chunk)
        self._complete(large)

    # ------------------------------------------------------------------ ahead of readers

    async def quiet(self) -> None:
        """Returns when a start is over, as far as readers show."""
        end = trio.current_time() + _START_S
        while (at := self._wanted_at + _QUIET_S) > trio.current_time() < end:  # noqa: ASYNC110 (time)
            await trio.sleep_until(min(at, end))

    def end_start(self) -> None:
        """From now on, what else large blobs hold may take its share of the link."""
        self.start_is_over.set()

    async def bring(self, contents: Sequence[Content]) -> None:
        """Small blobs, in one request. Raises nothing: who needs one that is missing is told.

        A reader does not wait for the others of the request, and asks for his own himself: he goes
        on with what comes first.
        """
        wanted = {c.digest: c.size_bytes for c in contents if not self._landing.has(c.digest)}
        if wanted:
            token = trio.lowlevel.current_trio_token()
            await self._ahead.batch(partial(self._fetch_many, wanted, token))

    async def bring_pieces(self, content: Content, first: int, chunks: int) -> None:
        """Of a large blob. Raises as `ensure` does."""
        await self.ensure(content)
        large = self._partials.get(content.digest)
        if large is None:
            return  # it is here, whole
        async with trio.open_nursery() as nursery:
            for _ in range(_AHEAD_AT_ONCE):
                nursery.start_soon(self._bring_some, large, first, chunks)

    async def _bring_some(self, large: Partial, first: int, chunks: int) -> None:
        """Asks for no more than there are threads for: what waits in a line has its deadline, too,
        and a reader would wait for it."""
        while True:
            async with self._ahead_slots:
                span = large.ask_within(first, chunks)
                if span is None:
                    return
                flight = self._start(self._ahead, large, span)
                await flight.done.wait()
                if flight.error is not None:
                    return

    def _fetch_many(self, wanted: dict[Digest, int], token: trio.lowlevel.TrioToken) -> None:
        """In a thread. Raises BlobUnavailable, StoreFull, OSError; RunFinishedError at the end."""
        for digest, data in self._tiers.get_many(list(wanted.items())):
            self._landing.put(digest, data)
            token.run_sync_soon(self._flights.landed, digest)

    # ------------------------------------------------------------------ what has come

    async def settle(self) -> None:
        """Never returns: names what has landed."""
        while True:
            await trio.sleep(_SETTLE_S)
            self._events.flush()
            if self._landing.pending:
                await self.settle_now()

    async def settle_now(self) -> None:
        try:
            await trio.to_thread.run_sync(self._landing.settle)
            await trio.to_thread.run_sync(self._settled, abandon_on_cancel=True)
        except (DevloopError, OSError) as error:
            self._events.tell("tier", tier="store", reason=str(error), digest=None)

    # ------------------------------------------------------------------ whole blobs

    def _fetch(self, content: Content) -> None:
        """In a thread."""
        if self._landing.has(content.digest):
            return
        fetched = self._tiers.get(content.digest, content.size_bytes)
        self._landing.put(content.digest, fetched.data)
        self._events.tell(
            "fetched",
            digest=content.digest.hex(),
            size_bytes=content.size_bytes,
            tier=fetched.tier,
        )

    # ------------------------------------------------------------------ large ones

    async def _begin(self, content: Content, chunks: Digest) -> None:
        digests = await self._chunk_list(Content(chunks, chunk_list_bytes(content.size_bytes)))
        if content.digest not in self._partials and not self._landing.has(content.digest):
            self._fds.forget(content.digest)
            self._partials[content.digest] = Partial(content, digests, self._landing)

    async def _chunk_list(self, listed: Content) -> list[Digest]:
        """It may have been here for long: it is verified, and fetched again when it is damaged."""
        while True:
            await self.ensure(listed)
            try:
                data = await trio.to_thread.run_sync(self._landing.read, listed.digest)
            except (BlobMissing, BlobCorrupt):
                continue
            return list(split_digests(data))

    async def _need(self, large: Partial, chunk: int) -> None:
        """Raises what kept a reader's own request; after another's, the caller asks again."""
        span = large.ask(chunk)
        if span is not None:
            self._start(self._flights, large, span)
        flight = self._coming[large.content.digest, chunk]
        await flight.done.wait()
        if flight.error is not None and flight.owner is self._flights:
            raise flight.error

    def _start(self, flights: Flights, large: Partial, span: Span) -> Flight:
        digest = large.content.digest
        flight = flights.start((digest, span), partial(large.fetch, span, self._tiers))
        for chunk in range(span.first, span.first + span.chunks):
            self._coming[digest, chunk] = flight
        self._nursery.start_soon(self._book, large, span, flight)
        return flight

    async def _book(self, large: Partial, span: Span, flight: Flight) -> None:
        await flight.done.wait()
        for chunk in range(span.first, span.first + span.chunks):
            del self._coming[large.content.digest, chunk]
        if flight.error is not None:
            large.failed(span)
            return
        large.arrived(span)
        if large.is_whole:
            await self._finish(large)

    def _complete(self, large: Partial) -> None:
        """The rest of it, behind the reader's back, unless that is under way."""
        if large.content.digest not in self._completing and not large.is_whole:
            self._completing.add(large.content.digest)
            self._nursery.start_soon(self._complete_all, large)

    async def _complete_all(self, large: Partial) -> None:
        """Ends at the first error: the next reader who gets something starts it again."""
        try:
            await self.start_is_over.wait()
            async with trio.open_nursery() as nursery:
                for _ in range(_BEHIND_AT_ONCE):
                    nursery.start_soon(self._complete_some, large)
        finally:
            self._completing.discard(large.content.digest)

    async def _complete_some(self, large: Partial) -> None:
        while True:
            # Asked for once there is a thread for it: a reader who needs it does not wait in line.
            async with self._slots:
                span = large.ask_next()
                if span is None:
                    return
                flight = self._start(self._behind, large, span)
                await flight.done.wait()
                if flight.error is not None:
                    return

    async def _finish(self, large: Partial) -> None:
        digest, size_bytes, _ = large.content
        try:
            await trio.to_thread.run_sync(large.finish)
        except (BlobMismatch, OSError) as error:
            self._fds.forget(digest)
            self._events.tell("tier", tier=large.tier, reason=str(error), digest=digest.hex())
        else:
            self._events.tell(
                "fetched", digest=digest.hex(), size_bytes=size_bytes, tier=large.tier
            )
        finally:
            del self._partials[digest]
