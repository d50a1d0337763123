"""How far an image has come. Plain values; whoever shows them decides how often."""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .source import Descriptor

__all__ = ["LayerProgress", "LayerState", "Progress", "Tally"]

LayerState = Literal["waiting", "reading", "done"]

_EVERY_S = 0.1


class LayerProgress(NamedTuple):
    digest: str
    state: LayerState
    done_bytes: int  # as they travel: compressed
    size_bytes: int


class Progress(NamedTuple):
    layers: tuple[LayerProgress, ...]  # bottom to top
    files: int  # whose content was stored or found
    new_bytes: int  # that were written

    @property
    def done_bytes(self) -> int:
        return sum(layer.done_bytes for layer in self.layers)

    @property
    def size_bytes(self) -> int:
        return sum(layer.size_bytes for layer in self.layers)


class Tally:
    """Counts, from any thread, and tells at most ten times a second and at each change of state."""

    def __init__(self, layers: Sequence[Descriptor], tell: Callable[[Progress], None]) -> None:
        self._layers = [LayerProgress(d.digest, "waiting", 0, d.size_bytes) for d in layers]
        self._tell = tell
        self._told = 0.0
        self._files = self._new_bytes = 0
        self._lock = Lock()

    def state(self, number: int, state: LayerState) -> None:
        with self._lock:
            layer = self._layers[number]
            done_bytes = layer.size_bytes if state == "done" else layer.done_bytes
            self._layers[number] = layer._replace(state=state, done_bytes=done_bytes)
            self._told = time.monotonic()
            self._tell(self._now())

    def read(self, number: int, size_bytes: int) -> None:
        with self._lock:
            layer = self._layers[number]
            self._layers[number] = layer._replace(done_bytes=layer.done_bytes + size_bytes)
            self._maybe_tell()

    def stored(self, files: int, new_bytes: int) -> None:
        with self._lock:
            self._files += files
            self._new_bytes += new_bytes
            self._maybe_tell()

    def left_bytes(self) -> int:
        """Of the layers, as they travel."""
        with self._lock:
            return sum(layer.size_bytes - layer.done_bytes for layer in self._layers)

    def _maybe_tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= _EVERY_S:
            self._told = now
            self._tell(self._now())

    def _now(self) -> Progress:
        return Progress(tuple(self._layers), self._files, self._new_bytes)
