"""Runs: one execution of a command each, pinned to one tree digest.

Owns the life of a run from its start to the record of its end: pipes, log, stdin, the stop ladder,
the lease. Knows nothing of gRPC, and leaves the births and deaths of processes to spawn.py.

On disk, `runs/<number>/` of the workspace: `run.json` (no environment: it may hold secrets) and
the log's segments. The newest 100 runs are kept, and of those the newest that take 1 GiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from functools import cached_property, partial
from typing import TYPE_CHECKING

from devloop.cafs.digest import Digest
from devloop.cafs.errors import DevloopError

from .gpu_choice import Place
from .logs import LogStream, RunLog
from .pump import Pump
from .spawn import CommandNotExecutable, CommandNotFound, StartFailed, StartRequest
from .stdin import StdinWriter
from .terminal import open_pty, set_terminal_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from .gpu_desk import GpuHold
    from .spawn import Exit, Process, Spawner
    from .tasks import Tasks

__all__ = [
    "NoSuchRun",
    "Run",
    "RunEnd",
    "RunSpec",
    "RunState",
    "Runs",
    "StartFailure",
    "beyond_limit",
]

KEPT_RUNS = 100
KEPT_BYTES = 1 << 30
KILL_WAIT_S = 5.0
FORGET_CHECK_S = 1.0
_LADDER = (signal.SIGINT, signal.SIGTERM)
# An interactive shell ignores both; a hang-up is what it knows of a terminal that has gone.
_LADDER_OF_SHELLS = (signal.SIGHUP, signal.SIGTERM)
# The record of a start is written when the first output is on its way: before it, it cost a save
# 0.6 ms. A run that has ended by then needs no record of its start.
RECORD_AFTER_S = 0.03


class NoSuchRun(DevloopError):
    """There is no run of that number."""

    hint = "`devloop ps` lists the runs"


class RunState(IntEnum):
    """Values as in the protocol."""

    STARTING = 1
    RUNNING = 2
    STOPPING = 3
    ENDED = 4


class StartFailure(IntEnum):
    """Values as in the protocol."""

    NONE = 0
    NOT_FOUND = 1
    NOT_EXECUTABLE = 2
    OTHER = 3


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What to run, and how. Durations in seconds."""

    argv: tuple[bytes, ...]
    env: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    env_is_whole: bool = False
    tty: bool = False
    rows: int = 0
    columns: int = 0
    stdin: bool = False
    warm: bool = True
    preload: tuple[str, ...] = ()
    stop_timeout_s: float = 2.0
    lease_s: float = 0.0
    reason: str = ""
    outputs: tuple[str, ...] = ()
    owner: str = ""
    cwd: bytes = b""  # relative to the workspace
    shell: bool = False  # see shell.py: not pinned to a tree, not kept when it has ended
    gpus: str = ""  # a wish, see cafs/gpu_wish.py; empty: CUDA_VISIBLE_DEVICES is left alone


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended."""

    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    peak_memory_bytes: int = 0
    user_s: float = 0.0
    system_s: float = 0.0
    wall_s: float = 0.0
    start_failure: StartFailure = StartFailure.NONE
    detail: str = ""


class Run:
    """One run. `changed()` returns when its state or timings have changed."""

    def __init__(
        self, number: int, tree: Digest, spec: RunSpec, open_log: Callable[[], RunLog]
    ) -> None:
        self.number = number
        self.tree = tree
        self.spec = spec
        self._open_log = open_log
        self.state = RunState.STARTING
        self.started_ns = time.time_ns()
        self.first_output_ns = 0
        self.ended_ns = 0
        self.end = RunEnd()
        self.start_kind = ""
        self.start_note = ""
        self.process: Process | None = None
        self.stdin: StdinWriter | None = None
        self.terminal_fd: int | None = None
        self.stop_reason = ""
        self.leases = 0
        self.leased_until_s = 0.0  # monotonic; when the last lease was given up
        self.gpus: tuple[Place, ...] = ()
        self.gpu_hold: GpuHold | None = None  # until it has ended
        self.ended = asyncio.Event()
        self._changed = asyncio.Event()
        self._early_signals: list[int] = []

    @cached_property
    def log(self) -> RunLog:
        """Opened when somebody looks: there may be a hundred runs that nobody asks for."""
        return self._open_log()

    @property
    def live(self) -> bool:
        return self.state is not RunState.ENDED

    @property
    def is_read(self) -> bool:
        """Somebody reads its log."""
        return "log" in self.__dict__ and self.log.is_read

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    async def changed(self) -> None:
        await self._changed.wait()

    def touch(self) -> None:
        """Wakes everybody in `changed`."""
        self._changed.set()
        self._changed = asyncio.Event()

    def signal(self, number: int) -> None:
        """To the run's foreground process group; nothing when it has ended."""
        if self.state is RunState.STARTING:
            self._early_signals.append(number)
        elif self.process is not None and self.live:
            self.process.signal(number)

    def started(self, process: Process) -> None:
        """From here on it is RUNNING."""
        self.process = process
        self.start_kind, self.start_note = process.kind, process.note
        self.state = RunState.RUNNING
        self.touch()
        for number in self._early_signals:
            process.signal(number)

    def resize(self, rows: int, columns: int) -> None:
        if self.terminal_fd is not None and self.live:
            set_terminal_size(self.terminal_fd, rows, columns)


class Runs:
    """The runs of one workspace. Its tasks are owned by `tasks`."""

    def __init__(self, directory: Path, spawner: Spawner, tasks: Tasks, workspace_id: str) -> None:
        self._directory = directory
        self._spawner = spawner
        self._tasks = tasks
        self._workspace_id = workspace_id
        self._runs: dict[int, Run] = {}
        self._last_forgotten = 0  # no number is given twice to those who follow the runs
        self._started = asyncio.Event()
        self._load()

    def _load(self) -> None:
        for directory in self._directory.iterdir():
            if not directory.name.isdecimal():
                continue
            try:
                run = _read_record(directory)
                if run.spec.shell:
                    raise ValueError("nothing is kept of a shell")
                self._runs[run.number] = run
            except (OSError, ValueError, KeyError, TypeError):
                # The agent was killed before the record was whole: its number is free again.
                shutil.rmtree(directory, ignore_errors=True)

    # -- looking

    def get(self, number: int) -> Run:
        try:
            return self._runs[number]
        except KeyError:
            raise NoSuchRun(f"there is no run {number} in {self._workspace_id}") from None

    def __contains__(self, number: int) -> bool:
        return number in self._runs

    def newest_first(self) -> list[Run]:
        return [self._runs[number] for number in sorted(self._runs, reverse=True)]

    def live(self) -> list[Run]:
        return [run for run in self._runs.values() if run.live]

    async def started_after(self, number: int) -> list[Run]:
        """Waits until there are runs with a higher number, and returns them."""
        while True:
            started = self._started
            found = [self._runs[n] for n in sorted(self._runs) if n > number]
            if found:
                return found
            await started.wait()

    @property
    def is_fresh(self) -> bool:
        """Nothing was started since the agent was."""
        return not any(run.process for run in self._runs.values())

    @property
    def last_number(self) -> int:
        return max([self._last_forgotten, *self._runs])

    # -- starting

    async def start(
        self,
        spec: RunSpec,
        tree: Digest,
        cwd: Path,
        local_root: bytes | None,
        gpu_hold: GpuHold | None = None,
    ) -> Run:
        """Starts a run; one whose command cannot be started is returned already ended.

        `gpu_hold` is the run's from now on, and released when it has ended.
        One that takes no input and is born of a zygote is returned STARTING, while its program is
        on its way: the news of the run and the start of the program then take place at once.
        """
        number, directory = self._make_directory()
        if gpu_hold is not None:
            spec = replace(spec, env={**spec.env, **gpu_hold.environment})
        run = Run(number, tree, spec, lambda: RunLog(directory))
        if gpu_hold is not None:
            gpu_hold.has_run = True
            run.gpus, run.gpu_hold = gpu_hold.places, gpu_hold
        self._runs[number] = run
        self._announce_start()
        begun = asyncio.Event()
        self._tasks.spawn(self._launch(run, cwd, local_root, begun), f"start of run {number}")
        await begun.wait()
        return run

    def _make_directory(self) -> tuple[int, Path]:
        """For the next number that nobody has used: a record that cannot be removed keeps its."""
        for number in itertools.count(self.last_number + 1):
            directory = self._directory / str(number)
            try:
                directory.mkdir(mode=0o700)
            except FileExistsError:
                continue
            return number, directory
        raise AssertionError("numbers do not end")

    def _announce_start(self) -> None:
        self._started.set()
        self._started = asyncio.Event()

    async def _launch(
        self, run: Run, cwd: Path, local_root: bytes | None, begun: asyncio.Event
    ) -> None:
        """Sets `begun` as soon as `start` may return."""
        try:
            stdio = Stdio.open(run.spec)
        except OSError as error:  # most likely out of descriptors
            self._fail_start(run, StartFailed(f"no pipe or terminal for it: {error.strerror}"))
            begun.set()
            return
        run.stdin, run.terminal_fd = stdio.stdin_writer(), stdio.terminal_fd
        pump = Pump(run.log, stdio.outputs, on_first_output=lambda ns: self._first_output(run, ns))
        pumping = self._tasks.spawn(pump.run(), f"pump of run {run.number}")
        request = self._request(run.spec, run.number, cwd, local_root, stdio)
        try:
            run.started(await self._born(run, request, begun))
        except (CommandNotFound, CommandNotExecutable, StartFailed) as error:
            stdio.close_child_ends()
            await asyncio.wait([pumping])
            self._fail_start(run, error)
        except BaseException as error:
            stdio.close_child_ends()
            pumping.cancel()
            self._fail_start(run, StartFailed(f"the run could not be started: {error!r}"))
            raise
        else:
            stdio.close_child_ends()
            self._spawn_supervision(run, pump, pumping, cwd, local_root)
        finally:
            begun.set()

    async def _born(self, run: Run, request: StartRequest, begun: asyncio.Event) -> Process:
        birth = await self._spawner.begin(request)
        if birth.forked and not (run.spec.stdin or run.spec.tty):
            run.start_kind, run.start_note = "zygote", birth.note
            begun.set()
        return await birth.process()

    def _spawn_supervision(
        self,
        run: Run,
        pump: Pump,
        pumping: asyncio.Task[None],
        cwd: Path,
        local_root: bytes | None,
    ) -> None:
        assert run.process is not None
        prepare_next = partial(self.prepare, run.spec, cwd, local_root)
        supervision = self._supervise(run, run.process, pump, pumping, prepare_next)
        self._tasks.spawn(supervision, f"run {run.number}")
        asyncio.get_running_loop().call_later(RECORD_AFTER_S, self._record_start, run)

    def _record_start(self, run: Run) -> None:
        if run.live:
            _write_record(run, self._directory)
        self._drop_old()

    async def prepare(self, spec: RunSpec, cwd: Path, local_root: bytes | None) -> None:
        """Warms what a run of `spec` would start from; says nothing when that fails."""
        with contextlib.suppress(DevloopError):
            await self._spawner.prepare(self._request(spec, 0, cwd, local_root))

    def _request(
        self,
        spec: RunSpec,
        number: int,
        cwd: Path,
        local_root: bytes | None,
        stdio: Stdio | None = None,
    ) -> StartRequest:
        env = {} if spec.env_is_whole else {os.fsdecode(k): v for k, v in os.environb.items()}
        env |= spec.env
        env["DEVLOOP_RUN"] = b"%d" % number
        # The shell's own PWD names a folder on the laptop.
        env["PWD"] = os.fsencode(cwd / os.fsdecode(spec.cwd))
        env.pop("OLDPWD", None)
        return StartRequest(
            argv=spec.argv,
            env=env,
            cwd=env["PWD"],
            stdin=stdio.child_stdin if stdio is not None else -1,
            stdout=stdio.child_stdout if stdio is not None else -1,
            stderr=stdio.child_stderr if stdio is not None else -1,
            tty=spec.tty,
            warm=spec.warm,
            preload=spec.preload,
            workspace=os.fsencode(cwd),
            local_root=local_root,
        )

    def _first_output(self, run: Run, time_ns: int) -> None:
        run.first_output_ns = time_ns
        run.touch()

    def _fail_start(self, run: Run, error: DevloopError) -> None:
        match error:
            case CommandNotFound():
                code, failure = 127, StartFailure.NOT_FOUND
            case CommandNotExecutable():
                code, failure = 126, StartFailure.NOT_EXECUTABLE
            case _:
                code, failure = 255, StartFailure.OTHER
        end = RunEnd(exit_code=code, reason=str(error), start_failure=failure, detail=error.hint)
        self._finish(run, end)

    # -- ending

    async def _supervise(
        self,
        run: Run,
        process: Process,
        pump: Pump,
        pumping: asyncio.Task[None],
        prepare_next: Callable[[], Awaitable[None]],
    ) -> None:
        if run.spec.lease_s > 0:
            self._tasks.spawn(self._end_unless_leased(run), f"lease of run {run.number}")
        exit_ = await process.wait()
        pump.finish()
        await asyncio.wait([pumping])  # whatever became of its output, the run has ended
        self._finish(run, self._describe_end(run, exit_))
        self._tasks.spawn(self._drop_beyond_limit(), f"logs before run {run.number}")
        await prepare_next()  # with what this run has taught about its imports

    def _describe_end(self, run: Run, exit_: Exit) -> RunEnd:
        return RunEnd(
            exit_code=exit_.code,
            signal=exit_.signal,
            reason=run.stop_reason or describe_exit(exit_.code, exit_.signal),
            peak_memory_bytes=exit_.peak_memory_bytes,
            user_s=exit_.user_s,
            system_s=exit_.system_s,
            wall_s=(time.time_ns() - run.started_ns) / 1e9,
        )

    def _finish(self, run: Run, end: RunEnd) -> None:
        run.end = end
        run.ended_ns = time.time_ns()
        run.log.close()
        if run.stdin is not None:
            run.stdin.close()
        if run.terminal_fd is not None:
            os.close(run.terminal_fd)
            run.terminal_fd = None
        if run.gpu_hold is not None:
            run.gpu_hold.release()
            run.gpu_hold = None
        run.state = RunState.ENDED
        run.ended.set()
        run.touch()
        _write_record(run, self._directory)
        if run.spec.shell:
            self._tasks.spawn(self._forget(run), f"removal of shell {run.number}")

    async def stop(self, run: Run, *, kill: bool = False, reason: str = "stopped") -> list[str]:
        """The ladder: SIGINT, SIGTERM, kill. Returns the processes that could not be ended."""
        while run.state is RunState.STARTING:
            await run.changed()
        process = run.process
        if process is None or not run.live:
            return []
        run.stop_reason = run.stop_reason or reason
        run.state = RunState.STOPPING
        run.touch()
        if not kill:
            for number in _LADDER_OF_SHELLS if run.spec.shell else _LADDER:
                if number == signal.SIGHUP:
                    process.hang_up()
                else:
                    process.signal(number)
                process.signal(signal.SIGCONT)
                if await _ended_within(run, run.spec.stop_timeout_s):
                    return []
        process.kill()
        if await _ended_within(run, KILL_WAIT_S):
            return []
        return process.survivors()

    async def stop_all(self, *, kill: bool = False, reason: str = "stopped") -> list[str]:
        stops = [self.stop(run, kill=kill, reason=reason) for run in self.live()]
        return [left for lefts in await asyncio.gather(*stops) for left in lefts]

    # -- the lease

    @contextlib.contextmanager
    def lease(self, run: Run) -> Iterator[None]:
        """Held by an attached client; when the last one goes, `spec.lease_s` starts to count."""
        run.leases += 1
        try:
            yield
        finally:
            run.leases -= 1
            run.leased_until_s = time.monotonic()

    async def _end_unless_leased(self, run: Run) -> None:
        run.leased_until_s = time.monotonic()
        while run.live:
            since_s = 0.0 if run.leases else time.monotonic() - run.leased_until_s
            left_s = run.spec.lease_s - since_s
            if left_s <= 0:
                reason = f"ended: no client was there for {run.spec.lease_s:g} s"
                await self.stop(run, reason=reason)
                return
            await _ended_within(run, left_s)

    async def _forget(self, run: Run) -> None:
        """A shell that has ended, as soon as no client can come back for its last words."""
        try:
            await asyncio.sleep(run.spec.lease_s)
            while run.is_read:  # noqa: ASYNC110 - rare, and no reader tells of its end
                await asyncio.sleep(FORGET_CHECK_S)
        finally:
            self._last_forgotten = max(self._last_forgotten, run.number)
            if self._runs.pop(run.number, None) is not None:
                shutil.rmtree(self._directory / str(run.number), ignore_errors=True)

    def _drop_old(self) -> None:
        for run in self.newest_first()[KEPT_RUNS:]:
            if not run.live:
                del self._runs[run.number]
                shutil.rmtree(self._directory / str(run.number), ignore_errors=True)

    async def _drop_beyond_limit(self) -> None:
        """Whose log is being read stays until another run has ended."""
        numbers = [run.number for run in self.newest_first()]
        sizes = await asyncio.to_thread(_sizes_bytes, self._directory, numbers)
        needed = {run.number for run in self._runs.values() if run.live or run.is_read}
        doomed = [n for n in beyond_limit(sizes, needed, KEPT_BYTES) if self._runs.pop(n, None)]
        for number in doomed:
            path = self._directory / str(number)
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


def beyond_limit(
    sizes_bytes: Mapping[int, int], needed: Collection[int], limit_bytes: int
) -> list[int]:
    """The oldest runs that nobody needs, until the rest fits; never the newest."""
    excess = sum(sizes_bytes.values()) - limit_bytes
    doomed = []
    for number in sorted(sizes_bytes)[:-1]:
        if excess > 0 and number not in needed:
            doomed.append(number)
            excess -= sizes_bytes[number]
    return doomed


def _sizes_bytes(directory: Path, numbers: list[int]) -> dict[int, int]:
    return {number: _size_bytes(directory / str(number)) for number in numbers}


def _size_bytes(directory: Path) -> int:
    try:
        with os.scandir(directory) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:  # it is being dropped
        return 0


async def _ended_within(run: Run, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(run.ended.wait(), timeout_s)
    except TimeoutError:
        return False
    return True


def describe_exit(code: int, signal_number: int) -> str:
    """For people: "exited 1", "killed by SIGKILL"."""
    if signal_number == 0:
        return f"exited {code}"
    try:
        name = signal.Signals(signal_number).name
    except ValueError:
        name = f"signal {signal_number}"
    return f"killed by {name}"


# -- standard streams


@dataclass(slots=True)
class Stdio:
    """The two ends of a run's standard streams.

    The pump closes `outputs`, the stdin writer `stdin_fd`, the run's end `terminal_fd`.
    """

    child_stdin: int
    child_stdout: int
    child_stderr: int
    outputs: dict[int, LogStream]
    stdin_fd: int | None
    terminal_fd: int | None = None

    @classmethod
    def open(cls, spec: RunSpec) -> Stdio:
        if spec.tty:
            master, slave = open_pty(spec.rows, spec.columns)
            outputs = {master: LogStream.STDOUT}
            return cls(slave, slave, slave, outputs, os.dup(master), os.dup(master))
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        outputs = {out_read: LogStream.STDOUT, err_read: LogStream.STDERR}
        if spec.stdin:
            in_read, in_write = os.pipe()
            return cls(in_read, out_write, err_write, outputs, in_write)
        null = os.open(os.devnull, os.O_RDONLY)
        return cls(null, out_write, err_write, outputs, None)

    def close_child_ends(self) -> None:
        for fd in {self.child_stdin, self.child_stdout, self.child_stderr}:
            os.close(fd)

    def stdin_writer(self) -> StdinWriter | None:
        if self.stdin_fd is None:
            return None
        return StdinWriter(self.stdin_fd, is_tty=self.terminal_fd is not None)


# -- the record on disk


def _write_record(run: Run, directory: Path) -> None:
    """A full disk costs the record, not the run."""
    record = {
        "number": run.number,
        "tree": run.tree.hex(),
        "argv": [os.fsdecode(arg) for arg in run.spec.argv],
        "shell": run.spec.shell,
        "reason": run.spec.reason,
        "outputs": run.spec.outputs,
        "state": run.state,
        "started_ns": run.started_ns,
        "first_output_ns": run.first_output_ns,
        "ended_ns": run.ended_ns,
        "start_kind": run.start_kind,
        "start_note": run.start_note,
        "end": asdict(run.end),
        "gpus": [asdict(place) for place in run.gpus],
    }
    path = directory / str(run.number) / "run.json"
    temporary = path.with_suffix(".tmp")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(record, ensure_ascii=True))
        temporary.replace(path)


def _read_record(directory: Path) -> Run:
    """Raises OSError, ValueError or KeyError when the record cannot be used."""
    record = json.loads((directory / "run.json").read_text())
    spec = RunSpec(
        argv=tuple(os.fsencode(arg) for arg in record["argv"]),
        shell=record.get("shell", False),
        reason=record["reason"],
        outputs=tuple(record["outputs"]),
    )
    tree = Digest.fromhex(record["tree"])
    run = Run(record["number"], tree, spec, lambda: RunLog.open_existing(directory))
    run.started_ns = record["started_ns"]
    run.first_output_ns = record["first_output_ns"]
    run.ended_ns = record["ended_ns"]
    run.start_kind, run.start_note = record["start_kind"], record["start_note"]
    run.end = RunEnd(**record["end"])
    run.gpus = tuple(Place(**{**place, "users": ()}) for place in record.get("gpus", ()))
    if record["state"] != RunState.ENDED:
        run.end = RunEnd(exit_code=255, reason="lost: the agent was killed")
        run.ended_ns = run.started_ns
    run.state = RunState.ENDED
    run.ended.set()
    return run
