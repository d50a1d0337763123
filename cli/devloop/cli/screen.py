"""`devloop up` in a terminal: what the screen needs of the configuration and the verbs.

Decides whether there is a screen at all. Draws nothing: `devloop.tui` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.sync.progress import Progress

from . import config_values as kinds
from .common import LOCAL, forwarded_ports, project_of, say, shown_command, target_of
from .config import HOST_IMAGE
from .errors import ConfigError, UsageError
from .project import CONFIG_NAME
from .renewal import LiveConfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Iterator, Sequence

    from devloop.cafs.errors import DevloopError
    from devloop.sync.target import Target
    from devloop.tui.ground import Found, Opened, Screenful

    from .config import Config

__all__ = ["ProjectGround", "show_screen", "wants_screen"]


def wants_screen(args: argparse.Namespace) -> bool:
    """Both ways a terminal that can draw, nobody who only reads lines, and no word against it."""
    is_dumb = os.environ.get("TERM", "dumb") in ("dumb", "")
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()
    return has_terminal and not (args.plain or is_dumb or os.environ.get("CI"))


def show_screen(args: argparse.Namespace, config: Config) -> int:
    return asyncio.run(_show(ProjectGround(args, config)))


async def _show(ground: ProjectGround) -> int:
    gc.disable()  # until the screen is there: neither an import nor a widget is garbage
    from devloop.tui.app import UpApp  # costs more than the rest of a start

    app = UpApp(ground)
    await app.run_async()
    with contextlib.suppress(OSError):  # the terminal has gone
        for words in app.last_words:
            say(words)
    return app.return_code or 0


class ProjectGround:
    """See `devloop.tui.ground.Ground`."""

    def __init__(self, args: argparse.Namespace, config: Config) -> None:
        self.progress = Progress()
        self._args = args
        self._live = LiveConfig(args, config)

    @property
    def _config(self) -> Config:
        return self._live.config

    @property
    def facts(self) -> Screenful:
        from devloop.tui.ground import Screenful

        config = self._config
        return Screenful(
            target=config.target,
            project=config.root.name,
            root=str(config.root),
            image="" if config.image == HOST_IMAGE else config.image,
            theme=config.screen.theme,
            keys=config.screen.keys,
        )

    @property
    def command(self) -> str:
        return shown_command(self._config)

    def look_around(self) -> Found:
        from devloop.tui.ground import Found

        from .init import found_words, look_around

        findings = look_around(self._config.root)
        is_new = self._config.source_file is None  # else what the file says holds
        return Found(findings.command, tuple(found_words(findings)) if is_new else ())

    def set_command(self, command: str) -> None:
        """Raises ConfigError."""
        try:
            words = kinds.read_command(command)
        except kinds.BadValue as error:
            raise ConfigError(f"this {error}", hint=error.hint) from None
        if not words:
            raise ConfigError("a command is needed", hint="python train.py")
        config = self._config
        _remember(config, command)
        self._live.replace(config._replace(run=config.run._replace(command=words)))

    @contextlib.asynccontextmanager
    async def opened(self, *, may_ask: bool) -> AsyncIterator[Opened]:
        from devloop.sync.session import Session  # the first picture does not wait for them
        from devloop.tui.ground import Opened

        from .looping import make_loop

        self._live.renew_all()
        config = self._config
        target = self._target(may_ask=may_ask)
        session = await Session.open(project_of(config), target, self.progress)
        try:
            loop = make_loop(self._args, self._live, session)
            async with forwarded_ports(config, session, loop.tell):
                yield Opened(session, loop)
        finally:
            await session.close()

    def _target(self, *, may_ask: bool) -> Target:
        if self._config.target == LOCAL:
            return target_of(self._config, self.progress)
        from .box import ssh_target

        return ssh_target(self._config, self.progress, may_ask=may_ask)

    def wants_to_ask(self, error: DevloopError) -> bool:
        if self._config.target == LOCAL:
            return False
        from devloop.sync.ssh.errors import AuthenticationFailed, HostKeyUnknown

        return isinstance(error, AuthenticationFailed | HostKeyUnknown)

    def verb(self, *words: str) -> Sequence[str]:
        script = Path(sys.argv[0])
        is_script = script.is_file() and os.access(script, os.X_OK)
        # Without -P, a folder `devloop` of the project would be imported.
        module = (sys.executable, "-P", "-m", "devloop.cli.main")
        argv = (str(script.absolute()),) if is_script else module
        target = ("--target", self._config.target)  # the session's: the file may have another now
        verb, *rest = words
        flags = self._run_flags(verb)
        return [*argv, "-C", str(self._config.root), *target, verb, *flags, *rest]

    def _run_flags(self, verb: str) -> Iterator[str]:
        """What `up` was told of its runs holds for the other verbs that start one."""
        if verb in ("exec", "shell"):
            if self._args.image is not None:
                yield f"--image={self._args.image}"
            for name, value in self._args.env or ():
                yield f"--env={name}={value}"
        if verb == "exec" and self._args.gpus is not None:
            yield f"--gpus={self._args.gpus}"


def _remember(config: Config, command: str) -> None:
    """`run.command`, in the file that configures the project, or in a new one."""
    path = config.source_file
    try:
        if path is None:
            _write_new(config.root / CONFIG_NAME, config.root, command)
        else:
            path.write_text(_with_command(path, path.read_text("utf-8"), command), "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}") from None


def _write_new(path: Path, root: Path, command: str) -> None:
    from .init import look_around, render_config

    with path.open("x", encoding="utf-8") as file:
        file.write(render_config(look_around(root)._replace(command=command)))


def _with_command(path: Path, text: str, command: str) -> str:
    """The same file, with the key in its `run` table."""
    from .toml_lines import key_lines

    table = ("tool", "devloop", "run") if path.name == "pyproject.toml" else ("run",)
    setting = f"command = {json.dumps(command)}"
    header = f"[{'.'.join(table)}]"
    lines = text.splitlines()
    at = key_lines(text).get(table)
    if at is None:
        return "\n".join([*lines, "", header, setting]) + "\n"
    if not lines[at - 1].lstrip().startswith(header):
        raise UsageError(f"{path} has its own form of [run]", hint=f"add {setting} there")
    return "\n".join([*lines[:at], setting, *lines[at:]]) + "\n"
