"""Which program starts containers on this box.

Owns the choice: crun, else runc, from wherever distributions put them. Whether it really works is
found out by starting one (`check`). Knows nothing of images.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import Literal, TypeAlias

from devloop.cafs.errors import DevloopError

__all__ = ["Kind", "NoRuntime", "Runtime", "find_runtime"]

Kind: TypeAlias = Literal["crun", "runc"]
KINDS: tuple[Kind, ...] = ("crun", "runc")

_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class NoRuntime(DevloopError):
    """The box has no program that starts containers."""

    hint = 'install crun on the box (`apt install crun`), or use `image = "host"`'


@dataclass(frozen=True, slots=True)
class Runtime:
    kind: Kind
    path: str


def find_runtime(kinds: tuple[Kind, ...] = KINDS) -> Runtime:
    """The first of `kinds` that is installed. Raises NoRuntime."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_FOLDERS))
    for kind in kinds:
        found = shutil.which(kind, path=path)
        if found is not None:
            return Runtime(kind, found)
    raise NoRuntime("neither crun nor runc is installed on the box")
