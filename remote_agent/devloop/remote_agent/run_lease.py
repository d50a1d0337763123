"""The lease of a run that a client has started attached: it ends when clients stay away.

Owns the count of who holds it, and how long nobody may. Refuses to know what a client is.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from .run_stop import stop_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .run import Run

__all__ = ["end_unless_leased", "lease"]


@contextlib.contextmanager
def lease(run: Run) -> Iterator[None]:
    """Held by an attached client; when the last one goes, `spec.lease_s` starts to count."""
    run.leases += 1
    try:
        yield
    finally:
        run.leases -= 1
        run.leased_until_s = time.monotonic()


async def end_unless_leased(run: Run) -> None:
    """Returns when the run has ended or is kept; ends it when its lease is long unheld."""
    run.leased_until_s = time.monotonic()
    while run.live and not run.is_kept:
        since_s = 0.0 if run.leases else time.monotonic() - run.leased_until_s
        left_s = run.spec.lease_s - since_s
        if left_s <= 0:
            reason = f"ended: no client was there for {run.spec.lease_s:g} s"
            await stop_run(run, reason=reason)
            return
        await run.ended_within(left_s)
