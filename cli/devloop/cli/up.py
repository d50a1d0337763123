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

    from .config import Config

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=True)
    if wants_screen(args):
        return show_screen(args, config)
    if not has_command(config):
        raise _no_command(config)
    from .up_lines import up_in_lines

    return asyncio.run(up_in_lines(args, config))


def _no_command(config: Config) -> UsageError:
    """In lines, nobody is asked; what was found is a hint."""
    from .init import look_around

    found = look_around(config.root).command or "python train.py"
    return UsageError(
        "devloop up: no command",
        hint=f"devloop up -- {found}; or `devloop init` writes run.command",
    )
