"""The view: a session's events and samples in, what is true now out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devloop.cafs.errors import DevloopError
from devloop.sync.events import Connected, Notice, Paused, Reconnecting, RunLost, Waiting
from devloop.sync.metrics import GpuState
from devloop.tui.state import RUNS_KEPT, STALE_AFTER_S, Link, View, stages_of

from .fakes import (
    CYCLE,
    TRACEBACK,
    connected,
    ended,
    facts,
    finished,
    first_output,
    printed,
    sample,
    started,
)

if TYPE_CHECKING:
    from devloop.sync.model import RunEnd


@pytest.fixture
def view() -> View:
    view = View("gpu1", "python train.py", "demo")
    view.handle(connected(), 0.0)
    return view


def test_a_run_lives_until_it_has_ended(view: View) -> None:
    view.handle(started(1), 10.0)
    assert view.live is not None
    assert view.live.duration_s(12.5) == 2.5
    view.handle(finished(1, ended(0, wall_s=3.0)), 13.1)
    assert view.live is None
    assert view.newest is not None
    assert view.newest.duration_s(99.0) == 3.0


def test_a_failed_run_has_its_last_exception_and_the_innermost_line_of_the_project(
    view: View,
) -> None:
    view.handle(started(1), 0.0)
    for at in range(0, len(TRACEBACK), 7):  # cut anywhere
        view.handle(printed(1, TRACEBACK[at : at + 7], stderr=True), 0.0)
    view.handle(finished(1, ended(1)), 1.0)
    assert view.newest is not None
    failure = view.newest.failure
    assert failure is not None
    assert failure.exception.startswith("RuntimeError: mat1 and mat2")
    assert failure.place == ("/state/workspaces/demo-1/files/model.py", 34)
    assert not failure.is_oom


def test_a_run_that_was_stopped_on_purpose_has_not_failed(view: View) -> None:
    view.handle(started(1), 0.0)
    view.handle(finished(1, ended(0, signal=9, reason="stopped for a restart")), 1.0)
    assert view.newest is not None
    assert view.newest.was_stopped
    assert view.newest.failure is None


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (
            "Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory\n",
            ended(1),
        ),
        ("Traceback (most recent call last):\nMemoryError\n", ended(1)),
        ("", ended(0, signal=9, reason="killed by SIGKILL (out of memory)")),
    ],
)
def test_whoever_says_so_a_run_that_ran_out_of_memory_is_told_as_such(
    view: View, text: str, end: object
) -> None:
    view.handle(started(1), 0.0)
    view.handle(printed(1, text, stderr=True), 0.0)
    view.handle(finished(1, end), 1.0)  # type: ignore[arg-type]
    assert view.newest is not None
    assert view.newest.failure is not None
    assert view.newest.failure.is_oom


@pytest.mark.parametrize("end", [ended(137), ended(0, signal=9, reason="killed by SIGKILL")])
def test_a_kill_that_nobody_explains_may_be_for_want_of_memory(view: View, end: RunEnd) -> None:
    view.sample(sample(), 0.0)
    view.handle(started(1), 0.0)
    view.handle(finished(1, end), 1.0)
    assert view.newest is not None
    assert view.newest.failure is not None
    assert not view.newest.failure.is_oom
    assert view.newest.failure.is_killed
    assert view.newest.failure.memories


def test_a_program_that_only_talks_of_memory_has_not_run_out_of_it(view: View) -> None:
    view.handle(started(1), 0.0)
    view.handle(printed(1, "handles OutOfMemoryError gracefully\n"), 0.0)
    view.handle(finished(1, ended(2)), 1.0)
    assert view.newest is not None
    assert view.newest.failure is not None
    assert not view.newest.failure.is_oom


def test_percentiles_are_those_of_the_session_s_saves(view: View) -> None:
    view.handle(started(1, paths=()), 0.0)
    view.handle(first_output(1, 60.0), 0.0)  # a start is no save
    for number in range(2, 102):
        view.handle(started(number), 0.0)
        view.handle(first_output(number, number / 1000), 0.0)
    rest_s = CYCLE.total_s
    assert view.p50_s == pytest.approx(rest_s + 0.051)
    assert view.p99_s == pytest.approx(rest_s + 0.100)


def test_the_stages_shown_add_up_to_the_whole_cycle(view: View) -> None:
    assert sum(stage.spent_s for stage in stages_of(CYCLE)) == pytest.approx(CYCLE.total_s)


def test_a_lost_link_counts_from_its_first_word_and_names_the_next_try(view: View) -> None:
    view.handle(Reconnecting("no answer", 0.0), 100.0)
    view.handle(Reconnecting("refused", 0.8), 104.0)
    assert view.link is Link.LOST
    assert view.link_lost_s == 100.0
    assert view.next_try_s == 104.8
    assert view.link_words == "refused"
    view.handle(connected(), 105.0)
    assert view.link is Link.UP


def test_an_agent_with_another_pid_is_counted_as_restarted(view: View) -> None:
    view.handle(connected(), 1.0)
    assert view.agents == 1
    view.handle(Connected(facts(pid=9)), 2.0)
    assert view.agents == 2


def test_a_run_that_went_with_its_agent_is_not_live(view: View) -> None:
    view.handle(started(1), 1.0)
    view.handle(Connected(facts(pid=9)), 2.0)
    view.handle(RunLost(1), 3.0)
    assert view.live is None
    assert view.runs[1].duration_s(99.0) == 2.0
    assert view.has_restarted(99.0)
    view.handle(started(2), 100.0)
    assert not view.has_restarted(100.0)


def test_samples_go_stale_with_time_and_at_once_with_the_link(view: View) -> None:
    view.sample(sample(), 50.0)
    assert view.stale_s(50.0 + STALE_AFTER_S) == 0.0
    assert view.stale_s(51.0 + STALE_AFTER_S) == 1.0 + STALE_AFTER_S
    view.handle(Reconnecting("no answer", 0.0), 50.5)
    assert view.stale_s(51.0) == 1.0


def test_network_rates_are_counted_by_the_box_s_clock(view: View) -> None:
    for at in (0, 1, 3):
        view.sample(sample(at), float(at))
    assert view.host is not None
    assert view.host.received.newest(9) == [2e6, 2e6]


def test_a_gpu_that_has_gone_is_forgotten_and_no_answer_keeps_the_last_values(view: View) -> None:
    view.sample(sample(0, gpus=2), 0.0)
    view.sample(sample(1, gpus=1), 1.0)
    assert list(view.gpus) == ["GPU-0"]
    view.sample(sample(2, state=GpuState.UNAVAILABLE), 2.0)
    assert view.gpu_state is GpuState.UNAVAILABLE
    assert list(view.gpus) == ["GPU-0"]


def test_a_run_of_which_no_end_was_heard_is_lost_once_another_starts(view: View) -> None:
    view.handle(started(1), 0.0)
    view.handle(started(2), 5.0)
    assert view.runs[1].is_lost
    view.handle(finished(1, ended(0)), 5.1)  # its end comes after the next one's start
    assert not view.runs[1].is_lost


def test_a_session_that_is_over_has_no_live_run(view: View) -> None:
    view.handle(started(1), 0.0)
    view.session_over(DevloopError("gone", hint="start it"), 3.0)
    assert view.link is Link.OVER
    assert view.live is None
    assert (view.link_words, view.link_hint) == ("gone", "start it")


def test_waiting_ends_with_the_next_start(view: View) -> None:
    view.handle(Waiting((3,)), 0.0)
    assert view.waits_for == (3,)
    view.handle(started(4), 0.0)
    assert view.waits_for == ()


def test_notices_and_pauses_are_kept(view: View) -> None:
    view.handle(Notice("a", "b"), 1.0)
    view.handle(Paused(True), 1.0)
    assert view.notices[-1] == (1.0, "a", "b")
    assert view.is_paused


def test_only_so_many_runs_are_kept(view: View) -> None:
    for number in range(1, RUNS_KEPT + 11):
        view.handle(started(number), 0.0)
    assert len(view.runs) == RUNS_KEPT
    assert 10 not in view.runs
