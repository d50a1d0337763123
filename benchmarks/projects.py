"""Projects to measure with, and how an editor saves a file in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["SAVES", "make_large_file", "make_project", "make_small_files"]

FILES_PER_DIR = 100
DIRS_PER_DIR = 25


def make_project(root: Path, files: int, *, flat: bool = False) -> Path:
    """`files` small source files, FILES_PER_DIR to a directory, and a `main.py` at the top.

    The directories lie two levels deep, or with `flat` all beside `main.py`.
    """
    for number in range(files - 1):
        if number % FILES_PER_DIR == 0:
            outer, inner = divmod(number // FILES_PER_DIR, DIRS_PER_DIR)
            directory = root / f"package_{outer:02}{'-' if flat else '/'}part_{inner:02}"
            directory.mkdir(parents=True)
        (directory / f"module_{number:06}.py").write_text(f"VALUE = {number}\n")
    return root


def make_small_files(root: Path, files: int, dirs: int) -> Path:
    """Contents of 0.5 to 8 KiB, all different, that do not compress."""
    for number in range(dirs):
        (root / f"dir_{number:04}").mkdir()
    for number in range(files):
        size_bytes = 512 + (number * 7919) % 7681
        (root / f"dir_{number % dirs:04}" / f"file_{number:06}").write_bytes(os.urandom(size_bytes))
    return root


def make_large_file(root: Path, size_bytes: int) -> Path:
    with (root / "large").open("wb") as file:
        while size_bytes > 0:
            file.write(os.urandom(min(size_bytes, 1 << 20)))
            size_bytes -= 1 << 20
    return root


def _write_in_place(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)


def _write_and_rename(path: Path, text: str) -> None:
    temp = path.with_name(f".{path.name}.tmp")
    _write_in_place(temp, text)
    temp.replace(path)


# The two ways in which editors save.
SAVES: dict[str, Callable[[Path, str], None]] = {
    "write": _write_in_place,
    "rename": _write_and_rename,
}
