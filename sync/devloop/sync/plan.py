"""What `up` does next: events in, actions out. Pure; the session performs the actions.

Invariants
- At most one scan and one transition are under way.
- A transition is asked for only when no scan is: it takes the newest tree there is.
- A tree is applied at most once, unless a rerun is asked for.
- Nothing is asked for twice after a failure: a failed transition waits for a save or a rerun.
- Whatever the order of events, once they stop and nothing is paused the newest tree is applied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, assert_never

if TYPE_CHECKING:
    from devloop.cafs.digest import Digest

__all__ = [
    "Action",
    "Apply",
    "ApplyFailed",
    "ApplyFinished",
    "DirsChanged",
    "Event",
    "OnSave",
    "PauseSet",
    "Planner",
    "RerunAsked",
    "RunEnded",
    "Scan",
    "ScanFinished",
    "SignalRun",
    "StopAsked",
    "StopRun",
]


class OnSave(Enum):
    """What a save does to a live run."""

    RESTART = "restart"  # stop it, apply, start anew
    QUEUE = "queue"  # let it end, then apply and start
    SIGNAL = "signal"  # apply under it, then signal it


# -- events


@dataclass(frozen=True, slots=True)
class DirsChanged:
    """Something happened there; None: anywhere."""

    dirs: frozenset[bytes] | None


@dataclass(frozen=True, slots=True)
class ScanFinished:
    """`tree` is what the project holds now; `paths` differ from the scan before."""

    tree: Digest
    paths: tuple[bytes, ...] = ()
    suspicious: bool = False  # the project vanished or was emptied: do not follow it


@dataclass(frozen=True, slots=True)
class ApplyFinished:
    """The workspace holds `tree`; `run` was started there."""

    tree: Digest
    run: int | None


@dataclass(frozen=True, slots=True)
class ApplyFailed:
    """The workspace is as it was."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    run: int


@dataclass(frozen=True, slots=True)
class RerunAsked:
    """Run again, changed or not."""

    reason: str = "rerun"


@dataclass(frozen=True, slots=True)
class StopAsked:
    """End the live run and wait for the next save; a second time: kill it."""


@dataclass(frozen=True, slots=True)
class PauseSet:
    """While paused, saves are noted and neither applied nor run."""

    paused: bool


Event: TypeAlias = (
    DirsChanged
    | ScanFinished
    | ApplyFinished
    | ApplyFailed
    | RunEnded
    | RerunAsked
    | StopAsked
    | PauseSet
)

# -- actions


@dataclass(frozen=True, slots=True)
class Scan:
    """Look at these directories; None: at everything."""

    dirs: frozenset[bytes] | None


@dataclass(frozen=True, slots=True)
class Apply:
    """Move the workspace to `tree`, ending `stop_runs` first, and start a run."""

    tree: Digest
    reason: str
    paths: tuple[bytes, ...]
    stop_runs: tuple[int, ...]
    start: bool = True
    under: bool = False  # change files under the live run


@dataclass(frozen=True, slots=True)
class StopRun:
    run: int
    kill: bool


@dataclass(frozen=True, slots=True)
class SignalRun:
    run: int


Action: TypeAlias = Scan | Apply | StopRun | SignalRun


@dataclass(slots=True)
class Planner:
    """Feed it every event; perform, in order, the actions that it returns."""

    on_save: OnSave = OnSave.RESTART
    _dirty: set[bytes] = field(default_factory=set)
    _dirty_all: bool = True
    _scanning: bool = False
    _applying: Apply | None = None
    _tree: Digest | None = None
    _applied: Digest | None = None
    _paths: dict[bytes, None] = field(default_factory=dict)  # ordered, since the last transition
    _live_run: int | None = None
    _rerun: str | None = "first run"
    _paused: bool = False
    _failed: bool = False
    _stopping: bool = False
    _stops_asked: int = 0  # while a transition is under way: of the run that it will start
    _newest_ended: int = 0  # runs are numbered upwards

    @property
    def is_idle(self) -> bool:
        """Nothing is under way, and nothing is waiting to be."""
        return self._applying is None and not self._wants_transition()

    def start(self) -> list[Action]:
        """What to do first, and again after a reconnection: what was under way is not any more."""
        self._dirty_all |= self._scanning
        self._scanning = False
        self._stops_asked = 0
        if (lost := self._take_applying()) is not None:
            self._return_paths(lost)
            self._rerun = self._rerun or (lost.reason if lost.start else None)
        return self._next()

    def handle(self, event: Event) -> list[Action]:
        match event:
            case DirsChanged(dirs):
                self._dirty_all |= dirs is None
                self._dirty |= dirs or frozenset()
            case ScanFinished():
                self._scan_finished(event)
            case ApplyFinished():
                return self._apply_finished(event) + self._next()
            case ApplyFailed():
                self._apply_failed()
            case RunEnded(run):
                self._newest_ended = max(self._newest_ended, run)
                if run == self._live_run:
                    self._live_run = None
                    self._stopping = False
            case RerunAsked(reason):
                self._rerun = reason
                self._failed = False
                self._dirty_all = True
            case StopAsked():
                return self._stop()
            case PauseSet(paused):
                self._paused = paused
            case _:
                assert_never(event)
        return self._next()

    def _scan_finished(self, scan: ScanFinished) -> None:
        self._scanning = False
        if scan.suspicious:
            return
        if scan.tree != self._tree:
            self._tree = scan.tree
            self._failed = False
            self._paths |= dict.fromkeys(scan.paths)

    def _apply_finished(self, finished: ApplyFinished) -> list[Action]:
        applying = self._take_applying()
        self._applied = finished.tree
        if finished.tree not in (self._tree, applying.tree if applying is not None else None):
            self._dirty_all = True  # files changed amid the upload: only a scan knows the newest
        stops, self._stops_asked = self._stops_asked, 0
        if applying is not None and applying.under:
            return self._after_change_under_run(applying, stops)
        self._stopping = False
        ended = finished.run is None or finished.run <= self._newest_ended
        self._live_run = None if ended else finished.run
        return self._stop_live_run(kill=stops > 1) if stops else []

    def _after_change_under_run(self, applying: Apply, stops: int) -> list[Action]:
        if self._live_run is not None:
            return [SignalRun(self._live_run)]
        if not stops:
            self._rerun = self._rerun or applying.reason  # it ended without seeing the save
        return []

    def _apply_failed(self) -> None:
        self._failed = True
        self._stops_asked = 0
        if (failed := self._take_applying()) is not None:
            self._return_paths(failed)

    def _take_applying(self) -> Apply | None:
        applying, self._applying = self._applying, None
        return applying

    def _return_paths(self, unapplied: Apply) -> None:
        self._paths = dict.fromkeys(unapplied.paths) | self._paths

    def _stop(self) -> list[Action]:
        self._rerun = None
        if self._applying is not None:
            self._stops_asked += 1
        return self._stop_live_run(kill=self._stopping)

    def _stop_live_run(self, *, kill: bool) -> list[Action]:
        if self._live_run is None:
            return []
        self._stopping = True
        return [StopRun(self._live_run, kill)]

    def _next(self) -> list[Action]:
        if self._scanning:
            return []
        if self._dirty_all or self._dirty:
            return [self._scan()]
        if self._applying is None and self._wants_transition():
            return [self._apply()]
        return []

    def _scan(self) -> Scan:
        dirs = None if self._dirty_all else frozenset(self._dirty)
        self._dirty_all = False
        self._dirty.clear()
        self._scanning = True
        return Scan(dirs)

    def _wants_transition(self) -> bool:
        if self._tree is None or self._failed:
            return False
        if self._rerun is not None:
            return True
        if self._tree == self._applied or self._paused:
            return False
        return not (self.on_save is OnSave.QUEUE and self._live_run is not None)

    def _apply(self) -> Apply:
        assert self._tree is not None
        live = self._live_run is not None
        under = live and self._rerun is None and self.on_save is OnSave.SIGNAL
        stop_runs = (self._live_run,) if self._live_run is not None and not under else ()
        paths = tuple(self._paths)
        apply = Apply(
            tree=self._tree,
            reason=self._rerun or describe_paths(paths),
            paths=paths,
            stop_runs=stop_runs,
            start=not under,
            under=under,
        )
        self._paths.clear()
        self._rerun = None
        self._applying = apply
        return apply


def describe_paths(paths: tuple[bytes, ...]) -> str:
    """For people: "model.py changed", "model.py and 3 more changed"."""
    if not paths:
        return "changed"
    first = paths[0].decode(errors="replace")
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{first}{more} changed"
