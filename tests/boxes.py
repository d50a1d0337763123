"""A box of the test's own, reached by our SSH target: a real sshd, a real installation."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs.tree import empty_tree
from devloop.sync.model import RunSpec, WorkspaceRef
from devloop.sync.ssh.bridge import BridgeOptions
from devloop.sync.ssh.build import own_build
from devloop.sync.ssh.connect import SshOptions
from devloop.sync.ssh.target import SshTarget
from devloop.sync.upload import SmallBlob

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.sshd import Sshd

    from devloop.sync.client import AgentClient
    from devloop.sync.model import Run
    from devloop.sync.ssh.install import InstallProgress

__all__ = [
    "PYTHON",
    "add_old_build",
    "builds",
    "fail_to_reach",
    "is_alive",
    "reached",
    "share_wheels",
    "start_agent",
    "start_run",
    "target_of",
    "versions",
]

# The interpreter that a box is said to have: not the tests' environment, whose packages would do.
PYTHON = str(Path(sys.executable).resolve())
WORKSPACE = WorkspaceRef("p-1", "p")
SERVE = ("--idle-timeout", "120")


def target_of(
    box: Sshd,
    *,
    python: str = PYTHON,
    on_progress: Callable[[InstallProgress], None] = lambda _: None,
) -> SshTarget:
    return SshTarget(
        box.alias,
        SshOptions("openssh", box.config),
        bridge=BridgeOptions(python, SERVE),
        on_progress=on_progress,
    )


@contextlib.asynccontextmanager
async def reached(target: SshTarget, *, ends: bool = True) -> AsyncIterator[AgentClient]:
    """The agent, which is ended afterwards with all its runs. Raises what connecting raises."""
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(target.close)
        client, _ = await target.connect()
        stack.push_async_callback(client.close)
        yield client
        if ends:
            await client.shutdown(stop_runs=True)
            assert await target.wait_until_ended()


async def fail_to_reach(target: SshTarget) -> None:
    """Raises what connecting raises."""
    async with reached(target):
        pass


async def start_run(client: AgentClient, *words: bytes) -> Run:
    """In a workspace without files; it lives on without a client."""
    tree = empty_tree()
    node = SmallBlob(tree.digest, tree.encoded, zstd=False)
    done = await client.apply(WORKSPACE, tree.digest, blobs=[node], run=RunSpec(argv=words))
    assert done.run is not None, done
    return done.run


def versions(box: Sshd) -> Path:
    return box.home / ".local" / "share" / "devloop" / "versions"


def builds(box: Sshd) -> list[str]:
    """Everything that lies where versions are installed, but for the lock."""
    if not versions(box).exists():
        return []
    return sorted(entry.name for entry in versions(box).iterdir() if entry.name != ".lock")


def add_old_build(box: Sshd, name: str = "0.0.9-0123456789ab") -> Path:
    """A second installation, which is of another build by its name."""
    old = versions(box) / name
    shutil.copytree(versions(box) / own_build(), old, symlinks=True)
    (old / "build").write_text(f"{name}\n")
    return old


def start_agent(box: Sshd, installation: Path) -> None:
    """As a client of that build does, over SSH."""
    python, bridge = installation / "bin" / "python", installation / "bin" / "bridge.py"
    words = f"{python} -I -S {bridge} start {' '.join(SERVE)}"
    done = subprocess.run(
        [*box.ssh(), words], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
    )
    assert f"devloop-here bridge {installation.name}\n".encode() in done.stdout, done


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z")


def share_wheels(folder: Path, cache_dir: Path) -> None:
    """What one test has fetched, all have."""
    folder.mkdir(exist_ok=True)
    cache_dir.mkdir(parents=True, exist_ok=True)
    (cache_dir / "wheels").symlink_to(folder)
