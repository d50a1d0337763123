"""Our own box half as it is here: its files, and the name of that content.

A development checkout changes without a new version, so the name holds a digest. Works from an
installed wheel and from a checkout alike, since both are portions of one namespace.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs import dirs
from devloop.cafs.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["own_build", "own_files"]

PACKAGES = ("cafs", "proto", "remote_agent")
LEFT_OUT = ("__pycache__",)


def own_build() -> str:
    """Such as "0.1.0-5f3a…": letters, digits, ".", "+", "_" and "-" only.

    Costs the stats of the files; the content is read when one has changed.
    """
    looks = _looks()
    kept = dirs.cache_dir() / "build.json"
    try:
        found = json.loads(kept.read_bytes())
        if found["looks"] == looks:
            return str(found["build"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    build = f"{VERSION}-{_content_name()}"
    _keep(kept, json.dumps({"looks": looks, "build": build}))
    return build


def own_files() -> Iterator[tuple[str, bytes]]:
    """Each file's path in a wheel, and its content; sorted."""
    for name, path in sorted(_paths()):
        yield name, Path(path).read_bytes()


def _content_name() -> str:
    from hashlib import blake2b  # the rest of this module is asked at every connect

    hasher = blake2b(digest_size=6)
    for name, content in own_files():
        hasher.update(f"{len(name)} {name} {len(content)} ".encode() + content)
    return hasher.hexdigest()


def _looks() -> list[list[object]]:
    return [[name, *_look(path)] for name, path in sorted(_paths())]


def _look(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino


def _paths() -> Iterator[tuple[str, str]]:
    import devloop

    for portion in devloop.__path__:
        for package in PACKAGES:
            yield from _below(os.path.join(portion, package), f"devloop/{package}")


def _below(directory: str, name: str) -> Iterator[tuple[str, str]]:
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            if entry.name in LEFT_OUT:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{name}/{entry.name}")
            else:
                yield f"{name}/{entry.name}", entry.path


def _keep(path: Path, text: str) -> None:
    """Another process may do the same now; one that cannot be kept is worked out again."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside.write_text(text)
        beside.replace(path)
    except OSError:
        pass
