"""Whether this box can serve files through FUSE. Imports nothing that it may lack."""

from __future__ import annotations

import os
from importlib.util import find_spec

from devloop.cafs.errors import DevloopError

__all__ = ["FuseMissing", "check_fuse"]


class FuseMissing(DevloopError):
    """This box cannot serve files through FUSE."""

    hint = (
        "apt-get install fuse3 libfuse3-dev pkg-config gcc, and `pip install pyfuse3 trio` where "
        "devloop is installed; or `devloop image pull` whole images, which need no FUSE"
    )


def check_fuse() -> None:
    """Raises FuseMissing."""
    for module in ("pyfuse3", "trio"):
        if find_spec(module) is None:
            raise FuseMissing(f"{module} is not installed")
    if not os.path.exists("/dev/fuse"):
        raise FuseMissing("there is no /dev/fuse", hint="as root: modprobe fuse")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise FuseMissing(
            "/dev/fuse is closed to the agent's user", hint="as root: chmod 666 /dev/fuse"
        )
