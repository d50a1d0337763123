"""One project on one target: scans, pushes, runs. The only owner of the connection.

`Session` is what one-shot verbs use; `loop.py` builds `up` on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs import dirs
from devloop.cafs.digest import digest_of
from devloop.cafs.errors import DevloopError

from .ahead import Ahead
from .identity import client_id
from .ignore import Ignore
from .model import OnBusy, WorkspaceRef
from .progress import Progress
from .push import Pusher, SourcesChanged
from .scan import Scanner, TooMuch
from .statcache import StatCache
from .target import Connection

if TYPE_CHECKING:
    from pathlib import Path

    from .client import AgentClient
    from .images import Container
    from .model import HostFacts, RunSpec
    from .outputs import PullResult
    from .push import Pushed
    from .scan import Scan
    from .target import Target

__all__ = ["NeverQuiet", "Project", "ScanTimes", "Session", "ensured", "workspace_of"]

MAX_RESCANS = 20
MAX_BYTES_ON_LOOP = 1 << 20  # hashed within a millisecond; more is for a thread


class NeverQuiet(DevloopError):
    """A file of the project changes faster than it can be read."""

    hint = "add it to .devloopignore, or to sync.outputs if runs write it"


class Project(NamedTuple):
    """What sync needs to know of a project."""

    root: Path  # absolute
    ignore: tuple[str, ...] = ()  # gitignore syntax
    outputs: tuple[str, ...] = ()  # gitignore syntax
    container: Container | None = None  # None: runs see the box's own files
    command: tuple[bytes, ...] = ()  # what will probably run


class ScanTimes:
    """How long the scans of one push took, in seconds."""

    def __init__(self) -> None:
        self.scan_s = 0.0


def workspace_of(root: Path, *, is_local: bool) -> WorkspaceRef:
    """The workspace of a project of this user on this machine.

    `is_local`: the agent sees the project's own folder.
    """
    name = root.name or "root"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "project"
    owner = f"{client_id()}\0{os.getuid()}\0".encode()
    tag = digest_of(owner + os.fsencode(root)).hex()[:8]
    path = os.fsencode(root)
    return WorkspaceRef(f"{slug}-{tag}", name, path if is_local else b"", origin=path)


class Session:
    """Use `open`; close it. One operation at a time."""

    def __init__(
        self,
        project: Project,
        workspace: WorkspaceRef,
        connection: Connection,
        scanner: Scanner,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress or Progress()
        self.project = project
        self.workspace = workspace
        self.connection = connection
        self.scanner = scanner
        self.pusher = self._new_pusher()
        # Names this session's runs among those of the workspace.
        self.owner = os.urandom(16).hex()
        self.last_scan: Scan | None = None
        self._saved_scan: Scan | None = None
        self._saving: asyncio.Task[None] | None = None
        self._scanning = asyncio.Lock()
        self._container: Container | None = None  # with its index, when the agent has said it

    @classmethod
    async def open(
        cls, project: Project, target: Target, progress: Progress | None = None
    ) -> Session:
        """Connects, starting the agent where there is none; scans meanwhile.

        Raises what connecting raises, and RootGone.
        """
        workspace = workspace_of(project.root, is_local=target.is_local)
        progress = progress or Progress()
        scanner = make_scanner(project, workspace, progress)
        ahead = Ahead()
        scanning = asyncio.create_task(_first_scan(scanner, progress, ahead))
        try:
            # On the way to another machine somebody may be asked for a password.
            with progress.during("connect") if target.is_local else progress.held():
                connection = await Connection.open(target)
        except BaseException:
            scanning.cancel()
            raise
        finally:
            progress.installing(None)
        session = cls(project, workspace, connection, scanner, progress)
        session.pusher.follow(ahead)
        try:
            await session._ensure_image()
            session._note_scan(await scanning)
        except BaseException:
            scanning.cancel()
            await session.pusher.close()
            await connection.close()
            raise
        return session

    def _note_scan(self, scan: Scan) -> None:
        """The first one: its stat cache is written while the agent works."""
        self.last_scan = self._saved_scan = scan
        self._saving = asyncio.create_task(asyncio.to_thread(_save_quietly, self.scanner))

    @property
    def client(self) -> AgentClient:
        return self.connection.client

    @property
    def facts(self) -> HostFacts:
        return self.connection.facts

    def _new_pusher(self) -> Pusher:
        compress = not self.connection.target.is_local
        return Pusher(
            self.client,
            self.workspace,
            self.project.root,
            compress=compress,
            progress=self.progress,
            earlier=self.scanner.earlier,
        )

    async def close(self) -> None:
        self.scanner.abandon()
        await self.pusher.close()
        await self.connection.close()
        if self._saving is not None:
            await self._saving
        if self.last_scan is not self._saved_scan:
            await asyncio.to_thread(_save_quietly, self.scanner)

    async def reconnect(self) -> None:
        """After AgentGone. Raises what connecting raises."""
        await self.pusher.close()
        try:
            await self.connection.reconnect()
        finally:
            self.progress.installing(None)
        self.pusher = self._new_pusher()
        await self._ensure_image()

    async def _ensure_image(self) -> None:
        """The agent may be another one than before, or one that has lost it."""
        wanted = self.project.container
        if wanted is not None:
            with self.progress.during("image"):
                self._container = await ensured(
                    self.client, wanted, self.workspace, self.progress, self.project.command
                )

    def sort_out(self, ignore: tuple[str, ...], outputs: tuple[str, ...]) -> bool:
        """From the next scan of everything on, these stay out. Whether that is another choice."""
        new = self.project._replace(ignore=ignore, outputs=outputs)
        if new == self.project:
            return False
        self.project = new
        self.scanner.judge_by(Ignore(new.root, ignore=ignore, outputs=outputs))
        return True

    def placed(self, spec: RunSpec) -> RunSpec:
        """The same, to be run where the project's runs live."""
        return spec._replace(container=self._container)

    async def scan(self, changed_dirs: frozenset[bytes] | None = None) -> Scan:
        """Everything, or these directories. Raises RootGone."""
        if changed_dirs is not None and not self._scanning.locked():
            # A save: stats of one directory, cheaper than a thread's wake-up.
            with contextlib.suppress(TooMuch):
                self.last_scan = self.scanner.rescan(changed_dirs, limit_bytes=MAX_BYTES_ON_LOOP)
                return self.last_scan
        # Whoever stops waiting, the lock is held until the thread has ended: no two scans at once.
        return await asyncio.shield(self._scan_in_thread(changed_dirs))

    async def _scan_in_thread(self, changed_dirs: frozenset[bytes] | None) -> Scan:
        async with self._scanning:
            return await self._scan_now(changed_dirs)

    async def _scan_now(self, changed_dirs: frozenset[bytes] | None) -> Scan:
        with self.progress.during("scan"):
            if changed_dirs is None:
                self.last_scan = await asyncio.to_thread(self.scanner.scan)
            else:
                self.last_scan = await asyncio.to_thread(self.scanner.rescan, changed_dirs)
            return self.last_scan

    async def push(
        self,
        *,
        run: RunSpec | None = None,
        stop_runs: tuple[int, ...] = (),
        on_busy: OnBusy = OnBusy.FAIL,
        times: ScanTimes | None = None,
    ) -> Pushed:
        """The last scan's tree, scanned again where files change meanwhile.

        Raises NeverQuiet, and what calls raise.
        """
        for _ in range(MAX_RESCANS):
            scan = self.last_scan or await self.scan()
            # Who waits for other runs has been told so: that is no progress to show.
            waits = on_busy is OnBusy.WAIT
            try:
                with contextlib.nullcontext() if waits else self.progress.during("apply"):
                    return await self.pusher.push(
                        scan.tree,
                        run=run and self.placed(run),
                        stop_runs=stop_runs,
                        on_busy=on_busy,
                    )
            except SourcesChanged as error:
                began = time.perf_counter()
                last = error
                await self.scan(error.dirs)
                if times is not None:
                    times.scan_s += time.perf_counter() - began
        raise NeverQuiet(str(last))

    async def pull(self) -> PullResult:
        from .outputs import Pull, ledger_path  # with ctypes, which costs a start 10 ms

        ledger = ledger_path(self.workspace.id)
        outputs = self.project.outputs
        pull = Pull(self.client, self.workspace.id, self.project.root, outputs, ledger)
        return await pull.run()


async def ensured(
    client: AgentClient,
    container: Container,
    workspace: WorkspaceRef,
    progress: Progress,
    command: tuple[bytes, ...] = (),
) -> Container:
    """The container with the index of its image, once runs may name it."""
    image = await client.images().ensure(
        container.source, progress, workspace_id=workspace.id, command=command
    )
    return container._replace(index_digest=image.index_digest)


async def _first_scan(scanner: Scanner, progress: Progress, ahead: Ahead) -> Scan:
    with progress.during("scan"):
        try:
            return await asyncio.to_thread(_scan_ahead, scanner, ahead)
        except asyncio.CancelledError:
            scanner.abandon()  # or the thread would keep us from leaving
            raise


def make_scanner(
    project: Project, workspace: WorkspaceRef, progress: Progress | None = None
) -> Scanner:
    ignore = Ignore(project.root, ignore=project.ignore, outputs=project.outputs)
    cache = StatCache(dirs.cache_dir() / "stat" / workspace.id)
    return Scanner(project.root, ignore, cache, progress)


def _scan_ahead(scanner: Scanner, ahead: Ahead) -> Scan:
    try:
        return scanner.scan(ahead)
    finally:
        ahead.end()


def _save_quietly(scanner: Scanner) -> None:
    """The stat cache saves time only: a full disk must not spoil the exit."""
    try:
        scanner.save()
    except OSError:
        pass
