"""Commands that need root's rights over what this user's containers wrote, or mounts.

`python -m devloop.cafs.mount.within COMMAND…` runs it in namespaces like those of a container
(`namespace`). Knows nothing of what is run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from .namespace import enter_private_namespace, may_mount

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["command_within", "remove_trees"]

_REMOVAL_TIMEOUT_S = 600.0


def command_within(argv: Sequence[str]) -> list[str]:
    """`argv`, for who has these rights already."""
    return [*argv] if may_mount() else [sys.executable, "-m", __name__, *argv]


def remove_trees(folders: Sequence[Path]) -> None:
    """With all that containers wrote there: files of other users, nested deeper than Python goes.
    What cannot be removed stays."""
    if folders:
        argv = ["rm", "-rf", "--one-file-system", "--", *map(str, folders)]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                command_within(argv), check=False, capture_output=True, timeout=_REMOVAL_TIMEOUT_S
            )


def main() -> None:
    try:
        enter_private_namespace()
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(error.strerror or str(error))


if __name__ == "__main__":
    main()
