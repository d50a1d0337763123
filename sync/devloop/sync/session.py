"""One project on one target: scans, pushes, runs. The only owner of the connection.

`Session` is what one-shot verbs use; `loop.py` builds `up` on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs import dirs
from devloop.cafs.digest import digest_of
from devloop.cafs.errors import DevloopError

from . import local
from .ignore import Ignore
from .model import OnBusy, WorkspaceRef
from .push import Pusher, SourcesChanged
from .scan import Scanner, TooMuch
from .statcache import StatCache

if TYPE_CHECKING:
    from pathlib import Path

    from .client import AgentClient
    from .model import HostFacts, RunSpec
    from .outputs import PullResult
    from .push import Pushed
    from .scan import Scan

__all__ = ["NeverQuiet", "Project", "ScanTimes", "Session", "workspace_of"]

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


class ScanTimes:
    """How long the scans of one push took, in seconds."""

    def __init__(self) -> None:
        self.scan_s = 0.0


def workspace_of(root: Path) -> WorkspaceRef:
    """The workspace of a project of this user on this machine."""
    name = root.name or "root"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "project"
    owner = f"{socket.gethostname()}\0{os.getuid()}\0".encode()
    tag = digest_of(owner + os.fsencode(root)).hex()[:8]
    return WorkspaceRef(f"{slug}-{tag}", name, os.fsencode(root))


class Session:
    """Use `open`; close it. One operation at a time."""

    def __init__(
        self,
        project: Project,
        workspace: WorkspaceRef,
        client: AgentClient,
        facts: HostFacts,
        scanner: Scanner,
    ) -> None:
        self.project = project
        self.workspace = workspace
        self.client = client
        self.facts = facts
        self.scanner = scanner
        self.pusher = Pusher(client, workspace, project.root, compress=False)
        # Names this session's runs among those of the workspace.
        self.owner = os.urandom(16).hex()
        self.last_scan: Scan | None = None
        self._scanning = asyncio.Lock()

    @classmethod
    async def open(cls, project: Project, *, idle_timeout_s: float) -> Session:
        """Connects, starting the agent where it is the embedded one; scans meanwhile.

        Raises what connecting raises, and RootGone.
        """
        workspace = workspace_of(project.root)
        scanner = make_scanner(project, workspace)
        scanning = asyncio.create_task(asyncio.to_thread(scanner.scan))
        try:
            client, facts = await local.connect(idle_timeout_s)
        except BaseException:
            scanning.cancel()
            raise
        session = cls(project, workspace, client, facts, scanner)
        try:
            session.last_scan = await scanning
        except BaseException:
            await client.close()
            raise
        return session

    async def close(self) -> None:
        await self.client.close()
        await asyncio.to_thread(_save_quietly, self.scanner)

    async def reconnect(self, *, idle_timeout_s: float) -> None:
        """After AgentGone. Raises what connecting raises."""
        await self.client.close()
        self.client, self.facts = await local.connect(idle_timeout_s)
        self.pusher = Pusher(self.client, self.workspace, self.project.root, compress=False)

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
            if changed_dirs is None:
                self.last_scan = await asyncio.to_thread(self.scanner.scan)
            else:
                self.last_scan = await asyncio.to_thread(self.scanner.rescan, changed_dirs)
            return self.last_scan

    async def agent_was_ended(self) -> bool:
        """After AgentGone: whether it ended in good order, as `devloop down` has it end.

        A killed agent leaves its socket.
        """
        if dirs.socket_path().exists():
            return False
        await local.wait_until_ended()
        return not dirs.socket_path().exists()

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
            try:
                return await self.pusher.push(
                    scan.tree, run=run, stop_runs=stop_runs, on_busy=on_busy
                )
            except SourcesChanged as error:
                began = time.perf_counter()
                last = error
                await self.scan(error.dirs)
                if times is not None:
                    times.scan_s += time.perf_counter() - began
        raise NeverQuiet(str(last))

    async def pull(self) -> PullResult:
        from .outputs import Pull  # with ctypes, which costs a start 10 ms

        ledger = dirs.cache_dir() / "pulled" / f"{self.workspace.id}.json"
        outputs = self.project.outputs
        pull = Pull(self.client, self.workspace.id, self.project.root, outputs, ledger)
        return await pull.run()


def make_scanner(project: Project, workspace: WorkspaceRef) -> Scanner:
    ignore = Ignore(project.root, ignore=project.ignore, outputs=project.outputs)
    cache = StatCache(dirs.cache_dir() / "stat" / workspace.id)
    return Scanner(project.root, ignore, cache)


def _save_quietly(scanner: Scanner) -> None:
    """The stat cache saves time only: a full disk must not spoil the exit."""
    try:
        scanner.save()
    except OSError:
        pass
