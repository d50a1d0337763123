"""A box that the configuration names: how it is reached, and who answers what `ssh` asks."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import sys
from typing import TYPE_CHECKING

from devloop.sync.ssh.bridge import BridgeOptions
from devloop.sync.ssh.connect import SshOptions
from devloop.sync.ssh.target import SshTarget

from .common import say
from .statusline import status_line
from .words import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from devloop.sync.progress import Progress
    from devloop.sync.ssh.install import InstallProgress
    from devloop.sync.target import Target

    from .config import Config

__all__ = ["ssh_target"]


def ssh_target(config: Config, progress: Progress | None = None, *, may_ask: bool = True) -> Target:
    """`may_ask`: whoever sits at the terminal, if somebody does."""
    ssh, agent = config.ssh, config.agent
    serve_words = (
        *("--idle-timeout", str(agent.idle_timeout_s)),
        *("--store-limit", str(agent.store_limit_bytes)),
    )
    return SshTarget(
        config.target,
        SshOptions(ssh.client, ssh.config_file, ssh.connect_timeout_s, round(ssh.persist_s)),
        bridge=BridgeOptions(agent.python, serve_words),
        prompter=TerminalPrompter() if may_ask and _has_terminal() else None,
        on_progress=_say_once(config.target) if progress is None else _into(progress),
    )


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _into(progress: Progress) -> Callable[[InstallProgress], None]:
    return lambda told: progress.installing(told.phase, told.sent_bytes, told.total_bytes)


def _say_once(host: str) -> Callable[[InstallProgress], None]:
    told: list[InstallProgress] = []

    def on_progress(progress: InstallProgress) -> None:
        if not told:
            say(f"installing the agent on {host}")
        told.append(progress)

    return on_progress


class TerminalPrompter:
    """Asks on the terminal. See `link.Prompter`."""

    owns_terminal = True

    async def ask(self, question: str, *, secret: bool) -> str | None:
        return await asyncio.to_thread(_ask, printable(question), secret=secret)

    async def confirm_host(self, host: str, key_type: str, fingerprint: str) -> str | None:
        return await self.ask(
            f"{host} is not known; its {key_type} key has the fingerprint\n  {fingerprint}\n"
            "Connect, and remember it (yes/no/fingerprint)? ",
            secret=False,
        )


def _ask(question: str, *, secret: bool) -> str | None:
    """None at the end of the input, and after Ctrl-C."""
    status_line.clear()
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        if secret:
            return getpass.getpass(question)
        sys.stderr.write(question)
        sys.stderr.flush()
        return sys.stdin.readline().rstrip("\n") or None
    return None
