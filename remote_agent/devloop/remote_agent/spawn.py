"""Births of runs: from a zygote where that is possible and wanted, else by exec.

A run starts in a place: the box itself (`host_place`), or a warm container (`container.place`).
Owns the choice of a place and what was learned. Whatever goes wrong with a zygote leads to a cold
start whose note says so. Knows nothing of logs, leases and gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from devloop.cafs.errors import DevloopError

from .command import Command, CommandNotExecutable
from .entrypoint import NotForked, PythonProgram
from .forker import Forker, ForkerFailed, Refused
from .host_place import HostPlace
from .learned import LearnedFile
from .processes import Exit, Pair, Process
from .zygote import wire, words
from .zygotes import Key, ZygotePool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from .container.pool import Containers
    from .container.spec import ContainerSpec
    from .terminal import Pty

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

_SERVICE_TIMEOUT_S = 20.0
# A bare zygote is up in a fraction of this; a start does not wait longer for it.
_ZYGOTE_TIMEOUT_S = 5.0
_REPLY_TIMEOUT_S = 30.0
_MAX_LEARNED_FILES = 256


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A run to start. The descriptors stay the caller's; the run gets copies.

    All paths are the box's. With a `container`, `env` is only what the user has set.
    """

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
    container: ContainerSpec | None = None
    login: bool = False  # with a container: the login shell of its user, whatever `argv` says


class Place(Protocol):
    """Where runs start. `learned_as` tells its interpreters from others of the same path;
    `identity` is the user that runs become; `last_resort` ends what nothing else does."""

    @property
    def level(self) -> str: ...
    @property
    def user_namespace(self) -> bool: ...
    @property
    def pool(self) -> ZygotePool: ...
    @property
    def learned_as(self) -> bytes: ...
    @property
    def identity(self) -> dict[str, Any] | None: ...
    @property
    def last_resort(self) -> Callable[[], None] | None: ...

    def witness(self) -> Callable[[], str]:
        """To be asked at a run's end what, since now, the kernel has killed of it, and why."""

    async def service(self) -> Forker:
        """The spawner. Raises ForkerFailed or TimeoutError."""

    def translated(self, request: StartRequest) -> StartRequest:
        """The request in the place's own paths and variables."""

    async def resolve(self, request: StartRequest) -> Command:
        """`request` was translated. Raises CommandNotExecutable or another DevloopError."""

    async def open_pty(self) -> Pty:
        """A terminal of the place's own. Raises OSError or a DevloopError."""

    def touch(self) -> None:
        """It is in use."""


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

    place: Place
    forker: Forker
    pair: Pair
    is_cold: bool


@dataclass(frozen=True, slots=True)
class _Start:
    """A request that has found its place, and what it comes down to there."""

    place: Place
    command: Command
    request: StartRequest


class Spawner:
    """One an agent; every method belongs to the thread of its event loop."""

    def __init__(
        self,
        state_dir: Path,
        *,
        highest_level: str = words.PID_NAMESPACE,
        containers: Containers | None = None,
    ) -> None:
        self._state_dir = state_dir
        self._host = HostPlace(highest_level)
        self._containers = containers
        self._learned: dict[tuple[bytes, bytes], LearnedFile] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def level(self) -> str:
        """How far runs outside containers are contained."""
        return self._host.level

    @property
    def level_hint(self) -> str:
        return self._host.level_hint

    async def start_service(self) -> None:
        """Raises StartFailed when not even the spawner starts."""
        try:
            await self._host.start()
        except (ForkerFailed, TimeoutError) as error:
            raise StartFailed(f"the agent cannot start processes: {error}") from error

    async def close(self) -> None:
        """Ends every run that is left; containers are their owner's to end."""
        for task in self._tasks:
            task.cancel()
        for forker in self._host.close():
            await forker.gone()

    def memory_bytes(self) -> int:
        """What the zygotes hold."""
        return self._host.pool.memory_bytes()

    def zygotes(self, workspace: Path) -> tuple[int, int]:
        """Of a workspace: those that are ready, and those that are at their imports."""
        counts = [self._host.pool.counts(os.fsencode(workspace))]
        if self._containers is not None:
            counts += self._containers.zygotes(workspace)
        return sum(ready for ready, _ in counts), sum(loading for _, loading in counts)

    async def start(self, request: StartRequest) -> Process:
        """Raises CommandNotFound, CommandNotExecutable or StartFailed."""
        birth = await self.begin(request)
        return await birth.process()

    async def begin(self, request: StartRequest) -> Birth:
        """Returns when the request is sent. Raises as `start` does.

        The descriptors must stay open until the birth's `process` has returned.
        """
        start = await self._placed(request)
        origin, note = await self._origin(start)
        try:
            self._send(origin, start)
        except ConnectionError:
            origin, note = await self._send_cold(start)
        born = partial(self._born, origin, start, note)
        return Birth(not origin.is_cold, note, born)

    async def prepare(self, request: StartRequest) -> None:
        """Starts the container and the zygotes that `request` would use; waits for no zygote."""
        start = await self._placed(request)
        if request.warm and isinstance(start.command.program, PythonProgram):
            try:
                self._wanted(start, start.command.program)
            except ForkerFailed:
                return

    async def open_pty(self, container: ContainerSpec | None) -> Pty:
        """For a run to come. Raises StartFailed, also when its container does not start."""
        place = await self._place(container)
        place.touch()
        try:
            return await place.open_pty()
        except OSError as error:  # most likely out of descriptors
            raise StartFailed(f"no terminal for it: {error.strerror}") from error
        except DevloopError as error:
            raise StartFailed(str(error), hint=error.hint) from error

    async def cool(self, workspace: Path) -> None:
        """Runs of it find nothing warm: its containers end, with all that runs in them."""
        self._host.pool.retire(os.fsencode(workspace))
        if self._containers is not None:
            await self._containers.end(lambda spec: spec.workspace == workspace)

    # -- where a run starts

    async def _placed(self, request: StartRequest) -> _Start:
        place = await self._place(request.container)
        place.touch()
        inside = place.translated(request)
        return _Start(place, await self._resolved(place, inside), inside)

    async def _place(self, container: ContainerSpec | None) -> Place:
        if container is None:
            return self._host
        if self._containers is None:
            raise StartFailed("this agent starts no containers")
        try:
            return await self._containers.ensure(container)
        except DevloopError as error:
            raise StartFailed(str(error), hint=error.hint) from error

    async def _resolved(self, place: Place, request: StartRequest) -> Command:
        try:
            return await place.resolve(request)
        except CommandNotExecutable:
            raise
        except DevloopError as error:
            raise StartFailed(str(error), hint=error.hint) from error

    async def _origin(self, start: _Start) -> tuple[_Origin, str]:
        note = ""
        program, warm = start.command.program, start.request.warm
        if warm and isinstance(program, PythonProgram):
            try:
                zygote, note = self._ready_zygote(start, program)
                pair = await zygote.take(_ZYGOTE_TIMEOUT_S)
                return _Origin(start.place, zygote, pair, False), note
            except (ForkerFailed, TimeoutError) as error:
                note = f"no zygote: {error or 'it took too long to start'}"
        elif warm and isinstance(program, NotForked):
            note = program.reason
        return await self._take_cold(start.place), note

    def _ready_zygote(self, start: _Start, program: PythonProgram) -> tuple[Forker, str]:
        """The wanted one, or the bare one while the wanted one imports."""
        wanted, note = self._wanted(start, program)
        if wanted is not None and wanted.is_ready:
            said = wanted.loaded.result()["said"]
            return wanted, f"said at import: {said}" if said else note
        bare = start.place.pool.ensure(_key(start, program), start.command.env)
        return bare, note or ("" if wanted is None else "the preload is still being imported")

    def _wanted(self, start: _Start, program: PythonProgram) -> tuple[Forker | None, str]:
        """None when there is nothing to preload, with what stands in the way of it."""
        bare, pool = _key(start, program), start.place.pool
        pool.ensure(bare, start.command.env)
        learned = self._learned_file(start)
        preload = learned.value.allowed(start.request.preload) or learned.value.preload
        if not preload:
            return None, learned.value.note
        try:
            zygote = pool.ensure(bare.with_preload(preload), start.command.env)
        except ForkerFailed as failure:
            return None, f"nothing is preloaded: {failure}"
        self._watch_load(zygote, learned, start, program)
        return zygote, learned.value.note

    def _watch_load(
        self, zygote: Forker, learned: LearnedFile, start: _Start, program: PythonProgram
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
                self._wanted(start, program)
            except ForkerFailed as failure:
                if not start.request.preload and not zygote.is_closing:
                    learned.update(learned.value.with_unsafe(str(failure)))

        self._spawn(watch())

    async def _take_cold(self, place: Place) -> _Origin:
        try:
            service = await place.service()
            return _Origin(place, service, await service.take(_SERVICE_TIMEOUT_S), True)
        except (ForkerFailed, TimeoutError) as error:
            raise StartFailed(f"no process can be started: {error}") from error

    # -- the start itself

    def _send(self, origin: _Origin, start: _Start) -> None:
        """Raises ConnectionError when the waiting pair is dead."""
        request = start.request
        stdio = [request.stdin, request.stdout, request.stderr]
        try:
            wire.send(origin.pair.to_child, _message(start, origin), stdio)
        except BaseException:
            origin.pair.close()
            origin.forker.release()
            raise

    async def _send_cold(self, start: _Start) -> tuple[_Origin, str]:
        """The waiting pair was killed by somebody else; the next one was not."""
        origin = await self._take_cold(start.place)
        try:
            self._send(origin, start)
        except OSError as error:
            raise StartFailed(f"the new process died: {error}") from error
        return origin, "the zygote's child had died"

    async def _born(self, origin: _Origin, start: _Start, note: str) -> Process:
        try:
            return await self._answered(origin, start, note)
        except ConnectionError:
            origin, note = await self._send_cold(start)
            return await self._answered(origin, start, note)

    async def _answered(self, origin: _Origin, start: _Start, note: str) -> Process:
        forked = not origin.is_cold
        pair = origin.pair
        witness = origin.place.witness()
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
                raise _start_error(reply, start.command, start.request)
            if reply["event"] == words.COLD:
                forked, note = False, reply["note"]
        return Process(
            kind="zygote" if forked else "cold",
            note=note,
            on_end=lambda exit_: self._on_end(origin.forker, start, exit_),
            _pair=pair,
            _isolated=origin.place.level == words.PID_NAMESPACE,
            last_resort=origin.place.last_resort,
            witness=witness,
        )

    def _on_end(self, forker: Forker, start: _Start, exit_: Exit) -> None:
        forker.release()
        start.place.touch()
        if not isinstance(start.command.program, PythonProgram) or not exit_.modules:
            return
        learned = self._learned_file(start)
        before = learned.value.preload
        learned.update(learned.value.with_modules(exit_.modules))
        request = start.request
        if request.warm and not request.preload and learned.value.preload != before:
            self._spawn(self._warm(start, start.command.program))

    async def _warm(self, start: _Start, program: PythonProgram) -> None:
        """With what a run has taught."""
        with contextlib.suppress(ForkerFailed):
            self._wanted(start, program)

    def _learned_file(self, start: _Start) -> LearnedFile:
        workspace = start.request.workspace
        interpreter = start.place.learned_as + start.command.executable
        key = (workspace, interpreter)
        if key not in self._learned:
            if len(self._learned) >= _MAX_LEARNED_FILES:
                self._learned.clear()
            self._learned[key] = LearnedFile(self._state_dir, workspace, interpreter)
        return self._learned[key]

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _message(start: _Start, origin: _Origin) -> dict[str, Any]:
    command, request = start.command, start.request
    program = None if origin.is_cold else command.program
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
        "drop_capabilities": origin.place.user_namespace,
        "identity": origin.place.identity,
    }


def _key(start: _Start, program: PythonProgram) -> Key:
    command, request = start.command, start.request
    cwd, workspace = request.cwd, request.workspace
    return Key.of(command.executable, program.flags, command.env, cwd, workspace)


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
        hint = _not_found_hint(name, command, request)
        return CommandNotFound(f"{name}: command not found", hint=hint)
    if number in (errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR):
        return CommandNotExecutable(f"{name}: {os.strerror(number)}")
    return StartFailed(f"{name}: {os.strerror(number)}")


def _not_found_hint(name: str, command: Command, request: StartRequest) -> str:
    if request.login:
        return "the image has no shell; `devloop shell -- COMMAND` opens what it has"
    if "/" in name and request.container is not None:
        return "the path is looked up in the image, from the run's folder; or what its `#!` names"
    if "/" in name:
        return "the path is looked up on the box, from the run's folder"
    return "PATH of the run: " + os.fsdecode(command.env.get("PATH", b"(not set)"))
