"""The runs of a workspace: their numbers, who looks for which, and what is kept of old ones.

Owns `runs/`. What becomes of one run is for others: `run.py` says what it is, `run_life.py` starts
it and sees to its end, `run_stop.py` ends it. Knows nothing of gRPC.

On disk, `runs/<number>/` of the workspace: `run.json` (see `run_record.py`) and the log's segments.
The newest 100 runs are kept, and of those the newest that take 1 GiB.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError

from .logs import RunLog
from .run import Run
from .run_life import RunLife, prepare
from .run_limits import beyond_limit, sizes_bytes_of
from .run_record import read_record
from .run_stop import stop_run

if TYPE_CHECKING:
    from pathlib import Path

    from devloop.cafs.digest import Digest

    from .gpu_desk import GpuHold
    from .run import RunSpec
    from .spawn import Spawner
    from .tasks import Tasks

__all__ = ["NoSuchRun", "Runs"]

KEPT_RUNS = 100
KEPT_BYTES = 1 << 30
FORGET_CHECK_S = 1.0


class NoSuchRun(DevloopError):
    """There is no run of that number."""

    hint = "`devloop ps` lists the runs"


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
                run = read_record(directory)
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

    # -- starting and ending

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
        life = RunLife(
            run,
            directory,
            cwd=cwd,
            local_root=local_root,
            spawner=self._spawner,
            tasks=self._tasks,
            on_settled=self._drop_old,
            on_ended=self._ended,
        )
        await life.begin()
        return run

    def _make_directory(self) -> tuple[int, Path]:
        """For the next number that nobody has used: a record that cannot be removed keeps its."""
        for number in itertools.count(self.last_number + 1):
            directory = self._directory_of(number)
            try:
                directory.mkdir(mode=0o700)
            except FileExistsError:
                continue
            return number, directory
        raise AssertionError("numbers do not end")

    def _announce_start(self) -> None:
        self._started.set()
        self._started = asyncio.Event()

    async def prepare(self, spec: RunSpec, cwd: Path, local_root: bytes | None) -> None:
        """Warms what a run of `spec` would start from; says nothing when that fails."""
        await prepare(self._spawner, spec, cwd, local_root)

    async def stop_all(self, *, kill: bool = False, reason: str = "stopped") -> list[str]:
        """Returns the processes that could not be ended."""
        stops = [stop_run(run, kill=kill, reason=reason) for run in self.live()]
        return [left for lefts in await asyncio.gather(*stops) for left in lefts]

    # -- what is kept

    def _directory_of(self, number: int) -> Path:
        return self._directory / str(number)

    def _ended(self, run: Run) -> None:
        if run.spec.shell:
            self._tasks.spawn(self._forget(run), f"removal of shell {run.number}")
        if run.process is not None:  # it was started
            self._tasks.spawn(self._drop_beyond_limit(), f"logs before run {run.number}")

    async def _forget(self, run: Run) -> None:
        """A shell that has ended, as soon as no client can come back for its last words."""
        try:
            await asyncio.sleep(run.spec.lease_s)
            while run.is_read:  # noqa: ASYNC110 - rare, and no reader tells of its end
                await asyncio.sleep(FORGET_CHECK_S)
        finally:
            self._last_forgotten = max(self._last_forgotten, run.number)
            if self._runs.pop(run.number, None) is not None:
                shutil.rmtree(self._directory_of(run.number), ignore_errors=True)

    def _drop_old(self) -> None:
        for run in self.newest_first()[KEPT_RUNS:]:
            if not run.live:
                del self._runs[run.number]
                shutil.rmtree(self._directory_of(run.number), ignore_errors=True)

    async def _drop_beyond_limit(self) -> None:
        """Whose log is being read stays until another run has ended."""
        numbers = [run.number for run in self.newest_first()]
        sizes = await asyncio.to_thread(sizes_bytes_of, self._directory, numbers)
        needed = {run.number for run in self._runs.values() if run.live or run.is_read}
        doomed = [n for n in beyond_limit(sizes, needed, KEPT_BYTES) if self._runs.pop(n, None)]
        for number in doomed:
            path = self._directory_of(number)
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
