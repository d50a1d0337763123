"""The planner, event by event; `test_plan_machine.py` lets them come in any order."""

from __future__ import annotations

import pytest

from devloop.cafs.digest import digest_of
from devloop.sync.plan import (
    Apply,
    ApplyFailed,
    ApplyFinished,
    DirsChanged,
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
    describe_paths,
)

T1, T2, T3 = (digest_of(b"%d" % n) for n in (1, 2, 3))
SAVED = DirsChanged(frozenset({b"src"}))
SCAN_SRC = Scan(frozenset({b"src"}))


def started(on_save: OnSave = OnSave.RESTART) -> Planner:
    """Its first transition is under way."""
    planner = Planner(on_save)
    assert planner.start() == [Scan(None)]
    assert planner.handle(ScanFinished(T1)) == [Apply(T1, "first run", (), ())]
    return planner


def running(on_save: OnSave = OnSave.RESTART) -> Planner:
    """Run 1 is live on T1."""
    planner = started(on_save)
    assert planner.handle(ApplyFinished(T1, 1)) == []
    assert planner.is_idle
    return planner


def saved(planner: Planner, tree: bytes = T2, path: bytes = b"a.py") -> list[object]:
    """What a save and its scan lead to."""
    assert planner.handle(SAVED) == [SCAN_SRC]
    return list(planner.handle(ScanFinished(tree, (path,))))  # type: ignore[arg-type]


def test_a_save_restarts_the_live_run() -> None:
    assert saved(running()) == [Apply(T2, "a.py changed", (b"a.py",), (1,))]


def test_a_save_after_the_run_has_ended_stops_nothing() -> None:
    planner = running()
    assert planner.handle(RunEnded(1)) == []
    assert saved(planner) == [Apply(T2, "a.py changed", (b"a.py",), ())]


def test_a_queued_save_waits_until_the_run_has_ended() -> None:
    planner = running(OnSave.QUEUE)
    assert saved(planner) == []
    assert not planner.is_idle or planner._live_run == 1
    assert planner.handle(RunEnded(1)) == [Apply(T2, "a.py changed", (b"a.py",), ())]


def test_a_save_under_a_run_applies_and_then_signals_it() -> None:
    planner = running(OnSave.SIGNAL)
    under = Apply(T2, "a.py changed", (b"a.py",), (), start=False, under=True)
    assert saved(planner) == [under]
    assert planner.handle(ApplyFinished(T2, None)) == [SignalRun(1)]
    assert planner.handle(RunEnded(1)) == []


def test_a_save_under_a_run_that_ends_meanwhile_starts_one() -> None:
    planner = running(OnSave.SIGNAL)
    saved(planner)
    assert planner.handle(RunEnded(1)) == []
    assert planner.handle(ApplyFinished(T2, None)) == [Apply(T2, "a.py changed", (), ())]


def test_a_run_that_is_stopped_during_a_change_under_it_starts_no_other() -> None:
    planner = running(OnSave.SIGNAL)
    saved(planner)
    assert planner.handle(StopAsked()) == [StopRun(1, kill=False)]
    assert planner.handle(RunEnded(1)) == []
    assert planner.handle(ApplyFinished(T2, None)) == []
    assert planner.is_idle


def test_a_scan_that_finds_nothing_new_leads_to_nothing() -> None:
    assert saved(running(), T1) == []


def test_hints_during_a_scan_lead_to_one_more_scan_of_all_their_folders() -> None:
    planner = running()
    assert planner.handle(SAVED) == [SCAN_SRC]
    assert planner.handle(DirsChanged(frozenset({b"a"}))) == []
    assert planner.handle(DirsChanged(frozenset({b"b"}))) == []
    assert planner.handle(ScanFinished(T2)) == [Scan(frozenset({b"a", b"b"}))]
    assert planner.handle(ScanFinished(T3, (b"a/x",))) == [
        Apply(T3, "a/x changed", (b"a/x",), (1,))
    ]


def test_a_hint_about_anywhere_swallows_those_about_folders() -> None:
    planner = running()
    planner.handle(SAVED)
    planner.handle(DirsChanged(frozenset({b"a"})))
    planner.handle(DirsChanged(None))
    assert planner.handle(ScanFinished(T1)) == [Scan(None)]


def test_a_save_during_a_transition_is_scanned_at_once_and_applied_after_it() -> None:
    planner = started()
    assert saved(planner) == []
    assert planner.handle(ApplyFinished(T1, 1)) == [Apply(T2, "a.py changed", (b"a.py",), (1,))]


def test_three_saves_during_a_transition_lead_to_one_transition() -> None:
    planner = started()
    for tree, path in ((T2, b"a"), (T3, b"b"), (T2, b"c")):
        assert saved(planner, tree, path) == []
    again = Apply(T2, "a and 2 more changed", (b"a", b"b", b"c"), (1,))
    assert planner.handle(ApplyFinished(T1, 1)) == [again]


def test_a_transition_that_took_files_newer_than_its_scan_is_followed_by_a_scan_only() -> None:
    planner = started()
    assert planner.handle(ApplyFinished(T2, 1)) == [Scan(None)]
    assert planner.handle(ScanFinished(T2)) == []
    assert planner.is_idle


def test_a_transition_that_took_the_tree_of_a_scan_amid_it_is_followed_by_nothing() -> None:
    planner = started()
    assert saved(planner, T2) == []
    assert planner.handle(ApplyFinished(T2, 1)) == []


def test_a_failed_transition_waits_for_a_save_and_keeps_what_had_changed() -> None:
    planner = running()
    saved(planner, T2, b"a.py")
    assert planner.handle(ApplyFailed()) == []
    assert planner.is_idle
    assert saved(planner, T2) == []
    both = Apply(T3, "a.py and 1 more changed", (b"a.py", b"b.py"), (1,))
    assert saved(planner, T3, b"b.py") == [both]


def test_a_failed_transition_is_tried_again_when_asked() -> None:
    planner = started()
    planner.handle(ApplyFailed())
    assert planner.handle(RerunAsked()) == [Scan(None)]
    assert planner.handle(ScanFinished(T1)) == [Apply(T1, "rerun", (), ())]


def test_a_rerun_looks_for_saves_and_ends_the_live_run() -> None:
    planner = running()
    assert planner.handle(RerunAsked("rerun")) == [Scan(None)]
    assert planner.handle(ScanFinished(T1)) == [Apply(T1, "rerun", (), (1,))]


@pytest.mark.parametrize("on_save", OnSave)
def test_a_rerun_restarts_whatever_saves_do(on_save: OnSave) -> None:
    planner = running(on_save)
    planner.handle(RerunAsked())
    assert planner.handle(ScanFinished(T2, (b"a",))) == [Apply(T2, "rerun", (b"a",), (1,))]


def test_a_rerun_asked_for_during_a_transition_comes_after_it() -> None:
    planner = started()
    assert planner.handle(RerunAsked()) == [Scan(None)]
    assert planner.handle(ScanFinished(T1)) == []
    assert planner.handle(ApplyFinished(T1, 1)) == [Apply(T1, "rerun", (), (1,))]


def test_stop_ends_the_run_and_a_second_one_kills_it() -> None:
    planner = running()
    assert planner.handle(StopAsked()) == [StopRun(1, kill=False)]
    assert planner.handle(StopAsked()) == [StopRun(1, kill=True)]
    assert planner.handle(RunEnded(1)) == []
    assert planner.handle(StopAsked()) == []


def test_the_next_run_is_stopped_gently_again() -> None:
    planner = running()
    planner.handle(StopAsked())
    planner.handle(RunEnded(1))
    saved(planner)
    planner.handle(ApplyFinished(T2, 2))
    assert planner.handle(StopAsked()) == [StopRun(2, kill=False)]


def test_stop_during_a_transition_stops_the_run_that_it_starts() -> None:
    planner = started()
    assert planner.handle(StopAsked()) == []
    assert planner.handle(ApplyFinished(T1, 1)) == [StopRun(1, kill=False)]
    assert planner.handle(StopAsked()) == [StopRun(1, kill=True)]


def test_two_stops_during_a_transition_kill_the_run_that_it_starts() -> None:
    planner = started()
    planner.handle(StopAsked())
    planner.handle(StopAsked())
    assert planner.handle(ApplyFinished(T1, 1)) == [StopRun(1, kill=True)]


def test_stop_takes_back_a_rerun() -> None:
    planner = running()
    planner.handle(RerunAsked())
    assert planner.handle(StopAsked()) == [StopRun(1, kill=False)]
    assert planner.handle(ScanFinished(T1)) == []


def test_a_stop_during_a_transition_that_fails_stops_no_later_run() -> None:
    planner = started()
    planner.handle(StopAsked())
    planner.handle(ApplyFailed())
    saved(planner, T2)
    assert planner.handle(ApplyFinished(T2, 1)) == []


def test_saves_while_paused_are_applied_together_afterwards() -> None:
    planner = running()
    assert planner.handle(PauseSet(True)) == []
    assert saved(planner, T2, b"a") == []
    assert saved(planner, T3, b"b") == []
    assert planner.handle(PauseSet(False)) == [
        Apply(T3, "a and 1 more changed", (b"a", b"b"), (1,))
    ]


def test_a_rerun_while_paused_takes_what_was_saved() -> None:
    planner = running()
    planner.handle(PauseSet(True))
    saved(planner, T2, b"a")
    planner.handle(RerunAsked())
    assert planner.handle(ScanFinished(T2)) == [Apply(T2, "rerun", (b"a",), (1,))]


def test_a_suspicious_scan_is_not_followed() -> None:
    planner = running()
    planner.handle(SAVED)
    assert planner.handle(ScanFinished(T2, (b"a",), suspicious=True)) == []
    assert planner.is_idle
    assert saved(planner, T1) == []


def test_a_run_that_ended_before_its_start_was_told_is_not_live() -> None:
    planner = started(OnSave.QUEUE)
    assert planner.handle(RunEnded(1)) == []
    assert planner.handle(ApplyFinished(T1, 1)) == []
    assert saved(planner) == [Apply(T2, "a.py changed", (b"a.py",), ())]


def test_the_end_of_an_older_run_is_not_the_end_of_the_live_one() -> None:
    planner = running(OnSave.QUEUE)
    planner.handle(RerunAsked())
    planner.handle(ScanFinished(T1))
    planner.handle(ApplyFinished(T1, 2))
    assert planner.handle(RunEnded(1)) == []
    assert saved(planner) == []


def test_after_a_reconnection_a_lost_scan_is_made_again() -> None:
    planner = running()
    assert planner.handle(SAVED) == [SCAN_SRC]
    assert planner.start() == [Scan(None)]


def test_after_a_reconnection_a_lost_transition_is_made_again_with_its_reason() -> None:
    planner = running()
    assert saved(planner) == [Apply(T2, "a.py changed", (b"a.py",), (1,))]
    planner.handle(RunEnded(1))
    again = Apply(T2, "a.py changed", (b"a.py",), ())
    assert [*planner.start(), *planner.handle(RunEnded(1))] == [again]


def test_after_a_reconnection_a_lost_rerun_of_the_same_tree_is_made_again() -> None:
    planner = running()
    planner.handle(RerunAsked())
    planner.handle(ScanFinished(T1))
    planner.handle(RunEnded(1))
    assert planner.start() == [Apply(T1, "rerun", (), ())]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ((), "changed"),
        ((b"a.py",), "a.py changed"),
        ((b"a.py", b"b.py"), "a.py and 1 more changed"),
        ((b"\xff.py",), "�.py changed"),
    ],
)
def test_a_reason_names_the_first_path_and_counts_the_others(
    paths: tuple[bytes, ...], words: str
) -> None:
    assert describe_paths(paths) == words
