"""`devloop up` in lines: the loop, and whoever shows it in a terminal that is no screen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from devloop.sync.progress import Progress

from .common import forwarded_ports, open_session, say
from .looping import make_loop
from .plain import Plain
from .progress import shown_progress
from .renewal import LiveConfig

if TYPE_CHECKING:
    import argparse

    from .config import Config

__all__ = ["up_in_lines"]

LAST_EVENTS_S = 1.0


async def up_in_lines(args: argparse.Namespace, config: Config) -> int:
    progress = Progress()
    async with shown_progress(progress), open_session(config, progress) as session:
        live = LiveConfig(args, config)
        loop = make_loop(args, live, session)
        front_end = Plain(loop, live)
        async with forwarded_ports(config, session, loop.tell), asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(front_end.show())
            with front_end.signals():
                await loop.run()
                await asyncio.wait([showing], timeout=LAST_EVENTS_S)
                showing.cancel()  # nobody reads our output, and we were told to leave
            if loop.ended_by is not None:
                say(f"{loop.ended_by}; leaving")
    return 0
