"""When the watcher speaks: plain values and a clock that the test owns."""

from __future__ import annotations

from devloop.sync.debounce import (
    CAP_S,
    LOCK_CAP_S,
    MAX_DIRS,
    MAX_QUIET_S,
    UNSETTLED_S,
    Debounce,
    DirsChanged,
    ScanAll,
)

T0 = 1000.0


def speaks_at(debounce: Debounce, now: float, lock: object = None) -> float:
    """Asks again whenever `wait_s` says so; the time at which there is a hint."""
    for _ in range(2000):
        if debounce.due(now, lock) is not None:
            return now
        now += max(debounce.wait_s(now, lock), 1e-6)
    raise AssertionError("it never spoke")


def test_one_save_is_reported_after_the_quiet_time() -> None:
    debounce = Debounce(quiet_s=0.005)
    debounce.touched(T0, b"src")
    assert debounce.due(T0 + 0.004) is None
    assert debounce.due(T0 + 0.0051) == DirsChanged(frozenset({b"src"}))
    assert not debounce.pending
    assert debounce.due(T0 + 1) is None


def test_a_save_that_is_over_is_reported_sooner() -> None:
    debounce = Debounce(quiet_s=0.005)
    for after in (0.0, 0.0001):  # truncated, written
        debounce.touched(T0 + after, b"src")
        debounce.unsettled(b"src/x.py")
    debounce.touched(T0 + 0.0002, b"src")
    debounce.saved(b"src/x.py")
    assert debounce.due(T0 + 0.0011) is None
    assert debounce.due(T0 + 0.0013) == DirsChanged(frozenset({b"src"}))


def test_a_truncated_file_is_not_reported_before_it_is_written() -> None:
    debounce = Debounce(quiet_s=0.005)
    debounce.touched(T0, b"src")
    debounce.saved(b"src/x.py")
    debounce.touched(T0 + 0.0001, b"src")
    debounce.unsettled(b"src/y.py")
    assert debounce.due(T0 + 0.04) is None


def test_a_second_save_right_after_the_first_waits_for_the_quiet_time() -> None:
    debounce = Debounce(quiet_s=0.005)
    for number, after in enumerate((0.0, 0.004, 0.008)):
        debounce.touched(T0 + after, b"src")
        debounce.saved(b"src/%d.py" % number)
    assert debounce.due(T0 + 0.0125) is None
    assert speaks_at(debounce, T0 + 0.0125) < T0 + 0.0132


def test_what_follows_a_save_takes_its_haste_away() -> None:
    debounce = Debounce(quiet_s=0.005)
    debounce.touched(T0, b"src")
    debounce.saved(b"src/x.py")
    debounce.touched(T0 + 0.0005, b"src")
    assert debounce.due(T0 + 0.005) is None
    assert debounce.due(T0 + 0.0056) is not None


def test_a_stream_waits_for_a_longer_pause_the_longer_it_lasts() -> None:
    debounce = Debounce(quiet_s=0.005)
    pauses = []
    for i in range(100):
        now = T0 + i * 0.004
        debounce.touched(now, b"src")
        assert debounce.due(now) is None
        pauses.append(debounce.wait_s(now))
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.006
    assert 0.09 < pauses[-1] <= MAX_QUIET_S


def test_an_endless_stream_is_acted_on_every_second() -> None:
    debounce = Debounce()
    spoke = []
    for i in range(1000):
        now = T0 + i * 0.004
        debounce.touched(now, b"src")
        if debounce.due(now):
            spoke.append(now)
    assert len(spoke) == 3
    assert all(b - a <= CAP_S + 0.01 for a, b in zip([T0, *spoke], spoke, strict=False))


def test_a_file_that_vanished_or_is_being_written_gets_time_to_be_finished() -> None:
    debounce = Debounce(quiet_s=0.005)
    debounce.touched(T0, b"")
    debounce.unsettled(b"x.py")
    assert debounce.due(T0 + 0.01) is None
    debounce.touched(T0 + 0.012, b"")
    debounce.settled(b"x.py")
    assert speaks_at(debounce, T0 + 0.012) < T0 + 0.018


def test_a_deleted_file_is_reported_though_nothing_settles_it() -> None:
    debounce = Debounce()
    debounce.touched(T0, b"")
    debounce.unsettled(b"x.py")
    assert abs(speaks_at(debounce, T0) - T0 - UNSETTLED_S) < 0.001


def test_nothing_is_said_while_git_holds_its_lock() -> None:
    debounce = Debounce()
    debounce.touched(T0, b"")
    assert debounce.due(T0 + 3, "lock") is None
    assert debounce.due(T0 + 3.1, None) is not None


def test_a_lock_that_is_left_over_holds_once_and_not_for_ever() -> None:
    debounce = Debounce()
    debounce.touched(T0, b"")
    assert abs(speaks_at(debounce, T0, "stale") - T0 - LOCK_CAP_S) < 0.1
    debounce.touched(T0 + 100, b"")
    assert speaks_at(debounce, T0 + 100, "stale") < T0 + 100.01
    debounce.touched(T0 + 200, b"")
    assert debounce.due(T0 + 201, "another") is None


def test_lost_events_lead_to_a_look_at_everything() -> None:
    debounce = Debounce()
    debounce.touched(T0, b"src")
    debounce.lost(T0, "overflow")
    assert debounce.due(T0 + 1) == ScanAll("overflow")


def test_very_many_directories_are_a_look_at_everything() -> None:
    debounce = Debounce()
    for i in range(MAX_DIRS + 2):
        debounce.touched(T0, b"%d" % i)
    assert isinstance(debounce.due(T0 + 1), ScanAll)
