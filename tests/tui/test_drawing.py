"""Lines before any widget: what fits, what is left out, and that nothing is too wide."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual._xterm_parser import XTermParser
from textual.events import Key

from devloop.sync.metrics import ContainerState, GpuState, Warmth
from devloop.sync.progress import Progress
from devloop.tui.cards import card
from devloop.tui.details import run_line, runs_title, sync_pane
from devloop.tui.driver import InputBytes, events_in
from devloop.tui.failure import Output, Words, explained
from devloop.tui.header import cycle_line, header, progress_line, status_line
from devloop.tui.keys import KEYS, BadKeys, footer, keymap
from devloop.tui.programs import debugger_words, editor, local_path
from devloop.tui.series import HISTORY, Series, percentile, plot, sparkline
from devloop.tui.spans import Part, Span, cut, fit, text_of, width_of
from devloop.tui.state import View
from devloop.tui.vitals import gpu_pane, vitals_line
from devloop.tui.words import clock, seconds, size

from .fakes import (
    TRACEBACK,
    connected,
    ended,
    finished,
    first_output,
    gpu,
    printed,
    sample,
    started,
)


def failed_view(*, memory: bool = False, state: GpuState = GpuState.OK) -> View:
    view = View("gpu1", "python train.py", "demo")
    view.handle(connected(), 0.0)
    for at in range(5):
        view.sample(sample(at, gpus=2, state=state), float(at))
    for number in (1, 2):
        view.handle(started(number), 1.0)
        view.handle(first_output(number), 1.0)
    said = "torch.OutOfMemoryError: CUDA out of memory\n" if memory else TRACEBACK
    view.handle(printed(2, TRACEBACK.partition("Runtime")[0] + said, stderr=True), 1.0)
    view.handle(finished(2, ended(1)), 1.0)
    return view


@given(width=st.integers(4, 200), memory=st.booleans(), state=st.sampled_from(GpuState))
def test_no_line_is_wider_than_its_place(width: int, memory: bool, state: GpuState) -> None:
    view, progress = failed_view(memory=memory, state=state), Progress()
    lines = [
        header(view, progress, width, 9.0),
        status_line(view, progress, width, 9.0),
        cycle_line(view, width),
        vitals_line(view, width, 9.0),
        *gpu_pane(view, width, 40, 9.0, zoomed=False),
        *gpu_pane(view, width, 40, 2.0, zoomed=True),
        *sync_pane(view, progress, width, 9.0),
        *card(view, width, 9.0),
    ]
    assert max(map(width_of, lines)) <= width


@given(width=st.integers(30, 120))
def test_the_rows_of_runs_are_in_columns(width: int) -> None:
    view = failed_view()
    assert {width_of(run_line(row, width, 5.0)) for row in view.runs.values()} == {width}
    title, row = runs_title(2, width), run_line(view.runs[2], width, 5.0)
    assert len(title) < width
    if "exit" in title:
        assert title.index("exit") + 1 == text_of([row]).index("exit 1")


def test_the_least_important_part_goes_first() -> None:
    parts = [Part([Span("first")]), Part([Span("third")], 3), Part([Span("second")], 1)]
    assert text_of([fit(parts, 20)]) == "first  third  second"
    assert text_of([fit(parts, 19)]) == "first  second"
    assert text_of([fit(parts, 12)]) == "first"
    assert text_of([fit(parts, 3)]) == "fi…"


@given(st.lists(st.text(max_size=9)), st.integers(0, 30))
def test_what_is_cut_fits_and_says_so(texts: list[str], width: int) -> None:
    texts = ["".join(c for c in text if c.isprintable()) for text in texts]
    spans = [Span(text) for text in texts]
    line = cut(spans, width)
    assert width_of(line) <= width
    if width_of(spans) > width > 0:
        assert text_of([line]).endswith("…")


def test_the_header_says_how_the_last_run_failed() -> None:
    words = text_of([header(failed_view(), Progress(), 120, 9.0)])
    assert "✗ RUN 2 exit 1" in words
    assert "RuntimeError: mat1" in words


def test_the_card_of_an_exhausted_memory_names_who_else_is_on_the_gpu() -> None:
    words = text_of(card(failed_view(memory=True), 100, 9.0))
    assert "OUT OF MEMORY" in words
    assert "▶ 4711 me 60.9G" in words
    assert "  815 ada 300M" in words
    assert "host memory" in words
    assert "kernel" not in words


def test_the_card_of_an_exhausted_memory_stays_as_it_was_with_the_kernel_s_own_line() -> None:
    view = failed_view()
    view.handle(started(3), 2.0)
    line = "Out of memory: Killed process 77 (python) anon-rss:99kB"
    end = ended(0, signal=9, reason="killed by SIGKILL (out of memory)")._replace(detail=line)
    view.handle(finished(3, end), 3.0)
    before = text_of(card(view, 100, 3.0))
    assert f"kernel: {line}" in before
    view.sample(sample(9)._replace(gpus=(gpu(memory_used_bytes=0, processes=()),)), 9.0)
    assert text_of(card(view, 100, 9.0)) == before


def test_of_many_gpus_a_card_names_those_of_the_run() -> None:
    view = View("gpu1", "python train.py", "demo")
    for at in range(5):
        view.sample(sample(at, gpus=8), float(at))
    view.handle(started(1), 1.0)
    view.handle(finished(1, ended(137)), 1.0)
    lines = card(view, 100, 9.0)
    assert [word for word in text_of(lines).split("\n") if "GPU" in word] == [
        f"   GPU 0 memory, most 61.2G of 80G {'▆' * 5}"
    ]
    assert len(lines) <= 11


def test_a_driver_that_does_not_answer_is_a_state_beside_the_host_s_figures() -> None:
    view = failed_view(state=GpuState.UNAVAILABLE)
    words = text_of(gpu_pane(view, 60, 30, 4.0, zoomed=False))
    assert "driver does not answer: no answer within 2.5 s" in words
    assert "cpu" in words


def test_throttling_and_slices_are_shown() -> None:
    view = failed_view()
    part = gpu(name="MIG 1g.10gb", label="0:1", processes=())
    changed = gpu(throttle_reasons=("power cap",), slices=(part,))
    view.sample(sample(9)._replace(gpus=(changed,)), 9.0)
    words = text_of(gpu_pane(view, 60, 30, 9.0, zoomed=False))
    assert "throttled: power cap" in words
    assert "0:1" in words


def warm_view(*states: Warmth) -> View:
    view = View("gpu1", "python train.py", "demo", "team/train:latest")
    view.handle(connected(), 0.0)
    for at, warmth in enumerate(states):
        view.sample(sample(at)._replace(warmth=warmth), float(at))
    return view


STARTING = Warmth(0, 0, ContainerState.STARTING, 0, 412, 1031, 40_000_000, 120_000_000)
READY = Warmth(1, 0, ContainerState.WARM, 1, 1031, 1031, 120_000_000, 120_000_000)


def test_an_image_on_its_way_is_told_in_files_and_bytes() -> None:
    progress = Progress()
    view = warm_view(STARTING)
    words = text_of(sync_pane(view, progress, 100, 1.0))
    assert "image  train:latest  … container starting" in words
    assert "files  prefetching 412 of 1,031, 40M of 120M" in words
    assert "… CONTAINER STARTING" in text_of([header(view, progress, 120, 1.0)])
    with progress.during("apply"):
        line = text_of([progress_line(progress, 120, time.monotonic(), STARTING)])
    assert "starting the container: prefetching 412 of 1,031 files" in line
    assert "40M of 120M" in line
    words = text_of(sync_pane(warm_view(STARTING, READY), progress, 100, 1.0))
    assert "container warm" in words
    assert "files  prefetched 1,031, 120M" in words
    assert "1 interpreter ready" in words


def test_a_container_that_starts_again_says_so() -> None:
    view = warm_view(READY, STARTING._replace(containers=1))
    assert "↻ CONTAINER RESTARTING" in text_of([header(view, Progress(), 120, 1.0)])
    words = text_of(sync_pane(warm_view(READY._replace(containers=2)), Progress(), 100, 1.0))
    assert "container warm, restarted 1×" in words


def test_interpreters_at_their_imports_are_warming() -> None:
    words = text_of(sync_pane(warm_view(Warmth(0, 1)), Progress(), 100, 1.0))
    assert "warming" in words


def test_processes_of_our_runs_have_a_mark_and_others_their_user_s_name() -> None:
    words = text_of(gpu_pane(failed_view(), 60, 30, 4.0, zoomed=False))
    assert "▶   4711 me" in words
    assert "     815 ada" in words


def test_an_upload_has_a_bar_and_a_rate() -> None:
    progress = Progress()
    with progress.uploading(10_000, 10**9, (412, 12 * 10**7)):
        began_s = progress.upload_began_s
        words = text_of([progress_line(progress, 100, began_s + 2.0)])
    assert "uploading 412 of 10,000 files" in words
    assert "120M of 1G" in words
    assert "60M/s" in words
    assert "█" in words
    assert not progress_line(progress, 100, time.monotonic())


def test_a_history_is_bounded_and_drawn_with_the_newest_value_rightmost() -> None:
    series = Series(range(HISTORY + 5))
    assert len(series) == HISTORY
    assert series.newest(2) == [HISTORY + 3, HISTORY + 4]
    assert sparkline([0, 50, 100], 5, 100) == "  ▁▅█"
    assert plot([100, 40, 0], 3, 2, 100) == ["█  ", "█▇▁"]


@given(count=st.integers(0, 4000), columns=st.integers(0, 200))
def test_a_condensed_history_is_all_of_it_in_few_values(count: int, columns: int) -> None:
    series = Series(range(count))
    values = series.condensed(columns)
    assert len(values) <= columns
    assert values == sorted(values)
    assert (values[-1:] == [count - 1]) == bool(count and columns)


def test_a_zoomed_pane_has_plots_of_all_that_was_and_says_since_when() -> None:
    view = View("gpu1", "python train.py", "demo")
    view.handle(connected(), 0.0)
    for at in range(1000):
        view.sample(sample(at), float(at))
    lines = gpu_pane(view, 120, 45, 999.0, zoomed=True)
    assert "16:40 ago" in text_of(lines)
    assert text_of(lines).rstrip().endswith("now")
    assert len(lines) <= 45
    assert len(gpu_pane(view, 120, 20, 999.0, zoomed=True)) < len(lines)


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(1, 100))
def test_a_percentile_is_one_of_the_values(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6


def test_numbers_take_few_columns() -> None:
    assert [size(n) for n in (999, 1500, 61_200_000_000, 2e12)] == ["999B", "1.5k", "61.2G", "2T"]
    assert [seconds(s) for s in (0.0212, 12.44, 187, 3723)] == [
        "0.021s",
        "12.4s",
        "3:07",
        "1:02:03",
    ]
    assert [clock(s) for s in (12.44, 187.99, 3723)] == ["00:12.4", "03:07.9", "1:02:03"]


def test_a_traceback_of_a_library_points_at_the_project_s_own_line() -> None:
    text = """Traceback (most recent call last):
  File "/w/demo-1/files/a.py", line 3, in <module>
  File "/usr/lib/python3/site-packages/torch/nn.py", line 9, in f
torch.cuda.OutOfMemoryError: CUDA out of memory
"""

    def words(text: str) -> Words:
        output = Output()
        output.add(text.encode(), is_stderr=True)
        return explained(output, 1, 0, "demo")

    assert words(text).place == ("/w/demo-1/files/a.py", 3)
    assert words(text.replace("/w/demo-1/files", "/workspace")).place == ("/workspace/a.py", 3)
    assert words(text).exception == "torch.cuda.OutOfMemoryError: CUDA out of memory"
    assert words("nothing").place is None


# -- keys, programs, input


def test_no_key_and_no_name_is_there_twice() -> None:
    keys = [key for entry in KEYS for key in entry.keys.split(",")]
    assert len(set(keys)) == len(keys)
    assert len({entry.name for entry in KEYS}) == len(KEYS)


@pytest.mark.parametrize("width", [10, 40, 60, 80, 160])
def test_the_footer_fits_and_keeps_the_way_out(width: int) -> None:
    pairs = footer(width, {})
    assert sum(len(sign) + len(word) + 2 for sign, word in pairs) <= width
    assert width < 40 or ("q", "quit") in pairs


def test_the_footer_shows_the_keys_in_force() -> None:
    assert ("F5", "rerun") in footer(160, {"rerun": "F5"})


@pytest.mark.parametrize(
    ("written", "named"),
    [("f5 R", "f5,R"), ("/ ctrl+F", "slash,ctrl+f"), ("ctrl++ - Enter", "ctrl+plus,minus,enter")],
)
def test_keys_are_written_as_they_are_read(written: str, named: str) -> None:
    assert keymap({"mark": written})["mark"] == named


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"mark": "hyper+foo"}, "knows no key hyper+foo"),
        ({"mark": "cmd+f"}, "knows no key cmd+f"),
        ({"quit": ""}, "leaves no key for quit"),
        ({"rerun": "q"}, "leaves no key for quit"),
        ({"rerun": "ctrl+c"}, "leaves no key for interrupt"),
    ],
)
def test_keys_that_lead_nowhere_are_refused(wanted: dict[str, str], words: str) -> None:
    with pytest.raises(BadKeys, match=re.escape(words)):
        keymap(wanted)


def test_a_key_that_is_remapped_is_no_longer_another_command_s() -> None:
    keys = keymap({"mark": "r x"})
    assert (keys["rerun"], keys["stop"]) == ("enter", "")
    assert not {"r", "x"} & {sign for sign, _ in footer(80, keys)}
    assert footer(80, keys)[0] == ("Enter", "rerun")


def test_the_debugger_is_put_before_the_program() -> None:
    def words(command: str) -> str:
        return " ".join(debugger_words(command) or ["none"])

    assert words("python train.py --lr 1") == "python -m pdb -c continue train.py --lr 1"
    assert words("python3 -u -X dev -m pkg a") == "python3 -u -X dev -m pdb -c continue -m pkg a"
    assert words(".venv/bin/python3.11 a.py") == ".venv/bin/python3.11 -m pdb -c continue a.py"
    for command in ("torchrun train.py", "python", "python -c 'x = 1'", ""):
        assert words(command) == "none"


def test_a_path_of_the_box_is_found_in_the_project(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "model.py").write_text("")
    (tmp_path / "model.py").write_text("")
    found = local_path(tmp_path, "/state/workspaces/x/files/pkg/model.py")
    assert found == tmp_path / "pkg" / "model.py"
    assert local_path(tmp_path, "model.py") == tmp_path / "model.py"
    assert local_path(tmp_path, "/usr/lib/other.py") is None
    assert local_path(tmp_path / "pkg", "../model.py") == tmp_path / "pkg" / "model.py"


def test_editors_are_told_the_line() -> None:
    path = Path("/p/a.py")
    assert editor({"EDITOR": "vim -n"}, path, 3).argv == ["vim", "-n", "+3", "/p/a.py"]
    assert editor({"VISUAL": "code -w"}, path, 3).argv == ["code", "-w", "--goto", "/p/a.py:3"]
    assert editor({}, path, 3).argv == ["vi", "+3", "/p/a.py"]


@pytest.mark.parametrize("cut_at", [0, 1, 2, 5, 6, 7, 8, 9, 10])
def test_an_old_mouse_report_vanishes_wherever_it_is_cut(cut_at: int) -> None:
    data = b"ab\x1b[M\xff\xe9\xc3cd"
    feeder = InputBytes()
    assert feeder.feed(data[:cut_at]) + feeder.feed(data[cut_at:]) == "abcd"


@given(st.lists(st.binary(max_size=20)))
def test_no_bytes_are_an_error(pieces: list[bytes]) -> None:
    feeder = InputBytes()
    for piece in pieces:
        feeder.feed(piece)


def test_keys_after_an_old_mouse_report_arrive() -> None:
    feeder = InputBytes()
    assert feeder.feed(b"a\x1b[M\xff") == "a"
    assert feeder.feed(b"\xe9") == ""
    assert feeder.feed(b"\xc3bq\xc3") == "bq"
    assert feeder.feed(b"\xa9") == "é"


def test_half_a_character_does_not_end_the_input() -> None:
    """Nothing to read yet is no end of what is to be read."""
    feeder, parser = InputBytes(), XTermParser()
    events = [e for b in b"a\xc3\xa9q" for e in events_in(parser, feeder.feed(bytes([b])))]
    assert [event.character for event in events if isinstance(event, Key)] == ["a", "é", "q"]
