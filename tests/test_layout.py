"""What holds for the whole tree: the namespace, and a laptop half that runs on a Mac."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAPTOP_HALF = ("cafs", "cli", "proto", "sync", "tui")
OF_THE_BOX = ("erofs", "fuse", "mount", "oci", "tiers")  # of cafs: an import contract holds them

# Takes away what macOS lacks, says that it is macOS, and imports the modules that are named.
IMPORT_AS_ON_A_MAC = """
import asyncio, fcntl, importlib, os, select, signal, socket, subprocess, sys
sys.platform = "darwin"
for module, names in {
    os: ["copy_file_range", "eventfd", "getxattr", "memfd_create", "pidfd_open", "pipe2", "splice",
         "sched_setaffinity", "posix_fallocate", "posix_fadvise", "listxattr", "setxattr"],
    select: ["epoll"],
    signal: ["pidfd_send_signal", "signalfd", "sigtimedwait"],
    fcntl: ["F_SETPIPE_SZ", "F_GETPIPE_SZ", "F_ADD_SEALS"],
    socket: ["SOCK_CLOEXEC", "SOCK_NONBLOCK", "AF_NETLINK", "SO_PEERCRED"],
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_no_portion_of_the_namespace_hides_the_others() -> None:
    assert not [*ROOT.glob("*/devloop/__init__.py")]


def test_the_laptop_half_imports_where_nothing_is_linux_only() -> None:
    modules = [
        ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
        for folder in LAPTOP_HALF
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py") and path.parent.name not in OF_THE_BOX
    ]
    assert len(modules) > 40
    command = [sys.executable, "-c", IMPORT_AS_ON_A_MAC, *modules]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
