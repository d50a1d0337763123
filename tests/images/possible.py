"""Which machine can start containers of images: tests elsewhere are skipped, with what it lacks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from devloop.cafs.errors import DevloopError
from devloop.cafs.fuse.check import check_fuse

__all__ = ["skip_unless_containers", "skip_unless_lazy_containers"]


def skip_unless_containers() -> None:
    """As root, since what is asked of them may need it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if "overlay" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs overlayfs")
    if shutil.which("crun", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("needs crun")


def skip_unless_lazy_containers() -> None:
    """With files that come when they are touched."""
    skip_unless_containers()
    try:
        check_fuse()
    except DevloopError:
        pytest.skip("needs FUSE")
