"""What a session tells its front end: plain values, to be rendered.

Named tuples, since a screen's first picture waits for these classes, too: see `model.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

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
    "Reconfigured",
    "Reconnecting",
    "RunFinished",
    "RunLost",
    "RunStarted",
    "SessionEvent",
    "Skipped",
    "Waiting",
]


class Cycle(NamedTuple):
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


class Connected(NamedTuple):
    facts: HostFacts


class Reconnecting(NamedTuple):
    """The agent is gone; the next try is in `delay_s`, 0 for one that is under way."""

    reason: str
    delay_s: float


class RunStarted(NamedTuple):
    """A run was started; `cycle` has no output stage yet."""

    run: Run
    cycle: Cycle
    paths: tuple[bytes, ...]
    files_sent: int
    bytes_sent: int
    saved_aside: tuple[SavedAside, ...]


class FirstOutput(NamedTuple):
    """The cycle is complete: its first output has come."""

    run: int
    cycle: Cycle


class RunFinished(NamedTuple):
    run: Run


class RunLost(NamedTuple):
    """It went with its agent, and with all that was known of it."""

    run: int


class Waiting(NamedTuple):
    """Other runs are pinned to another version of the files; the change waits for their end."""

    runs: tuple[int, ...]


class Skipped(NamedTuple):
    """Paths that cannot be synced, and why; each is named once a session."""

    problems: tuple[Problem, ...]


class Pulled(NamedTuple):
    """Outputs came back. `kept`: local files that differ and were not overwritten."""

    files: int
    size_bytes: int
    kept: tuple[bytes, ...]


class Notice(NamedTuple):
    """Something to know, that stops nothing."""

    text: str
    hint: str = ""


class Paused(NamedTuple):
    paused: bool


class Reconfigured(NamedTuple):
    """The project's configuration has changed, or wanted to; in words."""

    text: str
    hint: str = ""


SessionEvent: TypeAlias = (
    Connected
    | Reconnecting
    | RunStarted
    | FirstOutput
    | RunFinished
    | RunLost
    | Waiting
    | Skipped
    | Pulled
    | Notice
    | Paused
    | Reconfigured
    | LogRecord
)
