"""`devloop up`: watch, sync, and run again on each save."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import TYPE_CHECKING

from devloop.sync.loop import Loop, LoopConfig
from devloop.sync.plan import OnSave
from devloop.sync.progress import Progress

from .common import config_of, forwarded_ports, has_command, open_session, run_spec
from .errors import UsageError
from .plain import Plain
from .progress import shown_progress
from .screen import show_screen, wants_screen

if TYPE_CHECKING:
    import argparse

    from devloop.sync.model import RunSpec
    from devloop.sync.session import Session

    from .config import Config

__all__ = ["make_loop", "run"]

LAST_EVENTS_S = 1.0


def run(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=True)
    if wants_screen(args):
        return show_screen(args, config, partial(make_loop, args))
    if not has_command(config):
        raise UsageError(
            "devloop up: no command",
            hint="devloop up -- python train.py; or `devloop init` writes run.command",
        )
    return asyncio.run(_up(args, config))


async def _up(args: argparse.Namespace, config: Config) -> int:
    progress = Progress()
    async with shown_progress(progress), open_session(config, progress) as session:
        loop = make_loop(args, config, session)
        front_end = Plain(loop, config)
        async with forwarded_ports(config, session, loop.tell), asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(front_end.show())
            with front_end.signals():
                await loop.run()
                await asyncio.wait([showing], timeout=LAST_EVENTS_S)
                showing.cancel()  # nobody reads our output, and we were told to leave
    return 0


def make_loop(args: argparse.Namespace, config: Config, session: Session) -> Loop:
    def spec(reason: str) -> RunSpec:
        return run_spec(
            config, config.run.command, warm=args.warm, reason=reason, owner=session.owner
        )

    return Loop(
        session,
        LoopConfig(
            spec=spec,
            on_save=OnSave(config.run.on_save),
            save_signal=signal.Signals[config.run.save_signal],
            debounce_s=config.watch.debounce_ms / 1000,
        ),
    )
