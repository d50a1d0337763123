"""An image's root, mounted. Linux only.

Knows indexes, blobs and the kernel's mounts; refuses to know containers and who fetches blobs.
"""

from __future__ import annotations

from .namespace import enter_private_namespace
from .probe import MountLevel, probe
from .root import LevelName, MountFailed, mount_root
from .targets import TargetRefused, bind_mount, open_in_root
from .unpack import unpack

__all__ = [
    "LevelName",
    "MountFailed",
    "MountLevel",
    "TargetRefused",
    "bind_mount",
    "enter_private_namespace",
    "mount_root",
    "open_in_root",
    "probe",
    "unpack",
]
