"""One way to mount an image, tried for real: `python -m devloop.cafs.mount.tries LEVEL FOLDER`.

The image has one file. The process has a mount namespace of its own, so that nothing of it is left
when it ends; `FOLDER` is empty, on the disk that images are kept on, and removed by whoever starts
it. It prints nothing when the way works, else what was said against it, as one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs.digest import digest_of
from devloop.cafs.erofs import blob_path, write_metadata
from devloop.cafs.errors import DevloopError
from devloop.cafs.fuse.check import check_fuse
from devloop.cafs.index import Index, Inode

from .kernel import unmount
from .namespace import enter_private_namespace
from .root import MountFailed, mount_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .root import LevelName

__all__ = ["main"]

_BYTES = b"an image can be mounted here\n"
_NAME = "file"
_INDEX = Index(
    b"{}",
    "sha256:" + "0" * 64,
    (),
    (
        Inode("dir", 0o755, 0, 0, 0),
        Inode("file", 0o644, 0, 0, 1, size_bytes=len(_BYTES), digest=digest_of(_BYTES)),
    ),
    ((b"", 0), (_NAME.encode(), 1)),
)


class _Wrong(DevloopError):
    """It could be mounted, but shows something else."""


class _Folder:
    """A tiny image store, and folders to mount at."""

    def __init__(self, path: Path) -> None:
        self.images = path / "images"
        self.blobs = self.images / "blobs"
        self.metadata = path / "image.erofs"
        self.view = path / "view"
        self.copy = path / "copy"
        self.upper = path / "upper"
        self.work = path / "work"
        self.target = path / "root"
        for folder in (self.view, self.copy, self.upper, self.work, self.target):
            folder.mkdir()

    def store(self) -> str:
        """The digest of the index."""
        blob = Path(f"{self.blobs}{blob_path(digest_of(_BYTES)).decode()}")
        encoded = _INDEX.encode()
        index = self.images / "indexes" / digest_of(encoded).hex()
        for path, data in ((blob, _BYTES), (index, encoded)):
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
        return index.name


def main(level: str, folder: str) -> None:
    try:
        enter_private_namespace()
        _TRIES[level](_Folder(Path(folder)))
    except MountFailed as error:
        _report(error.reason, error.errno)
    except OSError as error:
        _report(error.strerror or str(error), error.errno)
    except DevloopError as error:
        _report(str(error), 0, error.hint)


def _report(reason: str, number: int | None, hint: str = "") -> None:
    sys.stdout.write(json.dumps({"reason": reason, "errno": number or 0, "hint": hint}))


def _try_erofs(folder: _Folder) -> None:
    folder.store()
    with folder.metadata.open("wb") as file:
        write_metadata(_INDEX, file)
    _try_metadata("erofs+overlay", folder.metadata, folder)


def _try_tmpfs(folder: _Folder) -> None:
    index = folder.images / "indexes" / folder.store()
    _try_metadata("tmpfs+overlay", index, folder)


def _try_metadata(level: LevelName, metadata: Path, folder: _Folder) -> None:
    for upper, work in ((None, None), (folder.upper, folder.work)):
        mount_root(level, metadata, folder.blobs, None, upper, work, folder.target)
        _use(folder.target, writable=upper is not None)


def _try_fuse(folder: _Folder) -> None:
    check_fuse()
    with _tree_view(folder):
        for upper, work in ((None, None), (folder.upper, folder.work)):
            mount_root(*("fuse+overlay", None, None, folder.view, upper, work, folder.target))
            _use(folder.target, writable=upper is not None)


def _try_copy(folder: _Folder) -> None:
    path = folder.copy / _NAME
    path.write_bytes(_BYTES)
    os.utime(path, ns=(1, 1))
    mount_root("unpacked", None, None, folder.copy, None, None, folder.target)
    _use(folder.target, writable=False)


def _use(target: Path, *, writable: bool) -> None:
    path = target / _NAME
    if path.read_bytes() != _BYTES or path.stat().st_mtime_ns != 1:
        raise _Wrong("the mounted image shows other files than it should")
    if writable:
        path.write_bytes(b"changed")
        path.rename(target / "renamed")
    unmount(str(target))


@contextlib.contextmanager
def _tree_view(folder: _Folder) -> Iterator[None]:
    """The FUSE server, in the mode that shows the whole tree."""
    request = {"mode": "tree", "mountpoint": str(folder.view), "store": str(folder.images)}
    server = subprocess.Popen(
        [sys.executable, "-m", "devloop.cafs.fuse"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with server:
        try:
            assert server.stdin is not None
            server.stdin.write(json.dumps({**request, "index": folder.store(), "tiers": []}) + "\n")
            server.stdin.flush()
            _await_ready(server)
            yield
        finally:
            server.kill()


def _await_ready(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    assert server.stderr is not None
    for line in server.stdout:
        if line.strip() == "ready":
            return
    said = server.stderr.read().strip().splitlines() or ["the FUSE server ended"]
    raise _Wrong(said[-1])


_TRIES: dict[str, Callable[[_Folder], None]] = {
    "erofs+overlay": _try_erofs,
    "tmpfs+overlay": _try_tmpfs,
    "fuse+overlay": _try_fuse,
    "unpacked": _try_copy,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
