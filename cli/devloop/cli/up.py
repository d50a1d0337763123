"""`devloop up`: watch, sync, and run again on each save, in a screen or in lines.

Imports neither the loop nor a session: a screen is drawn before there is one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .common import config_of, has_command
from .errors import UsageError
from .screen import show_screen, wants_screen

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=True)
    if wants_screen(args):
        return show_screen(args, config)
    if not has_command(config):
        raise UsageError(
            "devloop up: no command",
            hint="devloop up -- python train.py; or `devloop init` writes run.command",
        )
    from .up_lines import up_in_lines

    return asyncio.run(up_in_lines(args, config))
