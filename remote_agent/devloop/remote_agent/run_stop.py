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
# An interactive shell ignores both; a hang-up is what it knows of a terminal that has gone.
_LADDER_OF_SHELLS = (signal.SIGHUP, signal.SIGTERM)


async def stop_run(run: Run, *, kill: bool = False, reason: str = "stopped") -> list[str]:
    """The ladder: SIGINT (or what the run's image names), SIGTERM, kill.

    Returns the processes that could not be ended.
    """
    while run.state is RunState.STARTING:
        await run.changed()
    process = run.process
    if process is None or not run.live:
        return []
    run.stop_reason = run.stop_reason or reason
    run.state = RunState.STOPPING
    run.touch()
    if not kill:
        for number in _ladder(run):
            if run.spec.shell and number == signal.SIGHUP:
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


def _ladder(run: Run) -> tuple[int, ...]:
    if run.spec.shell:
        return _LADDER_OF_SHELLS
    container = run.spec.container
    first = container.image.stop_signal if container is not None else 0
    return tuple(dict.fromkeys((first or signal.SIGINT, signal.SIGTERM)))
