"""`unpack` for who is not root: `python -m devloop.cafs.mount.unpacking STORE INDEX FOLDER`.

A process of its own enters a user namespace, in which the image's users exist as far as this one
has ids for them (`namespace`). It prints nothing when all went well, else the error, as one JSON
object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from devloop.cafs.digest import Digest
from devloop.cafs.errors import DevloopError
from devloop.cafs.images import ImageStore

from .namespace import enter_private_namespace
from .unpack import unpack

__all__ = ["UnpackFailed", "unpack_within"]


class UnpackFailed(DevloopError):
    """An image could not be copied; the message says why."""


def unpack_within(store: Path, index: Digest, folder: Path) -> None:
    """Blocks for as long as it takes. Raises UnpackFailed."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(store), index.hex(), str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stdout:
        told = json.loads(done.stdout)
        raise UnpackFailed(told["message"], hint=told["hint"])
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        raise UnpackFailed(f"the image cannot be copied: {said or done.returncode}")


def main(store: str, index: str, folder: str) -> None:
    try:
        enter_private_namespace()
        target_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with ImageStore(Path(store)) as images:
            unpack(images.index(Digest.fromhex(index)), images.blobs, target_fd)
    except OSError as error:
        _report(f"the image cannot be copied: {error}", "")
    except DevloopError as error:
        _report(str(error), error.hint)


def _report(message: str, hint: str) -> None:
    sys.stdout.write(json.dumps({"message": message, "hint": hint}))


if __name__ == "__main__":
    main(*sys.argv[1:])
