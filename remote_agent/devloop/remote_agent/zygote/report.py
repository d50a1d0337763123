"""What a run imported, told by the program's process to its init without a descriptor or thread.

The page of memory is shared before the fork. A program that ends normally, by sys.exit, by an
exception or by SIGINT writes the modules' names at its very end. For one that ends otherwise,
init looks which extension modules are mapped, and names their packages.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
from typing import Any, FrozenSet, List, Optional

PAGE_BYTES = 256 << 10
_LENGTH = struct.Struct("<I")

# Their import reads the terminal, opens a browser or prints.
_NEVER = frozenset(
    [
        "__main__",
        "__mp_main__",
        "antigravity",
        "curses",
        "idlelib",
        "pdb",
        "readline",
        "rlcompleter",
        "site",
        "sitecustomize",
        "this",
        "turtle",
        "usercustomize",
    ]
)


class Page:
    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, PAGE_BYTES)

    def write(self, names: List[str]) -> None:
        data = json.dumps(names).encode("ascii")
        if len(data) <= PAGE_BYTES - _LENGTH.size:
            self._memory[_LENGTH.size : _LENGTH.size + len(data)] = data
            self._memory[: _LENGTH.size] = _LENGTH.pack(len(data))

    def read(self) -> Optional[List[str]]:
        (size,) = _LENGTH.unpack(self._memory[: _LENGTH.size])
        if not 0 < size <= PAGE_BYTES - _LENGTH.size:
            return None
        try:
            names = json.loads(self._memory[_LENGTH.size : _LENGTH.size + size].decode("ascii"))
        except ValueError:
            return None
        return [name for name in names if isinstance(name, str)]

    def close(self) -> None:
        self._memory.close()


def installed_modules(known: FrozenSet[str]) -> List[str]:
    """Modules from site-packages and the standard library, in the order of their import."""
    roots = installed_roots()
    return [
        name
        for name, module in list(sys.modules.items())
        if name not in known
        and name.partition(".")[0] not in _NEVER
        and _is_installed(module, name, roots)
    ]


def installed_roots() -> List[str]:
    site_dirs = [path for path in sys.path if is_site_dir(path)]
    return [path + os.sep for path in (*site_dirs, os.path.dirname(os.__file__))]


def is_site_dir(path: str) -> bool:
    return os.path.basename(path) in ("site-packages", "dist-packages")


def mapped_packages(pid: int) -> List[str]:
    """Top-level packages of site-packages of which `pid` has mapped an extension module."""
    try:
        with open("/proc/%d/maps" % pid, errors="surrogateescape") as file:  # noqa: PTH123
            paths = [line.split(None, 5)[5].strip() for line in file if ".so" in line]
    except (OSError, IndexError):
        return []
    tops = [_package_of(path) for path in paths]
    return list(dict.fromkeys(top for top in tops if top))


def _is_installed(module: Any, name: str, roots: List[str]) -> bool:
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None)
    if getattr(spec, "name", None) != name or not isinstance(origin, str):
        return False
    return origin in ("built-in", "frozen") or any(origin.startswith(root) for root in roots)


def _package_of(path: str) -> str:
    for folder in ("/site-packages/", "/dist-packages/"):
        root, found, inside = path.partition(folder)
        top, nested, _ = inside.partition("/")
        if found and nested and os.path.exists(root + found + top + "/__init__.py"):
            return top
    return ""
