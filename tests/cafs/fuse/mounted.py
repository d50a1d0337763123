"""A FUSE server under test, in a mount namespace of its own: nothing leaks onto this machine."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from devloop.cafs.fuse.request import Mode, Request
from devloop.cafs.images import ImageStore
from devloop.cafs.index import Index

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from devloop.cafs.digest import Digest

__all__ = [
    "Mounted",
    "Namespace",
    "mounted",
    "needs_fuse",
    "private_namespace",
    "store_of",
    "wait_for",
]

PATIENCE_S = 20.0


def needs_fuse() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not Path("/dev/fuse").exists():
        pytest.skip("needs FUSE")


def wait_for(condition: Any, what: str = "the condition") -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.01)
    return found


def store_of(root: Path, index: Index, blobs: Mapping[Digest, bytes]) -> Path:
    """An images folder that has the index and these blobs."""
    with ImageStore(root) as store:
        for digest, data in blobs.items():
            store.blobs.put(digest, data)
        store.add_lazy(index)
    return root


class Namespace:
    """A mount namespace that lives until this is closed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def seen(self, path: Path) -> Path:
        """`path` as it is in there."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def argv(self, *argv: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", *argv]

    def mounts(self) -> list[str]:
        """Its FUSE mounts."""
        lines = Path(f"/proc/{self.process.pid}/mountinfo").read_text().splitlines()
        return [line for line in lines if " fuse." in line]


@contextlib.contextmanager
def private_namespace() -> Iterator[Namespace]:
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo in; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == b"in\n"
        yield Namespace(process)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(PATIENCE_S)


class Mounted:
    def __init__(
        self, process: subprocess.Popen[bytes], namespace: Namespace, mountpoint: Path
    ) -> None:
        self.process = process
        self.namespace = namespace
        self.mountpoint = mountpoint
        self.events: list[dict[str, Any]] = []
        self._rest = b""

    @property
    def root(self) -> Path:
        return self.namespace.seen(self.mountpoint)

    def path_of(self, digest: Digest) -> Path:
        """In the view of blobs."""
        return self.root / digest.hex()[:2] / digest.hex()[2:]

    def read_events(self) -> list[dict[str, Any]]:
        """All that were said up to now."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while select.select([fd], [], [], 0)[0]:
            data = os.read(fd, 1 << 16)
            if not data:
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.events += [json.loads(line) for line in lines if line != b"ready"]
        return self.events

    def event(self, name: str, **fields: object) -> dict[str, Any]:
        """Waits for such an event."""
        return wait_for(lambda: self.find(name, **fields), f"the event {name} {fields}")

    def find(self, name: str, **fields: object) -> dict[str, Any] | None:
        for event in self.read_events():
            if event["event"] == name and fields.items() <= event.items():
                return event
        return None

    def end(self) -> int:
        """As when its starter dies. Idempotent."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def mounted(
    folder: Path,
    store: Path,
    index: Digest,
    *,
    mode: Mode = "blobs",
    tiers: Sequence[str] = (),
    deadline_s: float = 5.0,
    namespace: Namespace | None = None,
    wrapper: Sequence[str] = (),
    environ: Mapping[str, str] = {},
    program: Sequence[str] = ("-m", "devloop.cafs.fuse"),
    profile: str = "",
    before: Sequence[bytes] = (),
) -> Iterator[Mounted]:
    """`before`: what the server is told ahead of its request."""
    with contextlib.ExitStack() as stack:
        namespace = namespace or stack.enter_context(private_namespace())
        mountpoint = folder / "mnt"
        mountpoint.mkdir(exist_ok=True)
        with (folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [*namespace.argv(*wrapper, sys.executable, *program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environ},
            )
        assert process.stdin is not None
        assert process.stdout is not None
        server = Mounted(process, namespace, mountpoint)
        try:
            request = Request(mode, mountpoint, store, index, tuple(tiers), deadline_s, profile)
            process.stdin.write(b"".join([*before, request.encode()]))
            process.stdin.flush()
            said = _first_line(process)
            assert said == b"ready\n", (said, (folder / "server.log").read_text())
            yield server
        finally:
            if process.poll() is None:
                process.stdin.close()
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise
            process.stdin.close()
            process.stdout.close()


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """Byte by byte: the events after it are read from the descriptor."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(process.stdout.fileno(), 1)):
        line += byte
    return line
