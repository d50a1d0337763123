"""Ending a run: the ladder of ever stronger means.

Owns their order and how long each is given. Refuses to know who wants the run ended, and how its
processes are reached (`processes.py`).
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from .run import RunState

if TYPE_CHECKING:
    from .run import Run

__all__ = ["stop_run"]

KILL_WAIT_S = 5.0
_LADDER = (signal.SIGINT, signal.SIGTERM)
# An interactive shell ignores both; a hang-up is what it knows of a terminal that has gone.
_LADDER_OF_SHELLS = (signal.SIGHUP, signal.SIGTERM)


async def stop_run(run: Run, *, kill: bool = False, reason: str = "stopped") -> list[str]:
    """The ladder: SIGINT, SIGTERM, kill. Returns the processes that could not be ended."""
    while run.state is RunState.STARTING:
        await run.changed()
    process = run.process
    if process is None or not run.live:
        return []
    run.stop_reason = run.stop_reason or reason
    run.state = RunState.STOPPING
    run.touch()
    if not kill:
        for number in _LADDER_OF_SHELLS if run.spec.shell else _LADDER:
            if number == signal.SIGHUP:
                process.hang_up()
            else:
                process.signal(number)
            process.signal(signal.SIGCONT)
            if await run.ended_within(run.spec.stop_timeout_s):
                return []
    process.kill()
    if await run.ended_within(KILL_WAIT_S):
        return []
    return process.survivors()
