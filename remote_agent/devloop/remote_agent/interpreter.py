"""Which interpreter `python` means for a run: the project's own, never devloop's by accident.

Looks at files, starts nothing. Order: a path that the user wrote; the environment that is
activated; one in the project's folder; conda; poetry; PATH. The folder that devloop itself runs
from is left out of the search along PATH, unless the user activated it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Environment", "activated", "find_command", "find_environment", "own_prefix"]

_FOLDER_NAMES = (".venv", "venv", "env")
_POETRY_CACHE = Path(".cache/pypoetry/virtualenvs")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual (or conda) environment's folder, and how it was found, for people."""

    prefix: Path
    source: str

    @property
    def bin(self) -> Path:
        return self.prefix / "bin"


def own_prefix() -> Path | None:
    """The virtual environment that devloop runs from, if it runs from one."""
    return Path(sys.prefix) if sys.prefix != sys.base_prefix else None


def find_environment(
    env: Mapping[str, bytes], workspace: Path, local_root: Path | None
) -> Environment | None:
    """None: the project has no environment of its own; its Python is what PATH says."""
    for candidate in _candidates(env, workspace, local_root):
        if _has_python(candidate.prefix):
            return candidate
    return None


def activated(
    env: Mapping[str, bytes], environment: Environment | None, own: Path | None
) -> dict[str, bytes]:
    """The run's variables, as after `source bin/activate`; devloop's own folder is not in PATH."""
    result = dict(env)
    path = [entry for entry in result.get("PATH", os.defpath.encode()).split(b":") if entry]
    if environment is None:
        own_bin = None if own is None else os.fsencode(own / "bin")
        result["PATH"] = b":".join(entry for entry in path if entry.rstrip(b"/") != own_bin)
        return result
    bin_folder = os.fsencode(environment.bin)
    if bin_folder not in path[:1]:
        path = [bin_folder, *(entry for entry in path if entry != bin_folder)]
    result["PATH"] = b":".join(path)
    if (environment.prefix / "pyvenv.cfg").exists():
        result["VIRTUAL_ENV"] = os.fsencode(environment.prefix)
        result.pop("PYTHONHOME", None)
    return result


def find_command(command: bytes, env: Mapping[str, bytes], cwd: bytes) -> bytes | None:
    """Absolute path of what exec would start; None when there is nothing to start."""
    if b"/" in command:
        path = os.path.join(cwd, command)
        return path if _is_executable(path) else None
    for folder in env.get("PATH", os.defpath.encode()).split(b":"):
        path = os.path.join(cwd, folder or b".", command)
        if _is_executable(path):
            return path
    return None


def _candidates(
    env: Mapping[str, bytes], workspace: Path, local_root: Path | None
) -> Iterator[Environment]:
    if env.get("VIRTUAL_ENV"):
        yield Environment(Path(os.fsdecode(env["VIRTUAL_ENV"])), "VIRTUAL_ENV")
    roots = [workspace] if local_root is None else [workspace, local_root]
    for root in roots:
        for name in _FOLDER_NAMES:
            if (root / name / "pyvenv.cfg").is_file():
                yield Environment(root / name, f"{name} of the project")
    if env.get("CONDA_PREFIX"):
        yield Environment(Path(os.fsdecode(env["CONDA_PREFIX"])), "CONDA_PREFIX")
    yield from _poetry_environments(env, workspace, local_root or workspace)


def _poetry_environments(
    env: Mapping[str, bytes], workspace: Path, root: Path
) -> Iterator[Environment]:
    if not (workspace / "poetry.lock").exists() or "HOME" not in env:
        return
    cache = Path(os.fsdecode(env["HOME"])) / _POETRY_CACHE
    for prefix in sorted(cache.glob(f"{_glob_literal(root.name)}-*-py3*")):
        yield Environment(prefix, "poetry")


def _glob_literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _has_python(prefix: Path) -> bool:
    return _is_executable(os.fsencode(prefix / "bin" / "python"))


def _is_executable(path: bytes) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
