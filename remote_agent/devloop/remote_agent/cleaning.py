"""Giving disk space back: what workspaces take, their removal, and blobs that nobody needs.

A workspace is renamed out of the way first and deleted then, so that one that a kill interrupts is
never half there: `workspaces/.removed-NAME-TIME` is deleted when the agent starts again. Knows
nothing of gRPC; who may be asked for consent is the client's business.

On disk, `origin` in a workspace's own directory: the project's path on the client's machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.errors import DevloopError
from devloop.cafs.gc import disk_bytes
from devloop.cafs.mount.namespace import may_mount
from devloop.cafs.mount.within import remove_trees

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from devloop.cafs.store import DiskStore

    from .agent import Agent, Project

__all__ = [
    "Cleaned",
    "Taken",
    "WorkspaceInUse",
    "WorkspaceUsage",
    "clean",
    "delete_removed",
    "measure",
    "note_origin",
    "read_origin",
    "store_bytes",
    "taken_by",
]

REMOVED = ".removed-"
ORIGIN = "origin"
_BLOCK_BYTES = 512  # the unit of st_blocks


class WorkspaceInUse(DevloopError):
    """A workspace cannot be removed now."""

    def __init__(self, project: Project) -> None:
        name, live = project.workspace.name, [run.number for run in project.runs.live()]
        if live:
            message = f"run {', '.join(map(str, live))} of {name} is live"
            hint = "`devloop stop` ends it"
        else:
            message, hint = f"a `devloop up` of {name} is open", "leave it, then try again"
        super().__init__(message, hint=hint)


class Taken(NamedTuple):
    """What a folder takes."""

    files: int
    size_bytes: int  # of disk space
    shared_bytes: int  # of these, in files that have other names elsewhere: in the store


class WorkspaceUsage(NamedTuple):
    """What the parts of a workspace take, and since when (Unix time) nothing has happened in it."""

    files: Taken
    aside: Taken  # what a sync found changed on the box, and kept
    runs: Taken  # their records and logs
    used_ns: int


class Cleaned(NamedTuple):
    freed_bytes: int  # in workspaces and in the store
    left: list[str]  # paths that could not be deleted


def measure(directory: Path) -> WorkspaceUsage:
    """Of a workspace's own directory. Looks at every file: for a thread."""
    return WorkspaceUsage(
        files=taken_by(directory / "files"),
        aside=taken_by(directory / "aside"),
        runs=taken_by(directory / "runs"),
        used_ns=max(map(_mtime_ns, (directory / "state.json", directory / "runs"))),
    )


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def taken_by(directory: Path) -> Taken:
    """Of several names of a file, one counts."""
    files = size_bytes = 0
    links: dict[tuple[int, int], tuple[int, int]] = {}  # names not met yet, and size
    for entry in _entries_below(os.fsencode(directory)):
        with contextlib.suppress(OSError):  # gone meanwhile
            found = entry.stat(follow_symlinks=False)
            is_directory = stat.S_ISDIR(found.st_mode)
            files += not is_directory
            if is_directory or found.st_nlink == 1:
                size_bytes += found.st_blocks * _BLOCK_BYTES
                continue
            inode = (found.st_dev, found.st_ino)
            unmet, _ = links.get(inode, (found.st_nlink, 0))
            links[inode] = (unmet - 1, found.st_blocks * _BLOCK_BYTES)
    size_bytes += sum(size for _, size in links.values())
    return Taken(files, size_bytes, sum(size for unmet, size in links.values() if unmet))


def _entries_below(directory: bytes) -> Iterator[os.DirEntry[bytes]]:
    waiting = [directory]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                entries = list(listing)
        except OSError:
            continue  # not there, or made unreadable by a run
        yield from entries
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def store_bytes(store: DiskStore) -> int:
    """What the blobs take on the disk."""
    return sum(disk_bytes(blob.size_bytes) for blob in store.stored())


def read_origin(directory: Path) -> bytes:
    """The project's path on the client's machine; empty when it is not known."""
    with contextlib.suppress(OSError):
        return (directory / ORIGIN).read_bytes()
    return b""


def note_origin(agent: Agent, project: Project, origin: bytes) -> None:
    """It names the workspace to its user only: a disk that does not take it spoils nothing."""
    if origin and origin != project.origin:
        project.origin = origin
        with contextlib.suppress(OSError):
            (agent.directory_of(project) / ORIGIN).write_bytes(origin)


async def clean(agent: Agent, projects: list[Project]) -> Cleaned:
    """Removes these workspaces with all that is in them, then every blob that no other one needs.

    Raises WorkspaceInUse, and changes nothing then, while one of them has a live run or is followed
    by an `up`. A client that is uploading sends again what it had not yet named by a tree.
    """
    before = await asyncio.to_thread(store_bytes, agent.store)
    removed = await _set_aside(agent, projects)
    taken = [await asyncio.to_thread(taken_by, directory) for directory in removed]
    left = [path for d in removed for path in await asyncio.to_thread(delete_tree, d)]
    async with contextlib.AsyncExitStack() as locks:
        for project in agent.projects():  # no transition may be about to need what goes
            await locks.enter_async_context(project.lock)
        await asyncio.to_thread(agent.collect, 0, grace_s=0.0)
    after = await asyncio.to_thread(store_bytes, agent.store)
    freed_bytes = sum(t.size_bytes - t.shared_bytes for t in taken)
    return Cleaned(freed_bytes + max(before - after, 0), left)


async def _set_aside(agent: Agent, projects: list[Project]) -> list[Path]:
    async with contextlib.AsyncExitStack() as locks:
        for project in projects:
            await locks.enter_async_context(project.lock)
        for project in projects:
            if project.runs.live() or project.followers:
                raise WorkspaceInUse(project)
        for project in projects:  # a warm container would show the folder that goes
            await agent.spawner.cool(project.workspace.files)
        return [_rename_away(agent.forget(project)) for project in projects]


def _rename_away(directory: Path) -> Path:
    return directory.rename(directory.with_name(f"{REMOVED}{directory.name}-{time.time_ns()}"))


def delete_removed(workspaces_dir: Path) -> None:
    """What a killed agent had not deleted yet. What cannot be deleted stays."""
    for directory in workspaces_dir.glob(f"{REMOVED}*"):
        delete_tree(directory)


def delete_tree(directory: Path) -> list[str]:
    """Returns what could not be deleted, each with its reason. Follows no link."""
    left: list[str] = []

    def note(_: object, path: str, info: tuple[object, BaseException, object]) -> None:
        error = info[1]
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            left.append(f"{path}: {error.strerror}")

    _open_folders(os.fsencode(directory))
    shutil.rmtree(directory, onerror=note)
    if left and not may_mount():
        remove_trees([directory])  # a container's users may own files there
    return left if directory.exists() else []


def _open_folders(directory: bytes) -> None:
    """A run may have taken away the right to list a folder of its own, or to change it."""
    waiting = [directory]
    while waiting:
        folder = waiting.pop()
        with contextlib.suppress(OSError):  # another user's: its deletion says so
            if os.lstat(folder).st_mode & 0o700 != 0o700:
                os.chmod(folder, 0o700)
            with os.scandir(folder) as listing:
                waiting += [entry.path for entry in listing if entry.is_dir(follow_symlinks=False)]
