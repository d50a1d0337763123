"""How much is measured, and with what. Measures nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .interpreters import path_with
from .sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Bench"]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every section gets: counts, and the environment that scripts run in."""

    environment: Path  # a virtual environment of the benchmark's own
    save: str  # a key of projects.SAVES
    saves: int = 50
    starts: int = 30
    syncs: int = 5
    streams: int = 5
    idle_s: float = 30.0

    def sandbox(self) -> Sandbox:
        return Sandbox(path_with(self.environment))
