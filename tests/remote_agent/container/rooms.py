"""Real containers for tests: a small root over the box's own /usr, and a Spawner with both."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.remote_agent.spawning import Workshop

from devloop.remote_agent.container.pool import Containers
from devloop.remote_agent.container.spec import ContainerSpec, ExtraMount, FolderRoot, ImageConfig
from devloop.remote_agent.spawn import Spawner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from devloop.remote_agent.container.runtime import Kind
    from devloop.remote_agent.spawn import StartRequest

KINDS: tuple[Kind, ...] = ("crun", "runc")


def skip_unless_possible(kind: Kind) -> None:
    """For root, and for others by user namespaces."""
    if os.geteuid() != 0 and not _has_namespaces():
        pytest.skip("needs a user namespace")
    if shutil.which(kind, path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(f"needs {kind}")
    if "overlay" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs overlayfs")


def _has_namespaces() -> bool:
    argv = ["unshare", "--user", "--map-root-user", "true"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def make_root(folder: Path) -> Path:
    """What Debian has at its top, but for /usr, which is mounted."""
    folder.mkdir()
    for name in ("usr", "etc", "tmp", "root"):
        (folder / name).mkdir()
    for name in ("bin", "lib", "lib64", "sbin"):
        (folder / name).symlink_to(f"usr/{name}")
    (folder / "tmp").chmod(0o1777)
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nann:x:1234:56::/h/ann:\n")
    (folder / "etc/group").write_text("ann:x:56:\naudio:x:29:ann\n")
    return folder


@dataclass(slots=True)
class Room(Workshop):
    """A workshop whose runs are in a container."""

    spec: ContainerSpec = None  # type: ignore[assignment] # a field after ones with defaults
    containers: Containers = None  # type: ignore[assignment]

    @classmethod
    def enter(cls, folder: Path, kind: Kind, **changes: Any) -> Room:
        workspace = folder / "workspace"
        workspace.mkdir()
        runner = asyncio.Runner()
        containers = Containers(folder / "containers", kinds=(kind,))

        async def started() -> Spawner:
            spawner = Spawner(folder / "state", containers=containers)
            await spawner.start_service()
            return spawner

        usr = ExtraMount(Path("/usr"), "/usr", read_only=True)
        root = changes.pop("root", None) or FolderRoot(make_root(folder / "root"))
        spec = replace(ContainerSpec(root, ImageConfig(), workspace, mounts=(usr,)), **changes)
        room = cls(workspace, runner.run(started()), runner)
        room.spec, room.containers = spec, containers
        return room

    def close(self) -> None:
        self.runner.run(self.containers.close())
        Workshop.close(self)

    @property
    def container(self) -> ContainerSpec:
        return self.spec

    def request(self, argv: Sequence[str | bytes], stdio: Sequence[int], **options: Any) -> Any:
        request: StartRequest = Workshop.request(self, argv, stdio, **options)
        return replace(request, container=self.spec)

    @property
    def folders(self) -> list[Path]:
        """Of living containers."""
        return list((self.containers._folder / "live").glob("*"))

    def until(self, reached: Callable[[], bool], timeout_s: float = 10.0) -> None:
        async def wait() -> None:
            async with asyncio.timeout(timeout_s):
                while not reached():
                    await asyncio.sleep(0.01)

        self.runner.run(wait())


def processes_of(pause_pid: int) -> list[int]:
    """Everything that lives in the pid namespace of that process."""
    wanted = os.readlink(f"/proc/{pause_pid}/ns/pid")
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _ns(p) == wanted]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _ns(process: Path) -> str:
    try:
        return os.readlink(process / "ns/pid")
    except OSError:
        return ""
