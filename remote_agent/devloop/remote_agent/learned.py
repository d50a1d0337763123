"""What good runs imported, kept on disk: the preload of the next zygote.

One JSON file a (workspace, interpreter):
    {"version": 1, "modules": [str], "refused": {package: reason}, "unsafe": str}
`modules` only grows, in the order of import, so that the zygote of a workspace settles.
A file that cannot be read is as good as none: it is learned again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

__all__ = ["Learned", "LearnedFile"]

MAX_MODULES = 8_000
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Learned:
    """Packages in `refused` spoil a fork; with `unsafe`, the whole set does."""

    modules: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    unsafe: str = ""

    @property
    def preload(self) -> tuple[str, ...]:
        return () if self.unsafe else self.allowed(self.modules)

    def allowed(self, modules: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in modules if name.partition(".")[0] not in self.refused)

    def with_modules(self, names: tuple[str, ...]) -> Learned:
        merged = tuple(dict.fromkeys((*self.modules, *names)))[:MAX_MODULES]
        return self if merged == self.modules else replace(self, modules=merged, unsafe="")

    def with_refused(self, package: str, reason: str) -> Learned:
        return replace(self, refused={**self.refused, package: reason})

    def with_unsafe(self, reason: str) -> Learned:
        return replace(self, unsafe=reason)

    @property
    def note(self) -> str:
        """For people: what stands in the way of a warmer start."""
        if self.unsafe:
            return f"nothing is preloaded: {self.unsafe}"
        return "; ".join(f"{name} is not preloaded: it {why}" for name, why in self.refused.items())


class LearnedFile:
    """The record of one workspace and interpreter; written whole, by rename."""

    def __init__(self, state_dir: Path, workspace: bytes, interpreter: bytes) -> None:
        name = hashlib.blake2b(workspace + b"\0" + interpreter, digest_size=12).hexdigest()
        self._path = state_dir / "learned" / f"{name}.json"
        self.value = _decode(self._path)

    def update(self, value: Learned) -> None:
        """A record that cannot be written is kept in memory only."""
        if value == self.value:
            return
        self.value = value
        try:
            _replace_file(self._path, _encode(value))
        except OSError:
            return


def _encode(value: Learned) -> str:
    return json.dumps(
        {
            "version": _VERSION,
            "modules": value.modules,
            "refused": value.refused,
            "unsafe": value.unsafe,
        }
    )


def _decode(path: Path) -> Learned:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] != _VERSION:
            return Learned()
        refused = {str(name): str(why) for name, why in record["refused"].items()}
        return Learned(tuple(map(str, record["modules"])), refused, str(record["unsafe"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Learned()


def _replace_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
