"""Births of runs: from a zygote where that is possible and wanted, else by exec.

Owns the spawner process, the pool of zygotes and what was learned. Whatever goes wrong with a
zygote leads to a cold start whose note says so. Knows nothing of logs, leases and gRPC.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devloop.cafs.errors import DevloopError

from .command import Command, CommandNotExecutable, resolve_command
from .entrypoint import NotForked, PythonProgram
from .forker import Forker, ForkerFailed, Refused
from .interpreter import own_prefix
from .learned import LearnedFile
from .processes import Exit, Pair, Process
from .zygote import wire, words
from .zygotes import Key, ZygotePool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = [
    "Birth",
    "CommandNotExecutable",
    "CommandNotFound",
    "Exit",
    "Process",
    "Spawner",
    "StartFailed",
    "StartRequest",
]

_PROGRAM = Path(__file__).parent / "zygote" / "spawner.py"
_SERVICE_TIMEOUT_S = 20.0
# A bare zygote is up in a fraction of this; a start does not wait longer for it.
_ZYGOTE_TIMEOUT_S = 5.0
_REPLY_TIMEOUT_S = 30.0
_MAX_LEARNED_FILES = 256


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A run to start. The descriptors stay the caller's; the run gets copies."""

    argv: tuple[bytes, ...]
    env: Mapping[str, bytes]
    cwd: bytes
    stdin: int
    stdout: int
    stderr: int
    tty: bool
    warm: bool
    preload: tuple[str, ...]
    workspace: bytes
    local_root: bytes | None


class StartFailed(DevloopError):
    """The run could not be started, and the command is not to blame."""


class CommandNotFound(DevloopError):
    """There is no such command."""

    exit_code = 127


@dataclass(frozen=True, slots=True)
class Birth:
    """A run whose process has been asked for.

    `forked`: a zygote's child is becoming the program, and hardly anything can go wrong.
    """

    forked: bool
    note: str
    _process: Callable[[], Awaitable[Process]]

    async def process(self) -> Process:
        """Waits for it, once. Raises CommandNotFound, CommandNotExecutable or StartFailed."""
        return await self._process()


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a pair came from."""

    forker: Forker
    pair: Pair


class Spawner:
    """One an agent; every method belongs to the thread of its event loop."""

    def __init__(self, state_dir: Path, *, highest_level: str = words.PID_NAMESPACE) -> None:
        self.level = words.PROCESS_GROUP
        self.level_hint = "the agent is still starting"
        self._user_namespace = False
        self._state_dir = state_dir
        self._highest_level = highest_level
        self._service: Forker | None = None
        self._pool = ZygotePool(self._containment)
        self._learned: dict[tuple[bytes, bytes], LearnedFile] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start_service(self) -> None:
        """Raises StartFailed when not even the spawner starts."""
        try:
            loaded = await self._ensure_service()
        except (ForkerFailed, TimeoutError) as error:
            raise StartFailed(f"the agent cannot start processes: {error}") from error
        self.level, self.level_hint = loaded["level"], loaded["hint"]
        self._user_namespace = loaded["user_namespace"]

    async def close(self) -> None:
        """Ends every run that is left."""
        for task in self._tasks:
            task.cancel()
        ending = self._pool.close()
        if self._service is not None:
            self._service.close()
            ending.append(self._service)
        for forker in ending:
            await forker.gone()

    def memory_bytes(self) -> int:
        """What the zygotes hold."""
        return self._pool.memory_bytes()

    async def start(self, request: StartRequest) -> Process:
        """Raises CommandNotFound, CommandNotExecutable or StartFailed."""
        birth = await self.begin(request)
        return await birth.process()

    async def begin(self, request: StartRequest) -> Birth:
        """Returns when the request is sent. Raises as `start` does.

        The descriptors must stay open until the birth's `process` has returned.
        """
        command = _resolve(request)
        origin, note = await self._origin(command, request)
        try:
            self._send(origin, command, request)
        except ConnectionError:
            origin, note = await self._send_cold(command, request)
        born = partial(self._born, origin, command, request, note)
        return Birth(origin.forker is not self._service, note, born)

    async def prepare(self, request: StartRequest) -> None:
        """Starts the zygotes that `request` would use; waits for none of them."""
        command = _resolve(request)
        if request.warm and isinstance(command.program, PythonProgram):
            try:
                self._wanted(command, command.program, request)
            except ForkerFailed:
                return

    # -- where a run starts

    async def _origin(self, command: Command, request: StartRequest) -> tuple[_Origin, str]:
        note = ""
        if request.warm and isinstance(command.program, PythonProgram):
            try:
                zygote, note = self._ready_zygote(command, command.program, request)
                return _Origin(zygote, await zygote.take(_ZYGOTE_TIMEOUT_S)), note
            except (ForkerFailed, TimeoutError) as error:
                note = f"no zygote: {error or 'it took too long to start'}"
        elif request.warm and isinstance(command.program, NotForked):
            note = command.program.reason
        return _Origin(*await self._take_cold()), note

    def _ready_zygote(
        self, command: Command, program: PythonProgram, request: StartRequest
    ) -> tuple[Forker, str]:
        """The wanted one, or the bare one while the wanted one imports."""
        wanted, note = self._wanted(command, program, request)
        if wanted is not None and wanted.is_ready:
            said = wanted.loaded.result()["said"]
            return wanted, f"said at import: {said}" if said else note
        bare = self._pool.ensure(_key(command, program, request), command.env)
        return bare, note or ("" if wanted is None else "the preload is still being imported")

    def _wanted(
        self, command: Command, program: PythonProgram, request: StartRequest
    ) -> tuple[Forker | None, str]:
        """None when there is nothing to preload, with what stands in the way of it."""
        bare = _key(command, program, request)
        self._pool.ensure(bare, command.env)
        learned = self._learned_file(request.workspace, command.executable)
        preload = learned.value.allowed(request.preload) or learned.value.preload
        if not preload:
            return None, learned.value.note
        try:
            zygote = self._pool.ensure(bare.with_preload(preload), command.env)
        except ForkerFailed as failure:
            return None, f"nothing is preloaded: {failure}"
        self._watch_load(zygote, learned, command, program, request)
        return zygote, learned.value.note

    def _watch_load(
        self,
        zygote: Forker,
        learned: LearnedFile,
        command: Command,
        program: PythonProgram,
        request: StartRequest,
    ) -> None:
        """A preload that is refused is corrected and tried again."""
        if zygote.loaded.done():
            return

        async def watch() -> None:
            try:
                await asyncio.shield(zygote.loaded)
            except Refused as refused:
                if refused.package in learned.value.refused:
                    return
                learned.update(learned.value.with_refused(refused.package, refused.reason))
                self._wanted(command, program, request)
            except ForkerFailed as failure:
                if not request.preload and not zygote.is_closing:
                    learned.update(learned.value.with_unsafe(str(failure)))

        self._spawn(watch())

    async def _take_cold(self) -> tuple[Forker, Pair]:
        try:
            await self._ensure_service()
            assert self._service is not None
            return self._service, await self._service.take(_SERVICE_TIMEOUT_S)
        except (ForkerFailed, TimeoutError) as error:
            raise StartFailed(f"no process can be started: {error}") from error

    async def _ensure_service(self) -> dict[str, Any]:
        if self._service is None or not self._service.is_alive:
            command = [os.fsencode(sys.executable), b"-I", b"-S", os.fsencode(_PROGRAM), b"{fd}"]
            self._service = Forker(command, dict(os.environb), b"/")
            self._service.configure({"highest_level": self._highest_level})
        async with asyncio.timeout(_SERVICE_TIMEOUT_S):
            return await asyncio.shield(self._service.loaded)

    # -- the start itself

    def _send(self, origin: _Origin, command: Command, request: StartRequest) -> None:
        """Raises ConnectionError when the waiting pair is dead."""
        message = self._message(command, request, origin.forker is not self._service)
        stdio = [request.stdin, request.stdout, request.stderr]
        try:
            wire.send(origin.pair.to_child, message, stdio)
        except BaseException:
            origin.pair.close()
            origin.forker.release()
            raise

    async def _send_cold(self, command: Command, request: StartRequest) -> tuple[_Origin, str]:
        """The waiting pair was killed by somebody else; the next one was not."""
        origin = _Origin(*await self._take_cold())
        try:
            self._send(origin, command, request)
        except OSError as error:
            raise StartFailed(f"the new process died: {error}") from error
        return origin, "the zygote's child had died"

    async def _born(
        self, origin: _Origin, command: Command, request: StartRequest, note: str
    ) -> Process:
        try:
            return await self._answered(origin, command, request, note)
        except ConnectionError:
            origin, note = await self._send_cold(command, request)
            return await self._answered(origin, command, request, note)

    async def _answered(
        self, origin: _Origin, command: Command, request: StartRequest, note: str
    ) -> Process:
        forked = origin.forker is not self._service
        pair = origin.pair
        try:
            replies = await _replies(pair)
            if forked and not replies:
                raise ConnectionResetError
        except BaseException:
            pair.close()
            origin.forker.release()
            raise
        for reply in replies:
            if reply["event"] == words.FAILED:
                pair.close()
                origin.forker.release()
                raise _start_error(reply, command, request)
            if reply["event"] == words.COLD:
                forked, note = False, reply["note"]
        return Process(
            kind="zygote" if forked else "cold",
            note=note,
            on_end=lambda exit_: self._on_end(origin.forker, command, request, exit_),
            _pair=pair,
            _isolated=self.level == words.PID_NAMESPACE,
        )

    def _message(self, command: Command, request: StartRequest, forked: bool) -> dict[str, Any]:
        program = command.program if forked else None
        assert program is None or isinstance(program, PythonProgram)
        return {
            "mode": "exec" if program is None else program.mode,
            "target": "" if program is None else wire.text_of(program.target),
            "args": [] if program is None else [wire.text_of(arg) for arg in program.args],
            "argv": [wire.text_of(argument) for argument in command.argv],
            "env": {name: wire.text_of(value) for name, value in command.env.items()},
            "cwd": wire.text_of(request.cwd),
            "tty": request.tty,
            "executable": wire.text_of(command.executable),
            "workspace": wire.text_of(request.workspace),
            "path_map": _path_map(request),
            "drop_capabilities": self._user_namespace,
        }

    def _on_end(self, forker: Forker, command: Command, request: StartRequest, exit_: Exit) -> None:
        forker.release()
        if not isinstance(command.program, PythonProgram) or not exit_.modules:
            return
        learned = self._learned_file(request.workspace, command.executable)
        before = learned.value.preload
        learned.update(learned.value.with_modules(exit_.modules))
        if request.warm and not request.preload and learned.value.preload != before:
            self._spawn(self.prepare(request))

    def _learned_file(self, workspace: bytes, interpreter: bytes) -> LearnedFile:
        key = (workspace, interpreter)
        if key not in self._learned:
            if len(self._learned) >= _MAX_LEARNED_FILES:
                self._learned.clear()
            self._learned[key] = LearnedFile(self._state_dir, workspace, interpreter)
        return self._learned[key]

    def _containment(self) -> dict[str, Any]:
        return {"level": self.level, "user_namespace": self._user_namespace}

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _resolve(request: StartRequest) -> Command:
    local_root = None if request.local_root is None else Path(os.fsdecode(request.local_root))
    workspace = Path(os.fsdecode(request.workspace))
    return resolve_command(
        request.argv, request.env, request.cwd, workspace, local_root, own_prefix()
    )


def _key(command: Command, program: PythonProgram, request: StartRequest) -> Key:
    return Key.of(command.executable, program.flags, command.env, request.cwd, request.workspace)


def _path_map(request: StartRequest) -> list[list[str]]:
    if request.local_root is None or request.local_root == request.workspace:
        return []
    return [[wire.text_of(request.local_root), wire.text_of(request.workspace)]]


async def _replies(pair: Pair) -> list[dict[str, Any]]:
    """What the child says until it closes its socket: no later than its exec or first line."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    replies: list[dict[str, Any]] = []
    pair.to_child.setblocking(False)

    def receive() -> None:
        try:
            received = wire.receive(pair.to_child)
        except BlockingIOError:
            return
        except OSError:
            received = None
        if received is not None:
            replies.append(received.message)
        elif not done.done():
            done.set_result(None)
            loop.remove_reader(pair.to_child)

    loop.add_reader(pair.to_child, receive)
    try:
        async with asyncio.timeout(_REPLY_TIMEOUT_S):
            await done
    except TimeoutError as error:
        raise StartFailed("the new process does not answer") from error
    finally:
        loop.remove_reader(pair.to_child)
    return replies


def _start_error(reply: dict[str, Any], command: Command, request: StartRequest) -> DevloopError:
    name, number = os.fsdecode(request.argv[0]), int(reply["errno"])
    if reply["where"] == "cwd":
        return StartFailed(f"{os.fsdecode(request.cwd)}: {os.strerror(number)}")
    if number in (errno.ENOENT, errno.ENOTDIR):
        return CommandNotFound(f"{name}: command not found", hint=_not_found_hint(name, command))
    if number in (errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR):
        return CommandNotExecutable(f"{name}: {os.strerror(number)}")
    return StartFailed(f"{name}: {os.strerror(number)}")


def _not_found_hint(name: str, command: Command) -> str:
    if "/" in name:
        return "the path is looked up on the box, from the run's folder"
    return "PATH of the run: " + os.fsdecode(command.env.get("PATH", b"(not set)"))
