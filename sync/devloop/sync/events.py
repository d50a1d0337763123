"""What a session tells its front end: plain values, to be rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .model import LogRecord

if TYPE_CHECKING:
    from devloop.cafs.errors import Problem

    from .model import HostFacts, Run, SavedAside

__all__ = [
    "Connected",
    "Cycle",
    "FirstOutput",
    "Notice",
    "Paused",
    "Pulled",
    "Reconnecting",
    "RunFinished",
    "RunStarted",
    "SessionEvent",
    "Skipped",
    "Waiting",
]


@dataclass(frozen=True, slots=True)
class Cycle:
    """One save's way to its first output, stage by stage, in seconds.

    `detect_s` counts from the newest changed file's mtime; 0 when nothing was saved.
    """

    detect_s: float = 0.0
    scan_s: float = 0.0
    upload_s: float = 0.0
    link_s: float = 0.0
    stage_s: float = 0.0
    stop_s: float = 0.0
    apply_s: float = 0.0
    start_s: float = 0.0
    output_s: float = 0.0  # from the start to the first output; 0 while there is none

    @property
    def total_s(self) -> float:
        return sum(seconds for _, seconds in self.stages())

    @property
    def sync_s(self) -> float:
        """From the saved files to the same files on the box."""
        return self.scan_s + self.upload_s + self.link_s + self.stage_s + self.apply_s

    def stages(self) -> list[tuple[str, float]]:
        return [
            ("detect", self.detect_s),
            ("scan", self.scan_s),
            ("upload", self.upload_s),
            ("link", self.link_s),
            ("stage", self.stage_s),
            ("stop", self.stop_s),
            ("apply", self.apply_s),
            ("start", self.start_s),
            ("output", self.output_s),
        ]


@dataclass(frozen=True, slots=True)
class Connected:
    facts: HostFacts


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The agent is gone; the next try is in `delay_s`, 0 for one that is under way."""

    reason: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run was started; `cycle` has no output stage yet."""

    run: Run
    cycle: Cycle
    paths: tuple[bytes, ...]
    files_sent: int
    bytes_sent: int
    saved_aside: tuple[SavedAside, ...]


@dataclass(frozen=True, slots=True)
class FirstOutput:
    """The cycle is complete: its first output has come."""

    run: int
    cycle: Cycle


@dataclass(frozen=True, slots=True)
class RunFinished:
    run: Run


@dataclass(frozen=True, slots=True)
class Waiting:
    """Other runs are pinned to another version of the files; the change waits for their end."""

    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """Paths that cannot be synced, and why; each is named once a session."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Pulled:
    """Outputs came back. `kept`: local files that differ and were not overwritten."""

    files: int
    size_bytes: int
    kept: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to know, that stops nothing."""

    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Paused:
    paused: bool


SessionEvent: TypeAlias = (
    Connected
    | Reconnecting
    | RunStarted
    | FirstOutput
    | RunFinished
    | Waiting
    | Skipped
    | Pulled
    | Notice
    | Paused
    | LogRecord
)
