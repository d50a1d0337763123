"""The planner against a session in which everything happens in any order."""

from __future__ import annotations

import os
from typing import assert_never

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from devloop.cafs.digest import Digest, digest_of
from devloop.sync.plan import (
    Action,
    Apply,
    ApplyFailed,
    ApplyFinished,
    DirsChanged,
    Event,
    OnSave,
    PauseSet,
    Planner,
    RerunAsked,
    RunEnded,
    Scan,
    ScanFinished,
    SignalRun,
    StopAsked,
    StopRun,
)

SOAK = os.environ.get("DEVLOOP_SOAK") == "1"


def tree_of(version: int) -> Digest:
    return digest_of(b"%d" % version)


class SessionMachine(RuleBasedStateMachine):
    """A project that is saved, scans and transitions that take their time, an agent with runs."""

    @initialize(on_save=st.sampled_from(OnSave))
    def begin(self, on_save: OnSave) -> None:
        self.on_save = on_save
        self.planner = Planner(on_save)
        self.version = 0  # of the files on the laptop
        self.scanning: Scan | None = None
        self.snapshot = 0  # what the scan under way sees
        self.scanned = -1  # the newest finished scan
        self.applying: Apply | None = None
        self.on_box = -1
        self.last_run = 0
        self.told_of: set[int] = set()  # live runs that the planner knows
        self.paused = False
        self.asked_again = True  # the first run, or a rerun
        self.failed_at = -2
        self.perform(self.planner.start())

    # -- the session

    def tell(self, event: Event) -> None:
        self.perform(self.planner.handle(event))

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Scan():
                    assert self.scanning is None, "two scans at once"
                    self.scanning, self.snapshot = action, self.version
                case Apply():
                    self.check_apply(action)
                    self.applying = action
                case StopRun(run) | SignalRun(run):
                    assert run in self.told_of, "an order to a run that is not live"
                case _:
                    assert_never(action)

    def check_apply(self, apply: Apply) -> None:
        assert self.applying is None, "two transitions at once"
        assert self.scanning is None, "a transition amid a scan"
        assert apply.tree == tree_of(self.scanned), "not the newest tree"
        again = apply.tree == tree_of(self.on_box)
        assert self.asked_again or not again, "applied a second time"
        assert self.asked_again or not self.paused, "applied while paused"
        assert self.asked_again or self.scanned != self.failed_at, "asked again after a failure"
        if apply.under:
            assert self.on_save is OnSave.SIGNAL
            assert self.told_of
            assert not apply.start
            assert not apply.stop_runs
        else:
            assert apply.start
            assert self.told_of <= set(apply.stop_runs), "a live run that is not stopped"
            assert max(apply.stop_runs, default=0) <= self.last_run
        if self.on_save is OnSave.QUEUE and self.told_of:
            assert self.asked_again, "a queued save ended a run"
        self.asked_again = False

    # -- what happens

    @rule()
    def save(self) -> None:
        self.version += 1
        self.tell(DirsChanged(frozenset({b"src"})))

    @rule()
    def touch_without_a_change(self) -> None:
        self.tell(DirsChanged(None))

    @precondition(lambda self: self.scanning is not None)
    @rule(late=st.booleans())
    def finish_scan(self, late: bool) -> None:
        """It sees the files as they were at its start or as they are at its end."""
        seen = self.version if late else self.snapshot
        self.scanning = None
        self.scanned = seen
        self.tell(ScanFinished(tree_of(seen), (b"src/x",)))

    @precondition(lambda self: self.applying is not None)
    @rule(took_newer=st.booleans(), ends_first=st.booleans())
    def finish_apply(self, took_newer: bool, ends_first: bool) -> None:
        """An upload may meet a newer file, and scan again; a run may end before it is told of."""
        apply, self.applying = self.applying, None
        assert apply is not None
        tree = apply.tree
        if took_newer and self.version > self.scanned:
            # The watcher's hint of that save has long been told: see `save`.
            tree = tree_of(self.version)
            self.on_box = self.version
        else:
            self.on_box = next(v for v in range(self.version + 1) if tree_of(v) == tree)
        if not apply.start:
            # Where its run ended meanwhile, the change still has to run.
            self.asked_again |= not self.told_of
            self.tell(ApplyFinished(tree, None))
            return
        for run in apply.stop_runs:
            self.end_run(run)
        self.last_run += 1
        if ends_first:
            self.tell(RunEnded(self.last_run))
        else:
            self.told_of = {self.last_run}
        self.tell(ApplyFinished(tree, self.last_run))

    @precondition(lambda self: self.applying is not None)
    @rule()
    def fail_apply(self) -> None:
        self.applying = None
        self.failed_at = self.scanned
        self.tell(ApplyFailed())

    def end_run(self, run: int) -> None:
        if run in self.told_of:
            self.told_of.discard(run)
            self.tell(RunEnded(run))

    @precondition(lambda self: self.told_of)
    @rule()
    def run_ends(self) -> None:
        self.end_run(max(self.told_of))

    @rule()
    def ask_for_a_rerun(self) -> None:
        self.asked_again = True
        self.failed_at = -2
        self.tell(RerunAsked())

    @rule()
    def ask_to_stop(self) -> None:
        self.tell(StopAsked())

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.paused = paused
        self.tell(PauseSet(paused))

    @rule()
    def lose_the_agent(self) -> None:
        """What was under way comes to nothing; that its runs ended is told a little later."""
        self.asked_again |= self.applying is not None
        self.applying = self.scanning = None
        ended, self.told_of = self.told_of, set()
        self.perform(self.planner.start())
        for run in ended:
            self.tell(RunEnded(run))

    # -- what must be so in the end

    def teardown(self) -> None:
        if not hasattr(self, "planner"):
            return
        self.pause(False)
        self.save()
        for _ in range(20):
            if self.scanning is not None:
                self.finish_scan(late=True)
            elif self.applying is not None:
                self.finish_apply(took_newer=False, ends_first=False)
            elif self.told_of and self.on_save is OnSave.QUEUE:
                self.run_ends()
        assert self.scanning is None
        assert self.applying is None
        assert self.planner.is_idle
        assert self.on_box == self.version, "the newest tree is not on the box"


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(
    stateful_step_count=30, max_examples=2000 if SOAK else 50, deadline=None
)
