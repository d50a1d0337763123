"""A container as a place where runs start (`spawn`): its files, its environment, its zygotes.

Owns how a run of the box becomes one of the container: paths, variables, user. The client's own
variables do not come along: a run has the image's, and those that its user asked for by name.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from devloop.remote_agent.command import CommandNotExecutable
from devloop.remote_agent.terminal import Pty
from devloop.remote_agent.zygote import words
from devloop.remote_agent.zygotes import ZygotePool

from . import cgroups
from .container import ContainerFailed
from .job import base_env
from .look import command_of, question_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from devloop.remote_agent.command import Command
    from devloop.remote_agent.forker import Forker
    from devloop.remote_agent.spawn import StartRequest

    from .container import Container
    from .job import Box
    from .spec import ContainerSpec

__all__ = ["ContainerPlace"]

_HOOK = "/run/devloop/zygote/hook"


class ContainerPlace:
    """Everything that a start needs to know of one container."""

    level = words.PROCESS_GROUP
    user_namespace = False

    def __init__(self, container: Container, spec: ContainerSpec, box: Box, folder: Path) -> None:
        """`folder`: the container's own."""
        self._container = container
        self._group = cgroups.group_of(folder)
        self._spec = spec
        self._box = box
        self._signatures: dict[str, list[int]] = {}
        self.pool = ZygotePool(
            lambda: {"level": self.level, "user_namespace": False},
            container.launch,
            _HOOK,
            lambda path: self._signatures.get(path, []),
        )

    @property
    def identity(self) -> dict[str, Any] | None:
        """The user that runs are to become."""
        return self._container.identity

    async def stop_recording(self) -> list[bytes]:
        """Raises ContainerFailed."""
        return await self._container.stop_recording()

    @property
    def learned_as(self) -> bytes:
        """What tells its interpreters from those of other images and of the box."""
        image, workspace = self._spec.image_key, self._spec.workspace
        return b"%b\0%b\0" % (os.fsencode(image), os.fsencode(workspace))

    @property
    def is_alive(self) -> bool:
        return self._container.is_alive

    @property
    def is_used(self) -> bool:
        return self._container.spawner.is_used or self.pool.is_used

    @property
    def last_used_s(self) -> float:
        return self._container.last_used_s

    @property
    def pause_pid(self) -> int:
        """Its first process, as the box numbers it."""
        return self._container.pause_pid

    @property
    def last_resort(self) -> Callable[[], None]:
        return self._container.give_up

    def witness(self) -> Callable[[], str]:
        limit_bytes = self._spec.limits.memory_bytes
        if not limit_bytes:
            return str
        before = cgroups.memory_kills(self._group)

        def told() -> str:
            killed = cgroups.memory_kills(self._group) - before
            if killed <= 0:
                return ""
            what = "a process" if killed == 1 else f"{killed} processes"
            return (
                f"the kernel killed {what} of this container: its memory had reached the limit, "
                f"container.memory = {limit_bytes / 1e6:,.0f} MB"
            )

        return told

    def touch(self) -> None:
        self._container.touch()

    async def service(self) -> Forker:
        """Raises nothing: who takes a pair of a spawner that has ended is told."""
        return self._container.spawner

    def translated(self, request: StartRequest) -> StartRequest:
        """As the container names and sees it all."""
        inside = os.fsencode(self._spec.target)
        below = os.path.relpath(request.cwd, request.workspace)
        cwd = posixpath.normpath(posixpath.join(inside, below))
        home = self._container.identity["home"]
        env = {**base_env(self._spec, self._box, home), **request.env, "PWD": cwd}
        argv = request.argv
        if request.login:
            shell = self._container.identity["shell"]
            argv, env["SHELL"] = (os.fsencode(shell),), os.fsencode(shell)
        return replace(request, argv=argv, env=env, cwd=cwd, workspace=inside)

    async def resolve(self, request: StartRequest) -> Command:
        """Raises CommandNotExecutable or ContainerFailed."""
        question = question_of(
            request.argv,
            dict(request.env),
            request.cwd,
            request.workspace,
            None,
            self.pool.watched_paths(),
        )
        reply = await self._ask(question)
        if "error" in reply:
            raise CommandNotExecutable(reply["error"], hint=reply["hint"])
        self._signatures = reply["signatures"]
        return command_of(reply)

    async def open_pty(self) -> Pty:
        """Raises ContainerFailed."""
        reply = await self._ask({"ask": "terminal", "uid": self._container.identity["uid"]})
        if "error" in reply:
            raise ContainerFailed(f"no terminal in the container: {reply['error']}")
        return Pty(*reply["fds"])

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._container.ask(question)
        finally:
            if self._container.is_stuck and not self.is_used:
                await self.end()  # the next start finds another one

    async def end(self) -> None:
        await self._container.end()

    def close(self) -> None:
        """After the end of the container."""
        self.pool.close()
        self._container.spawner.close()
