"""A tool that runs a script again on each save, seen from outside: a save in, a line out.

The clock runs from just before the save's first system call to the arrival of the new line on the
tool's standard output, read in this process.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from typing import TYPE_CHECKING

from .sandbox import Broken

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .sandbox import Agent, Sandbox

__all__ = ["SCRIPT", "Watcher", "list_files", "start_devloop", "start_entr"]

START_TIMEOUT_S = 120.0
LINE_TIMEOUT_S = 30.0
LOG_TAIL_CHARS = 2500
SCRIPT = ("python3", "-u", "main.py")


class Watcher:
    """One tool at work in one project. `script` makes the program's text from a token."""

    def __init__(
        self,
        name: str,
        project: Path,
        script: Callable[[str], str],
        save: Callable[[Path, str], None],
        log: Path,
    ) -> None:
        self.name = name
        self.project = project
        self.log = log  # what the tool said on stderr
        self.logs = [log]  # what is shown when no line comes
        self._main = project / "main.py"
        self._script = script
        self._save = save
        self._count = 0
        self._process: subprocess.Popen[bytes]

    def start(
        self, sandbox: Sandbox, argv: list[str], env: dict[str, str], files: Path | None
    ) -> None:
        """`files`: what the tool reads on its standard input. Returns after the first output."""
        token = self.write_next()
        with self.log.open("wb") as stderr, (files or self._main).open("rb") as stdin:
            self._process = sandbox.start(
                argv,
                cwd=self.project,
                env=env,
                stdin=stdin if files is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self._wait_for(token, START_TIMEOUT_S)

    def write_next(self) -> str:
        """The program of the first run; the token that it prints."""
        token = self._next_token()
        self._main.write_text(self._script(token))
        return token

    def save(self) -> float:
        """Saves a new version; milliseconds until its line came. Raises Broken."""
        token = self._next_token()
        text = self._script(token)
        began = time.perf_counter_ns()
        self._save(self._main, text)
        return (self._wait_for(token, LINE_TIMEOUT_S) - began) / 1e6

    def _next_token(self) -> str:
        self._count += 1
        return f"token-{os.getpid()}-{self._count:06}"

    def _wait_for(self, token: str, timeout_s: float) -> int:
        """When the token came, in nanoseconds."""
        assert self._process.stdout is not None
        fd, sought, seen = self._process.stdout.fileno(), token.encode(), b""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if not select.select([fd], [], [], left_s)[0]:
                break
            data = os.read(fd, 1 << 16)
            arrived = time.perf_counter_ns()
            seen = seen[-len(sought) :] + data
            if sought in seen:
                return arrived
            if not data:
                break
        said = "\n".join(_tail(log) for log in self.logs)
        raise Broken(f"{self.name}: no line within {timeout_s:g} s of a save; it said:\n{said}")


def _tail(log: Path) -> str:
    try:
        return log.read_text(errors="replace")[-LOG_TAIL_CHARS:]
    except OSError:
        return ""


def start_devloop(sandbox: Sandbox, watcher: Watcher, agent: Agent) -> Watcher:
    watcher.logs.append(agent.log)
    watcher.start(sandbox, [agent.command, "up", "--plain", "--", *SCRIPT], agent.env, None)
    return watcher


def start_entr(sandbox: Sandbox, watcher: Watcher) -> Watcher:
    # -n: without a terminal; it changes nothing else.
    watcher.start(sandbox, ["entr", "-n", "-r", *SCRIPT], sandbox.env, list_files(watcher))
    return watcher


def list_files(watcher: Watcher) -> Path:
    """A file for entr that names every file of the project, as `find . -type f` does."""
    (watcher.project / "main.py").touch()
    names = [
        os.path.relpath(os.path.join(folder, name), watcher.project)
        for folder, _, names in os.walk(watcher.project)
        for name in names
    ]
    listing = watcher.log.with_suffix(".files")
    listing.write_text("\n".join(names) + "\n")
    return listing
