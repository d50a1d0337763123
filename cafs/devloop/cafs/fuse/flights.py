"""Fetches under way: one for each thing, however many wait for it, and each with a deadline.

Owns trying again and giving up. Refuses to know what is fetched.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from devloop.cafs.tiers import BlobUnavailable

from .descriptors import is_out_of_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from devloop.cafs.tiers import Tiers

__all__ = ["Flight", "Flights", "NoAnswer"]

_PAUSE_S = 0.2  # between two tries


class NoAnswer(Exception):
    """The deadline is over."""


class Flight:
    def __init__(self, owner: Flights) -> None:
        self.owner = owner
        self.done = trio.Event()
        self.error: Exception | None = None


class Flights:
    """`work` runs in a thread, of which there are `threads` at most. One that does not come back
    keeps its thread; its flight ends at the deadline all the same."""

    def __init__(
        self,
        nursery: trio.Nursery,
        tiers: Tiers,
        *,
        deadline_s: float,
        threads: int,
        shed: Callable[[], object],
    ) -> None:
        self._nursery = nursery
        self._tiers = tiers
        self._deadline_s = deadline_s
        self._limiter = trio.CapacityLimiter(threads)
        self._shed = shed
        self._flying: dict[Hashable, Flight] = {}

    async def land(self, key: Hashable, work: Callable[[], object]) -> None:
        """Returns when `work` was done for `key`, by whomever. Raises what it raised, NoAnswer."""
        flight = self.start(key, work)
        await flight.done.wait()  # which comes: a flight has a deadline
        if flight.error is not None:
            raise flight.error

    async def batch(self, work: Callable[[], object]) -> None:
        """One `work` for several keys, for which nobody waits here: raises nothing."""
        try:
            with trio.move_on_after(self._deadline_s):
                await trio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)
        except Exception:  # noqa: BLE001 (a tier may raise anything, and its readers go on)
            pass  # whoever needs one that is missing is told why

    def landed(self, key: Hashable) -> None:
        """It has come another way: whoever waits goes on. What was asked for goes on, too."""
        flight = self._flying.pop(key, None)
        if flight is not None:
            flight.done.set()

    def start(self, key: Hashable, work: Callable[[], object]) -> Flight:
        flight = self._flying.get(key)
        if flight is None:
            flight = self._flying[key] = Flight(self)
            self._nursery.start_soon(self._fly, key, flight, work)
        return flight

    async def _fly(self, key: Hashable, flight: Flight, work: Callable[[], object]) -> None:
        try:
            with trio.move_on_after(self._deadline_s) as scope:
                await self._try(work)
            if scope.cancelled_caught:
                asked = f" from {self._tiers.names}" if len(self._tiers) else ""
                flight.error = NoAnswer(f"no answer within {self._deadline_s:g} s{asked}")
        except Exception as error:  # noqa: BLE001 (whoever waits reports it)
            flight.error = error
        finally:
            if self._flying.get(key) is flight:
                del self._flying[key]
            flight.done.set()

    async def _try(self, work: Callable[[], object]) -> None:
        while True:
            try:
                await trio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)
            except BlobUnavailable as error:
                if not error.may_heal or self._is_hopeless():
                    raise
            except OSError as error:
                if not is_out_of_descriptors(error):
                    raise
                self._shed()
            else:
                return
            await trio.sleep(_PAUSE_S)

    def _is_hopeless(self) -> bool:
        """Nobody has answered for a deadline: waiting another one would not help."""
        since = self._tiers.unreachable_since
        return since is not None and time.monotonic() - since > self._deadline_s
