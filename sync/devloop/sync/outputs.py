"""Pulling outputs: files that runs made on the box come back into the project.

Only paths under the configured patterns are written, whatever the agent says, and never through a
symbolic link. A local file is replaced only when it is one that an earlier pull wrote and nobody
touched since; any other is kept, and named. An interrupted download is taken up where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import stat
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, TypeAlias

from devloop.cafs import dirs
from devloop.cafs.beneath import Root
from devloop.cafs.digest import Hasher
from devloop.cafs.errors import DevloopError
from devloop.cafs.patterns import Patterns

from .agent_errors import RemoteError
from .ignore import TEMP_PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from .client import AgentClient
    from .model import Output

__all__ = [
    "OutputNotWritten",
    "OutputRefused",
    "Pull",
    "PullResult",
    "ledger_path",
    "never_pulled",
]

READ_BYTES = 1 << 20
LOCK_RETRY_S = 0.02
# O_NONBLOCK: a FIFO of that name must not make us wait for its other end.
PART_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_Look: TypeAlias = tuple[int, int]  # size and mtime in ns


class OutputRefused(DevloopError):
    """The agent offered a file that the configuration does not ask for."""

    hint = "the agent is broken or hostile: nothing was written"


class OutputNotWritten(DevloopError):
    """An output could not be written into the project."""

    hint = "free space or fix the permissions there, then `devloop pull`"


@dataclass(slots=True)
class PullResult:
    files: int = 0
    size_bytes: int = 0
    kept: list[bytes] = field(default_factory=list)  # local files that differ, and were left alone
    unfinished: list[bytes] = field(default_factory=list)  # still being written on the box

    def keep(self, path: bytes) -> None:
        """A link that many outputs lie below is named once."""
        if path not in self.kept[-1:]:
            self.kept.append(path)


class Pull:
    """Pulls the outputs of one workspace into one project."""

    def __init__(
        self,
        client: AgentClient,
        workspace_id: str,
        root: Path,
        patterns: tuple[str, ...],
        ledger: Path,
    ) -> None:
        """`ledger` is a file that remembers, between sessions, what was pulled."""
        self._client = client
        self._workspace_id = workspace_id
        self._root_path = root
        self._patterns = patterns
        self._ledger_path = ledger
        self._ledger: dict[str, _Look] = {}

    async def run(self) -> PullResult:
        """Raises OutputRefused, and what the agent's calls raise."""
        result = PullResult()
        if not self._patterns:
            return result
        # Another pull would take what this one has written, and not noted yet, for the user's.
        async with _locked(self._ledger_path.with_suffix(".lock")):
            await self._pull_all(result)
        return result

    async def _pull_all(self, result: PullResult) -> None:
        remembered = _read_ledger(self._ledger_path)
        self._ledger = dict(remembered)
        offered = await self._client.list_outputs(self._workspace_id, self._patterns)
        wanted = Patterns(list(self._patterns))
        for output in offered:
            if not _is_wanted(wanted, output.path):
                raise OutputRefused(f"the agent offered {os.fsdecode(output.path)}")
        try:
            with Root(self._root_path) as root:
                for output in offered:
                    await self._pull_one(root, output, result)
        finally:
            if self._ledger != remembered:
                self._write_ledger()

    async def _pull_one(self, root: Root, output: Output, result: PullResult) -> None:
        if (link := _link_above(root, output.path)) is not None:
            result.keep(link)
            return
        here = _look(root, output.path)
        if here == (output.size_bytes, output.mtime_ns):
            self._ledger[_key(output.path)] = here
            return
        if here is not None and self._ledger.get(_key(output.path)) != here:
            result.kept.append(output.path)
            return
        try:
            if not await self._download(root, output, here):
                result.kept.append(output.path)
                return
        except NotADirectoryError:
            result.kept.append(output.path)  # a link or a file of the user's is in its way
            return
        except OSError as error:
            words = f"cannot write {os.fsdecode(output.path)}: {error.strerror}"
            raise OutputNotWritten(words) from error
        except RemoteError as error:
            if error.kind != "OutputChanged":
                raise
            result.unfinished.append(output.path)
            return
        self._ledger[_key(output.path)] = (output.size_bytes, output.mtime_ns)
        result.files += 1
        result.size_bytes += output.size_bytes

    async def _download(self, root: Root, output: Output, replaced: _Look | None) -> bool:
        """False when somebody has changed the local file since `replaced` was seen there."""
        directory_fd, name = root.parent(output.path, create=True)
        # The name ties the part to one version of the file.
        version = b"%x-%x" % (output.size_bytes, output.mtime_ns)
        part = os.fsencode(TEMP_PREFIX) + version + b"-" + name[:180]
        if not await self._fetch(directory_fd, part, output):
            os.unlink(part, dir_fd=directory_fd)
            if not await self._fetch(directory_fd, part, output):
                os.unlink(part, dir_fd=directory_fd)
                raise OutputRefused(f"{os.fsdecode(output.path)} was damaged on its way")
        if _look(root, output.path) != replaced:
            os.unlink(part, dir_fd=root.parent(output.path)[0])
            return False
        root.replace(output.path.rpartition(name)[0] + part, output.path)
        return True

    async def _fetch(self, directory_fd: int, part: bytes, output: Output) -> bool:
        """Completes the part. False when it is not the file then: what was there was damaged."""
        fd = os.open(part, PART_FLAGS, 0o600, dir_fd=directory_fd)
        with os.fdopen(fd, "r+b") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return False
            hasher, digest = Hasher(), b""
            while data := file.read(READ_BYTES):
                hasher.update(data)
            offset = file.tell()
            if offset > output.size_bytes:
                return False
            pieces = self._client.read_output(self._workspace_id, output, offset)
            async with contextlib.aclosing(pieces):
                async for data, stated in pieces:
                    hasher.update(data)
                    file.write(data)
                    digest = stated
                    if file.tell() > output.size_bytes:
                        return False
            file.flush()
            if hasher.digest() != digest:
                return False
            os.fchmod(fd, (output.mode & 0o777) | 0o600)
            os.utime(fd, ns=(output.mtime_ns, output.mtime_ns))
        return True

    def _write_ledger(self) -> None:
        """Where it cannot be written, the next pull keeps these files instead of replacing them."""
        temporary = self._ledger_path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            self._ledger_path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._ledger))
            temporary.replace(self._ledger_path)


def _is_wanted(patterns: Patterns, path: bytes) -> bool:
    """Does the path itself, or a directory above it, match?"""
    parts = path.split(b"/")
    # Some laptops' file systems do not tell .GIT from .git.
    if any(part.lower() in (b"", b".", b"..", b".git") for part in parts):
        return False
    above = (b"/".join(parts[:depth]) for depth in range(1, len(parts)))
    return patterns.match(path, False) or any(patterns.match(dir_, True) for dir_ in above)


def _link_above(root: Root, path: bytes) -> bytes | None:
    """The first component above `path` that is a link or a file of the user's."""
    slash = path.find(b"/")
    while slash != -1:
        found = root.lstat(path[:slash])
        if found is None:
            return None
        if not stat.S_ISDIR(found.st_mode):
            return path[:slash]
        slash = path.find(b"/", slash + 1)
    return None


@contextlib.asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """One pull at a time, whatever the process; without a lock where none can be made."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("wb"))
            # A thread that waits in flock could not be cancelled.
            while not _try_lock(file):  # noqa: ASYNC110
                await asyncio.sleep(LOCK_RETRY_S)
        yield


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _look(root: Root, path: bytes) -> _Look | None:
    found = root.lstat(path)
    return (found.st_size, found.st_mtime_ns) if found is not None else None


def _key(path: bytes) -> str:
    return os.fsdecode(path)


def ledger_path(workspace_id: str) -> Path:
    """Where it is remembered what was pulled from that workspace."""
    return dirs.cache_dir() / "pulled" / f"{workspace_id}.json"


def never_pulled(workspace_id: str, outputs: Iterable[Output]) -> list[Output]:
    """Those of which no pull has brought this version."""
    pulled = _read_ledger(ledger_path(workspace_id))
    return [o for o in outputs if pulled.get(_key(o.path)) != (o.size_bytes, o.mtime_ns)]


def _read_ledger(path: Path) -> dict[str, tuple[int, int]]:
    try:
        return {key: (size, mtime) for key, (size, mtime) in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
