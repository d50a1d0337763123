"""Runs commands through a real Spawner, for tests: outputs, exit and how each was started."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import select
import subprocess
import sys
import termios
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from devloop.remote_agent.spawn import Spawner, StartRequest
from devloop.remote_agent.zygote import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from devloop.remote_agent.container.spec import ContainerSpec
    from devloop.remote_agent.processes import Exit, Process

RUN_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Ended:
    """What anybody can see of a run from outside."""

    stdout: bytes
    stderr: bytes
    code: int
    signal: int


@dataclass(slots=True)
class Workshop:
    """A spawner, a workspace, and an event loop that both share."""

    workspace: Path
    spawner: Spawner
    runner: asyncio.Runner
    env: dict[str, bytes] = field(default_factory=dict)
    last_kind: str = ""
    last_note: str = ""
    last_exit: Exit | None = None

    @classmethod
    def open(cls, folder: Path, highest_level: str = words.PID_NAMESPACE) -> Workshop:
        workspace = folder / "workspace"
        workspace.mkdir()
        runner = asyncio.Runner()

        async def started() -> Spawner:
            spawner = Spawner(folder / "state", highest_level=highest_level)
            await spawner.start_service()
            return spawner

        return cls(workspace, runner.run(started()), runner, plain_environment(folder))

    def close(self) -> None:
        self.runner.run(self.spawner.close())
        self.runner.close()

    def request(
        self,
        argv: Sequence[str | bytes],
        stdio: Sequence[int],
        *,
        warm: bool = True,
        env: Mapping[str, bytes] | None = None,
        tty: bool = False,
        preload: tuple[str, ...] = (),
        local_root: Path | None = None,
    ) -> StartRequest:
        return StartRequest(
            argv=tuple(map(os.fsencode, argv)),
            env={**self.env, **(env or {})},
            cwd=os.fsencode(self.workspace),
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            tty=tty,
            warm=warm,
            preload=preload,
            workspace=os.fsencode(self.workspace),
            local_root=None if local_root is None else os.fsencode(local_root),
        )

    @property
    def container(self) -> ContainerSpec | None:
        return None

    def run(self, *argv: str | bytes, stdin: bytes = b"", **options: object) -> Ended:
        return self.runner.run(self._run(argv, stdin, options))

    def run_on_terminal(self, *argv: str | bytes, typed: bytes, **options: object) -> Ended:
        return self.runner.run(self._run_on_terminal(argv, typed, options))

    async def start(self, *argv: str | bytes, stdout: int, **options: object) -> Process:
        with open(os.devnull, "rb") as null:  # noqa: PTH123
            stdio = (null.fileno(), stdout, stdout)
            return await self.spawner.start(self.request(argv, stdio, **options))  # type: ignore[arg-type]

    async def _run(
        self, argv: Sequence[str | bytes], stdin: bytes, options: dict[str, object]
    ) -> Ended:
        pipes = [os.pipe() for _ in range(3)]
        child_ends = [pipes[0][0], pipes[1][1], pipes[2][1]]
        try:
            process = await self.spawner.start(self.request(argv, child_ends, **options))  # type: ignore[arg-type]
        finally:
            for fd in child_ends:
                os.close(fd)
        feeding = asyncio.to_thread(_feed, pipes[0][1], stdin)
        out, err = (asyncio.to_thread(_drain, pipes[n][0]) for n in (1, 2))
        async with asyncio.timeout(RUN_TIMEOUT_S):
            stdout, stderr, _ = await asyncio.gather(out, err, feeding)
            return await self._ended(process, stdout, stderr)

    async def _run_on_terminal(
        self, argv: Sequence[str | bytes], typed: bytes, options: dict[str, object]
    ) -> Ended:
        master, slave = await self.spawner.open_pty(self.container)
        _type_ahead(master, typed)
        try:
            request = self.request(argv, (slave, slave, slave), tty=True, **options)  # type: ignore[arg-type]
            process = await self.spawner.start(request)
        finally:
            os.close(slave)
        async with asyncio.timeout(RUN_TIMEOUT_S):
            output = await asyncio.to_thread(_drain, master)
            return await self._ended(process, output, b"")

    async def _ended(self, process: Process, stdout: bytes, stderr: bytes) -> Ended:
        exit_ = self.last_exit = await process.wait()
        self.last_kind, self.last_note = process.kind, process.note
        return Ended(stdout, stderr, exit_.code, exit_.signal)


def plain_environment(home: Path) -> dict[str, bytes]:
    names: dict[str, str | Path] = {"HOME": home, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    return {name: os.fsencode(value) for name, value in names.items()}


def make_environment(folder: Path) -> Path:
    """A virtual environment without packages; returns its site-packages."""
    base = os.path.realpath(sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    return site_packages


def _type_ahead(master: int, typed: bytes) -> None:
    """Returns when the terminal has echoed it all: the echo comes before any output."""
    os.write(master, typed)
    echo = typed.replace(b"\x04", b"").replace(b"\n", b"\r\n")
    waiting = array.array("i", [0])
    while waiting[0] < len(echo):
        select.select([master], [], [])
        fcntl.ioctl(master, termios.FIONREAD, waiting)


def _feed(fd: int, data: bytes) -> None:
    with open(fd, "wb", buffering=0) as file:
        try:
            file.write(data)
        except BrokenPipeError:
            return


def _drain(fd: int) -> bytes:
    """To the end; a terminal whose other side has closed reports EIO."""
    pieces = []
    with open(fd, "rb", buffering=0) as file:
        try:
            while piece := file.read(1 << 16):
                pieces.append(piece)
        except OSError:
            pass
    return b"".join(pieces)
