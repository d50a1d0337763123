"""The configuration of an `up` that goes on: read again when its file has changed.

Owns which changes take effect at once and which need a new `up`, and what is said of either. A
file that is wrong changes nothing. Knows neither the loop nor a screen.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.errors import DevloopError

from .config import load_config
from .parser import config_flags
from .project import CONFIG_FILES

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from .config import Config

__all__ = ["LiveConfig", "Told"]

# What a session was opened with. A later one takes it from the file.
OPENED_WITH = (
    *("target", "image", "store", "registry_mirrors", "insecure_registries", "container"),
    *("agent", "ports", "ssh", "watch"),
)
_KEY_NAMES = {"registry_mirrors": "registry.mirrors", "insecure_registries": "registry.insecure"}


class Told(NamedTuple):
    """What there is to say of a file that has changed."""

    text: str
    hint: str = ""


class LiveConfig:
    """`config` is what holds now."""

    def __init__(self, args: argparse.Namespace, config: Config) -> None:
        self._args = args
        self.config = config
        self._seen = _stats(config.root)

    def replace(self, config: Config) -> None:
        """What is in the file by now, since we wrote it."""
        self.config = config
        self._seen = _stats(config.root)

    def renew(self) -> Told | None:
        """Takes from the file what can change while a session is open. None: nothing has changed.

        Cheap where the file is as it was: called at each save.
        """
        seen, self._seen = self._seen, _stats(self.config.root)
        if seen == self._seen:
            return None
        try:
            new = self._read()
        except DevloopError as error:
            hint = f"{error.hint}; " if error.hint else ""
            return Told(str(error), f"{hint}what was configured before still holds")
        kept = [name for name in OPENED_WITH if getattr(new, name) != getattr(self.config, name)]
        before = self.config
        self.config = new._replace(**{name: getattr(before, name) for name in OPENED_WITH})
        return _words(before, self.config, [_KEY_NAMES.get(name, name) for name in kept])

    def renew_all(self) -> None:
        """For a session that is yet to be opened. Raises DevloopErrors."""
        if self._seen != _stats(self.config.root):
            self.replace(self._read())

    def _read(self) -> Config:
        """Raises ConfigError."""
        config = self.config
        new = load_config(config.root, flags=config_flags(self._args), will_sync=False)
        return new if new.root == config.root else config  # the file is gone: another's is not ours


def _words(before: Config, now: Config, kept: list[str]) -> Told | None:
    file = now.source_file or before.source_file
    name = file.name if file is not None else CONFIG_FILES[0]
    changed = before._replace(source_file=None) != now._replace(source_file=None)
    text = f"{name} has changed: the next run is as it says" if changed else ""
    if not kept:
        return Told(text) if text else None
    waits = f"{', '.join(kept)} of {name} will hold when `devloop up` is started again"
    return Told(f"{text}; {waits}" if text else waits)


def _stats(root: Path) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_stat(os.path.join(root, name)) for name in CONFIG_FILES)


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
