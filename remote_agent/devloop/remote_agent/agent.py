"""The agent: its projects, its store, and what it does for a client. Knows nothing of gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import time
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from devloop.cafs.errors import DevloopError
from devloop.cafs.gc import collect, reachable
from devloop.cafs.store import DiskStore

from .chunk_index import ChunkIndex
from .cleaning import delete_removed, read_origin, store_bytes
from .container.pool import Containers
from .container_request import command_of, container_spec, indexes_of, own_command
from .gpu_choice import Busy
from .gpu_desk import GpuDesk
from .image_profiles import ImageProfiles
from .images import Images
from .metrics import Metrics
from .run_stop import stop_run
from .runs import Runs
from .served import Served
from .spawn import Spawner
from .tasks import Tasks
from .warmth import WarmthDesk
from .workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence
    from pathlib import Path

    from devloop.cafs.digest import Digest

    from .ahead import Ahead
    from .container.spec import ContainerSpec
    from .container_wish import ContainerWish
    from .gpu_desk import GpuHold
    from .run import Run, RunSpec
    from .transition import Applied, Staged

__all__ = ["Agent", "Applying", "OnBusy", "Project", "Timings", "undisturbed"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

WORKSPACE_ID = re.compile(r"[a-z0-9-]{1,64}")
STORE_LIMIT_BYTES = 50 * 10**9
# A transition this small is faster than the two threads that would carry it out: 0.3 ms each.
FEW_BLOBS = 16
FEW_CHANGES = 16
COLLECT_PERIOD_S = 3600.0
FLUSH_DELAY_S = 2.0
AHEAD_KEPT_S = 60.0
COLLECT_AFTER_OBJECTS = 50_000


class InvalidRequest(DevloopError):
    """A client asked for something that the protocol does not allow."""

    hint = "client and agent may be of different versions: `devloop down`, then try again"


class NoSuchWorkspace(InvalidRequest):
    """Nothing of that project has run here yet, or its workspace was removed."""


class StillRunning(DevloopError):
    """A run could not be ended, so that its files cannot be changed."""

    hint = "end the process by hand; one in state D waits for a disk, a GPU or a network mount"


class OnBusy(IntEnum):
    """What to do when others' live runs are pinned to another tree; values as in the protocol."""

    FAIL = 0
    WAIT = 1
    UNDER = 2


@dataclass(slots=True)
class Timings:
    stage_ns: int = 0
    stop_ns: int = 0
    apply_ns: int = 0
    start_ns: int = 0


@dataclass(slots=True)
class Applying:
    """What came of an apply. With `missing`, `busy` or `gpus_busy`, nothing was changed."""

    missing: list[Digest] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    gpus_busy: tuple[str, ...] = ()  # who has the GPUs that the run could have, a line each
    applied: Applied | None = None
    run: Run | None = None
    timings: Timings = field(default_factory=Timings)


class Project:
    """A workspace with its runs. `lock` is held while files change or a run is started."""

    def __init__(self, workspace: Workspace, runs: Runs) -> None:
        self.workspace = workspace
        self.runs = runs
        self.lock = asyncio.Lock()
        self.local_root: bytes | None = None
        self.origin = b""  # the project's path on the client's machine, as far as it is known
        self.followers = 0  # clients that wait for runs to come: each is an open `up`
        self.is_staging_ahead = False


class Agent:
    """Everything one user's agent holds. Use as an async context manager."""

    def __init__(self, state_dir: Path, store_limit_bytes: int = STORE_LIMIT_BYTES) -> None:
        self.state_dir = state_dir
        self.store_limit_bytes = store_limit_bytes
        self.store = DiskStore(state_dir / "store")
        self.chunks = ChunkIndex(self.store)
        self.containers = Containers(state_dir / "containers")
        self.containers.on_served = self._tell_runs
        self.containers.on_ending = self._on_container_ending
        self.profiles = ImageProfiles(self.containers)
        self._served = Served()
        self.spawner = Spawner(state_dir / "zygotes", containers=self.containers)
        self.warmth = WarmthDesk(self.spawner, self.containers)
        self.metrics = Metrics(state_dir)
        self.gpus = GpuDesk()
        self.images = Images(state_dir / "images", self._images_in_use)
        self.images.on_lazy = self._announce
        self.tasks = Tasks()
        self._projects: dict[str, Project] = {}
        self._unflushed = asyncio.Event()
        self._workspaces_dir = state_dir / "workspaces"

    async def __aenter__(self) -> Agent:
        self._loop = asyncio.get_running_loop()
        for directory in (self._workspaces_dir, self.state_dir / "zygotes"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(self.containers.clear)
        await self.spawner.start_service()
        for directory in self._workspaces_dir.iterdir():
            if WORKSPACE_ID.fullmatch(directory.name):
                self._open_again(directory.name)
        self.tasks.spawn(asyncio.to_thread(delete_removed, self._workspaces_dir), "removal")
        self.tasks.spawn(self._collect_garbage(), "garbage collection")
        self.tasks.spawn(self._flush_store(), "flush of the store")
        # Trees are many objects and no cycles: with the usual 700, a first sync is looked through
        # a hundred times while it is built.
        gc.set_threshold(COLLECT_AFTER_OBJECTS)
        gc.freeze()  # modules and workspaces stay: no collection amid a save goes through them
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(
            *(project.runs.stop_all(reason="the agent was ended") for project in self.projects())
        )
        await self.tasks.close()
        await self.containers.close()
        await self.spawner.close()
        await self.gpus.close()
        self.store.close()
        self.images.close()

    # -- projects

    def projects(self) -> list[Project]:
        return list(self._projects.values())

    def project(self, workspace_id: str, name: str | None = None) -> Project:
        """The project of that id; made when a `name` is given. Raises InvalidRequest."""
        found = self._projects.get(workspace_id)
        if found is None:
            if not WORKSPACE_ID.fullmatch(workspace_id):
                raise InvalidRequest(f"not a workspace id: {workspace_id!r}")
            if name is None:
                raise NoSuchWorkspace(
                    f"there is no workspace {workspace_id}",
                    hint="nothing of this project has run here yet; `devloop exec` starts it",
                )
            found = self._open(workspace_id, name)
        return found

    def _open(self, workspace_id: str, name: str) -> Project:
        directory = self._workspaces_dir / workspace_id
        workspace = Workspace(directory, self.store, name)
        runs = Runs(workspace.runs_dir, self.spawner, self.tasks, workspace_id)
        project = self._projects[workspace_id] = Project(workspace, runs)
        project.origin = read_origin(directory)
        return project

    def _open_again(self, workspace_id: str) -> None:
        """One broken workspace must not keep the others: who asks for it is told."""
        try:
            self._open(workspace_id, workspace_id)
        except DevloopError as error:
            logger.warning("%s: %s", workspace_id, error)

    def forget(self, project: Project) -> Path:
        """Its workspace's directory, which is the caller's from now on."""
        del self._projects[project.workspace.id]
        return self.directory_of(project)

    def directory_of(self, project: Project) -> Path:
        return self._workspaces_dir / project.workspace.id

    async def placed(self, project: Project, spec: RunSpec, wish: ContainerWish) -> RunSpec:
        """The same run in a container, with the image's own command where it has none.

        Raises ImageMissing, NoCommand and what else stands in the way.
        """
        spec = spec if spec.argv else replace(spec, argv=command_of(wish, self.images))
        files, caches = project.workspace.files, self.caches_dir
        store, profiles = self.images.store, self.profiles
        profile = profiles.path_for(store, wish.index, spec.argv)
        wanted = container_spec(wish, self.images, files, caches, profile)
        container = self.containers.standing_for(wanted)
        is_first = self.containers.place_of(container) is None
        if is_first and profiles.is_new(store, wish.index, spec.argv):
            container = replace(container, records=True)
            await asyncio.to_thread(profiles.let_go, store, wish.index)
        return replace(spec, container=container)

    def _announce(self, index: Digest, command: Sequence[bytes]) -> None:
        """To the file server that will be needed, from a thread."""
        with contextlib.suppress(DevloopError):  # who runs it is told
            command = command or own_command(self.images, index)
        profile = self.profiles.path_for(self.images.store, index, command)
        tell = partial(self.containers.announce, self.images.root, index, profile)
        self._loop.call_soon_threadsafe(tell)

    @property
    def caches_dir(self) -> Path:
        return self.state_dir / "caches"

    def _images_in_use(self) -> set[Digest]:
        return indexes_of(self.containers.live())

    def _tell_runs(self, container: ContainerSpec, event: str) -> None:
        """What the file server of an image says is said to the runs that read from it."""
        self.profiles.heard(container, event)
        self.warmth.heard(container, event)
        self._served.tell(event, partial(self._runs_in, container))

    def _on_container_ending(self, container: ContainerSpec, why: str) -> None:
        for run in self._runs_in(container):
            if not run.stop_reason:
                run.stop_reason = f"its container has ended: {why}"
                run.say(run.stop_reason)
            run.place_ended.set()

    def _runs_in(self, container: ContainerSpec) -> list[Run]:
        return [run for run in self.live_runs() if run.spec.container == container]

    def live_runs(self) -> list[Run]:
        return [run for project in self.projects() for run in project.runs.live()]

    def runs_by_pid(self) -> dict[int, tuple[str, int]]:
        """For every live process of a run: its workspace's id and its number."""
        return {
            pid: (project.workspace.id, run.number)
            for project in self.projects()
            for run in project.runs.live()
            if run.process is not None
            for pid in run.process.pids()
        }

    # -- transitions

    @contextlib.asynccontextmanager
    async def staging_ahead(self, project: Project) -> AsyncIterator[Ahead | None]:
        """Where an upload may write its files; the next transition takes them over.

        None when another upload of the project does so. An upload that fails leaves nothing.
        """
        if project.is_staging_ahead:
            yield None
            return
        project.is_staging_ahead = True
        ahead: Ahead | None = None
        try:
            async with project.lock:
                await undisturbed(asyncio.to_thread(project.workspace.ahead.drop))
                ahead = project.workspace.ahead.begin()
            yield ahead
            if ahead is not None:
                async with project.lock:
                    project.workspace.ahead.end(ahead)
                self.tasks.spawn(self._drop_ahead(project, ahead), "files sent ahead")
        except BaseException:
            if ahead is not None:
                await undisturbed(asyncio.to_thread(ahead.discard))
            raise
        finally:
            project.is_staging_ahead = False

    async def _drop_ahead(self, project: Project, ahead: Ahead) -> None:
        """Its client was killed, or had to change its mind."""
        await asyncio.sleep(AHEAD_KEPT_S)
        async with project.lock:
            await undisturbed(asyncio.to_thread(project.workspace.ahead.drop, ahead))

    async def apply(
        self,
        project: Project,
        target: Digest,
        *,
        spec: RunSpec | None = None,
        stop_runs: tuple[int, ...] = (),
        on_busy: OnBusy = OnBusy.FAIL,
        repair: bool = False,
        is_small: bool = False,
    ) -> Applying:
        """Moves the project's workspace to `target`, and starts a run of `spec` there.

        Everything is staged before the caller's own `stop_runs` are ended, and nothing is changed
        while a run pinned to another tree is live. `is_small`: a save or two.
        Raises StoreFull, TreeInvalid, StillRunning, and what GpuDesk.acquire raises.
        """
        small = is_small and not repair
        while True:
            hold = await self._acquire_gpus(project, spec, stop_runs)
            if isinstance(hold, Busy):
                if on_busy is not OnBusy.WAIT:
                    return Applying(gpus_busy=hold.lines)
                await self.gpus.until_changed()
                continue
            try:
                async with project.lock:
                    result = await self._apply_locked(
                        project, target, spec, stop_runs, on_busy, repair, small, hold
                    )
            finally:
                if hold is not None and not hold.has_run:
                    hold.release()
            if not (result.busy and on_busy is OnBusy.WAIT):
                return result
            await asyncio.gather(*(project.runs.get(number).ended.wait() for number in result.busy))

    async def _acquire_gpus(
        self, project: Project, spec: RunSpec | None, stop_runs: tuple[int, ...]
    ) -> GpuHold | Busy | None:
        """Before anything is changed; the run to come keeps what its predecessor has."""
        if spec is None or not spec.gpus:
            return None
        holds = [project.runs.get(number).gpu_hold for number in stop_runs]
        kept = [hold for hold in holds if hold is not None]
        return await self.gpus.acquire(spec.gpus, visible=_visible_gpus(spec), kept=kept)

    async def _apply_locked(
        self,
        project: Project,
        target: Digest,
        spec: RunSpec | None,
        stop_runs: tuple[int, ...],
        on_busy: OnBusy,
        repair: bool,
        is_small: bool,
        gpu_hold: GpuHold | None,
    ) -> Applying:
        result = Applying()
        clock = time.perf_counter_ns()
        staged: Staged | None = None
        if spec is not None and project.runs.is_fresh:
            preparing = project.runs.prepare(spec, project.workspace.files, project.local_root)
            self.tasks.spawn(preparing, "first zygote")
        if repair or project.workspace.current != target:
            stage = partial(project.workspace.stage, target, repair=repair)
            staged = stage() if is_small else await undisturbed(asyncio.to_thread(stage))
            result.missing = staged.missing
            if staged.missing:
                return result
        result.timings.stage_ns, clock = _lap(clock)

        if on_busy is not OnBusy.UNDER and project.workspace.current != target:
            result.busy = [
                run.number
                for run in project.runs.live()
                if run.tree != target and run.number not in stop_runs and not run.spec.shell
            ]
            if result.busy:
                return result
        await undisturbed(self._stop_own(project, stop_runs))
        result.timings.stop_ns, clock = _lap(clock)

        if staged is not None:
            apply = partial(project.workspace.apply, staged)
            is_small = is_small and len(staged.changes) <= FEW_CHANGES
            result.applied = apply() if is_small else await undisturbed(asyncio.to_thread(apply))
            self._unflushed.set()
        result.timings.apply_ns, clock = _lap(clock)

        if spec is not None:
            files, local_root = project.workspace.files, project.local_root
            starting = project.runs.start(spec, target, files, local_root, gpu_hold)
            result.run = await undisturbed(starting)
            if spec.container is not None and spec.container.records:
                recording = self.profiles.record(self.images.store, result.run)
                self.tasks.spawn(recording, "profile")
            if gpu_hold is not None:
                gpu_hold.note(project.workspace.name, result.run.number)
        result.timings.start_ns, clock = _lap(clock)
        return result

    async def _stop_own(self, project: Project, numbers: tuple[int, ...]) -> None:
        runs = [project.runs.get(number) for number in numbers]
        stops = [stop_run(run, reason="stopped for a restart") for run in runs]
        left = [process for lefts in await asyncio.gather(*stops) for process in lefts]
        if left:
            raise StillRunning(f"cannot end {', '.join(left)}")

    # -- upkeep

    async def _flush_store(self) -> None:
        """Durability is not worth a millisecond of a save: reads verify. It comes a bit later."""
        while True:
            await self._unflushed.wait()
            await asyncio.sleep(FLUSH_DELAY_S)
            self._unflushed.clear()
            try:
                await asyncio.to_thread(self.store.sync)
            except DevloopError as error:
                logger.warning("%s", error)

    async def _collect_garbage(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._collect)
            except DevloopError as error:
                logger.warning("garbage collection: %s", error)
            await asyncio.sleep(COLLECT_PERIOD_S)

    def _collect(self) -> None:
        self.store.remove_temporaries(COLLECT_PERIOD_S)
        if store_bytes(self.store) > self.store_limit_bytes:
            self.collect(self.store_limit_bytes)

    def collect(self, limit_bytes: int, *, grace_s: float = COLLECT_PERIOD_S) -> None:
        """Drops blobs that no workspace needs, until the store takes at most so much."""
        roots = [root for project in self.projects() for root in project.workspace.roots()]
        collect(self.store, reachable(self.store, roots), limit_bytes, grace_s=grace_s)


async def undisturbed(step: Coroutine[Any, Any, T]) -> T:
    """A client that hangs up cancels its call: the step is ended first, then no other is begun.

    A thread cannot be cancelled, and the lock must be held for as long as it changes files.
    """
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.info("after its client had hung up: %s", error)
        raise


def _visible_gpus(spec: RunSpec) -> str | None:
    """What the run's environment, or this agent's, leaves of the box's GPUs: a job's share, say."""
    name = "CUDA_VISIBLE_DEVICES"
    value = spec.env.get(name)
    if value is None:
        return None if spec.env_is_whole else os.environ.get(name)
    return os.fsdecode(value)


def _lap(since_ns: int) -> tuple[int, int]:
    now = time.perf_counter_ns()
    return now - since_ns, now
