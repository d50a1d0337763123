"""The loop of an `up`, as its configuration and its flags want it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from devloop.sync.loop import Loop, LoopConfig, Renewed
from devloop.sync.plan import OnSave

from .common import run_spec

if TYPE_CHECKING:
    import argparse

    from devloop.sync.model import RunSpec
    from devloop.sync.session import Session

    from .renewal import LiveConfig

__all__ = ["make_loop"]


def make_loop(args: argparse.Namespace, live: LiveConfig, session: Session) -> Loop:
    def spec(reason: str) -> RunSpec:
        config = live.config
        return run_spec(
            config, config.run.command, warm=args.warm, reason=reason, owner=session.owner
        )

    def wanted() -> LoopConfig:
        config = live.config
        return LoopConfig(
            spec=spec,
            on_save=OnSave(config.run.on_save),
            save_signal=signal.Signals[config.run.save_signal],
            debounce_s=config.watch.debounce_ms / 1000,
            renew=renew,
        )

    def renew() -> Renewed | None:
        told = live.renew()
        if told is None:
            return None
        sync = live.config.sync
        return Renewed(wanted(), sync.ignore, sync.outputs, told.text, told.hint)

    return Loop(session, wanted())
