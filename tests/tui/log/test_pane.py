"""The pane under Textual's pilot: every key of its own, the mouse, and that it stays still."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from textual.app import App, ComposeResult
from textual.widgets import Input

from devloop.tui.log.pane import LogPane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from textual.pilot import Pilot

AT_NS = 1_700_000_000_123_000_000


class PaneApp(App[None]):
    def __init__(self, most_lines: int = 1_000_000) -> None:
        super().__init__()
        self.pane = LogPane(most_lines=most_lines)
        self.messages: list[object] = []

    def compose(self) -> ComposeResult:
        yield self.pane

    def on_mount(self) -> None:
        self.pane.focus()

    def on_log_pane_open_file(self, message: LogPane.OpenFile) -> None:
        self.messages.append((message.path, message.line))

    def on_log_pane_open_url(self, message: LogPane.OpenUrl) -> None:
        self.messages.append(message.url)

    def on_log_pane_state_changed(self, message: LogPane.StateChanged) -> None:
        self.messages.append("state")


@asynccontextmanager
async def screen(
    *lines: str, size: tuple[int, int] = (40, 11), most_lines: int = 1_000_000
) -> AsyncIterator[tuple[Pilot[None], LogPane]]:
    """A pane of ten rows under its border."""
    app = PaneApp(most_lines)
    async with app.run_test(size=size, notifications=True) as pilot:
        for line in lines:
            app.pane.append(1, "stdout", line.encode() + b"\n", AT_NS)
        app.pane.flush()
        await pilot.pause()
        yield pilot, app.pane


def numbered(count: int, start: int = 0) -> list[str]:
    return [f"line {at}" for at in range(start, start + count)]


def rows(pane: LogPane) -> list[str]:
    return [pane.render_line(y).text.rstrip() for y in range(pane.size.height)]


def texts(pane: LogPane) -> list[str]:
    """Without the gutter."""
    return [row[1:] for row in rows(pane)]


def add(pane: LogPane, *lines: str) -> None:
    for line in lines:
        pane.append(1, "stdout", line.encode() + b"\n", AT_NS)
    pane.flush()


def cursor_line(pane: LogPane) -> str | None:
    return next((row[1:] for row in rows(pane) if row.startswith("❯")), None)


async def test_it_follows_what_comes() -> None:
    async with screen(*numbered(30)) as (_, pane):
        assert texts(pane) == numbered(10, 20)
        add(pane, "more")
        assert texts(pane)[-2:] == ["line 29", "more"]
        assert pane.title_text == "log · FOLLOW · 31 lines · wrap off"


async def test_what_was_appended_is_drawn_by_itself() -> None:
    async with screen() as (pilot, pane):
        pane.append(1, "stdout", b"hello\n", AT_NS)
        while "hello" not in texts(pane):
            await pilot.pause()


async def test_scrolled_up_is_paused_and_still_and_end_follows_again() -> None:
    async with screen(*numbered(30)) as (pilot, pane):
        await pilot.press("pageup")
        before = rows(pane)
        assert not pane.is_following
        assert before[0] == " line 11"
        add(pane, *numbered(50, 30))
        assert rows(pane) == before
        assert pane.new_since_pause == 50
        assert "PAUSED +50 new · End to follow" in pane.title_text
        await pilot.press("end")
        assert texts(pane) == numbered(10, 70)
        assert pane.is_following


async def test_it_stays_still_while_older_lines_are_dropped() -> None:
    async with screen(*numbered(9000), most_lines=8192) as (pilot, pane):
        await pilot.press("pageup")
        before = texts(pane)
        add(pane, *numbered(4096, 9000))
        assert pane.model.store.first > 0
        assert texts(pane) == before
        await pilot.press("home")
        first = pane.model.store.first
        assert rows(pane)[0].startswith(f"── {first:,} older lines were dropped ─")
        assert texts(pane)[1] == f"line {first}"


async def test_the_wheel_pauses_and_back_at_the_end_it_follows() -> None:
    async with screen(*numbered(30)) as (_, pane):
        pane.scroll_to(y=5, animate=False)
        assert not pane.is_following
        pane.scroll_to(y=pane.max_scroll_y, animate=False)
        assert pane.is_following


async def test_f_pauses_and_follows() -> None:
    async with screen(*numbered(30)) as (pilot, pane):
        await pilot.press("f")
        assert not pane.is_following
        add(pane, "more")
        assert "more" not in texts(pane)
        pane.scroll_to(y=pane.max_scroll_y, animate=False)
        assert not pane.is_following, "it was paused by a key, and scrolling is none"
        await pilot.press("f")
        assert pane.is_following


async def test_arrows_move_the_cursor_and_capital_g_leaves_it() -> None:
    async with screen(*numbered(30)) as (pilot, pane):
        await pilot.press("up")
        assert cursor_line(pane) == "line 28"
        await pilot.press("up", "up", "down")
        assert cursor_line(pane) == "line 27"
        await pilot.press(*["up"] * 10)
        assert cursor_line(pane) == "line 17"
        assert texts(pane)[0] == "line 17"
        await pilot.press("G")
        assert pane.is_following
        assert cursor_line(pane) is None


async def test_down_at_the_end_follows_again() -> None:
    async with screen(*numbered(30)) as (pilot, pane):
        await pilot.press("up", "down", "down")
        assert pane.is_following


async def test_home_and_pages() -> None:
    async with screen(*numbered(40)) as (pilot, pane):
        await pilot.press("home")
        assert texts(pane)[1:] == numbered(9, 1)
        assert cursor_line(pane) == "line 0"
        await pilot.press("pagedown")
        assert texts(pane)[-1] == "line 18"
        await pilot.press("pageup", "pageup")
        assert cursor_line(pane) == "line 0"
        await pilot.press(*["pagedown"] * 4)
        assert pane.is_following


async def test_w_wraps_and_the_line_on_top_stays() -> None:
    long = "x" * 50 + "日" * 20
    async with screen(*numbered(15), long, *numbered(15, 15)) as (pilot, pane):
        await pilot.press("pageup", "pageup")
        top = texts(pane)[0]
        await pilot.press("w")
        assert texts(pane)[0] == top
        assert "wrap on" in pane.title_text
        await pilot.press("end", "pageup", "up", "up")
        joined = "".join(texts(pane))
        assert "x" * 50 in joined.replace(" ", "")
        await pilot.press("w")
        assert "wrap off" in pane.title_text


async def test_a_wrapped_log_ends_with_its_last_row() -> None:
    async with screen("a" * 100, "b" * 100, size=(40, 6)) as (pilot, pane):
        await pilot.press("w")
        width = pane.text_width
        shown = texts(pane)
        assert shown[-1] == "b" * (100 - 2 * width)
        assert shown == ["a" * width, "a" * (100 - 2 * width), "b" * width, "b" * width, shown[-1]]


async def test_t_shows_when_each_line_came() -> None:
    async with screen("hello") as (pilot, pane):
        await pilot.press("t")
        clock = time.strftime("%H:%M:%S", time.localtime(AT_NS // 10**9))
        assert texts(pane)[0] == f"{clock}.123 hello"
        await pilot.press("t")
        assert texts(pane)[0] == "hello"


async def test_m_marks_the_current_line() -> None:
    async with screen(*numbered(3)) as (pilot, pane):
        await pilot.press("m")
        assert rows(pane)[2] == "●line 2"
        await pilot.press("m")
        assert rows(pane)[2] == " line 2"


async def test_c_hides_what_there_is_and_on_an_empty_view_shows_it_again() -> None:
    async with screen(*numbered(30)) as (pilot, pane):
        await pilot.press("c")
        assert not any(rows(pane))
        assert "cleared" in pane.title_text
        add(pane, "new")
        assert texts(pane)[0] == "new"
        await pilot.press("c", "c")
        assert texts(pane)[-1] == "new"
        assert texts(pane)[0] == "line 21"


async def test_left_and_right_scroll_sideways() -> None:
    async with screen("0123456789" * 10) as (pilot, pane):
        assert rows(pane)[0].endswith("›")
        await pilot.press("right")
        assert texts(pane)[0].startswith("8901")
        await pilot.press("left", "left")
        assert texts(pane)[0].startswith("0123")


async def type_pattern(pilot: Pilot[None], key: str, pattern: str) -> None:
    await pilot.press(key)
    await pilot.pause()
    await pilot.press(*pattern)


async def settled(pilot: Pilot[None]) -> None:
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


async def test_slash_finds_upwards_and_n_goes_on_and_around() -> None:
    lines = [f"{at} {'loss' if at % 10 == 5 else 'step'}" for at in range(40)]
    async with screen(*lines) as (pilot, pane):
        await type_pattern(pilot, "slash", "loss")
        await pilot.press("enter")
        await settled(pilot)
        assert cursor_line(pane) == "35 loss"
        assert "/loss · 4 found" in pane.title_text
        await pilot.press("N")
        assert cursor_line(pane) == "25 loss"
        await pilot.press("n")
        assert cursor_line(pane) == "35 loss"
        await pilot.press("n")
        assert cursor_line(pane) == "5 loss", "around the end"
        await pilot.press("N")
        assert cursor_line(pane) == "35 loss"


async def test_escape_brings_back_the_pattern_before() -> None:
    async with screen(*numbered(5)) as (pilot, pane):
        pane.action_find("line 3")
        await type_pattern(pilot, "slash", "x")
        await pilot.press("escape")
        await settled(pilot)
        assert pane.model.find is not None
        assert pane.model.find.pattern.source == "line 3"
        assert not pilot.app.query(Input)
        await pilot.press("escape")
        assert pane.model.find is None


async def test_ampersand_filters_inverts_and_shows_context() -> None:
    async with screen(*numbered(30)) as (pilot, pane):
        await type_pattern(pilot, "ampersand", "ne 1$")
        await pilot.press("enter")
        await settled(pilot)
        assert [row for row in texts(pane) if row] == ["line 1"]
        await pilot.press("plus")
        assert [row for row in texts(pane) if row] == ["line 0", "line 1", "line 2"]
        await pilot.press("minus")
        add(pane, "line 1", "line 2")
        assert [row for row in texts(pane) if row] == ["line 1", "line 1"]
        pane.action_filter("!line [0-9]$")
        await settled(pilot)
        assert texts(pane) == numbered(10, 20)
        await pilot.press("escape")
        assert texts(pane)[-1] == "line 2"


async def test_a_search_through_many_lines_lets_the_event_loop_run() -> None:
    async with screen() as (pilot, pane):
        pane.append(1, "stdout", b"needle\n" + b"hay hay hay hay\n" * 150_000, AT_NS)
        pane.flush()
        longest, running = 0.0, True

        async def watch() -> None:
            nonlocal longest
            while running:
                before = time.perf_counter()
                await asyncio.sleep(0)
                longest = max(longest, time.perf_counter() - before)

        watcher = asyncio.create_task(watch())
        pane.action_find("n[e]+dle")
        await settled(pilot)
        running = False
        await watcher
        assert cursor_line(pane) == "needle"
        assert longest < 0.5, "one step would take it whole"


TRACEBACK = """Traceback (most recent call last):
  File "/work/train.py", line 12, in <module>
    main()
torch.cuda.OutOfMemoryError: CUDA out of memory"""


async def test_e_goes_to_the_newest_error_and_capital_e_to_the_one_before() -> None:
    lines = ["ok", "2024 ERROR bad", *numbered(20), *TRACEBACK.splitlines(), *numbered(20)]
    async with screen(*lines) as (pilot, pane):
        await pilot.press("e")
        await settled(pilot)
        assert (cursor_line(pane) or "").startswith("torch.cuda.OutOfMemoryError")
        await pilot.press("E")
        await settled(pilot)
        assert cursor_line(pane) == "2024 ERROR bad"
        await pilot.press("e")
        assert (cursor_line(pane) or "").startswith("torch.cuda")


async def test_a_click_on_a_traceback_line_or_an_address_says_so() -> None:
    async with screen(*TRACEBACK.splitlines(), "see https://a.example/x.") as (pilot, _):
        await pilot.click(LogPane, offset=(12, 2))
        await pilot.click(LogPane, offset=(10, 5))
        await pilot.click(LogPane, offset=(2, 5))
        messages = [each for each in pilot.app.messages if each != "state"]  # type: ignore[attr-defined]
        assert messages == [("/work/train.py", 12), "https://a.example/x"]


async def test_a_drag_selects_and_y_copies_it(no_tools: None) -> None:
    async with screen("zero", "日本 one", "two") as (pilot, pane):
        await pilot.mouse_down(LogPane, offset=(2, 2))
        await pilot.hover(LogPane, offset=(2, 3))
        await pilot.mouse_up(LogPane, offset=(2, 3))
        await pilot.press("y")
        assert pilot.app.clipboard == "日本 one\ntw"
        assert pane.has_selection
        await pilot.press("escape")
        assert not pane.has_selection


async def test_y_copies_the_current_line_without_colours(no_tools: None) -> None:
    async with screen("one", "\x1b[31mtwo\x1b[0m") as (pilot, _):
        await pilot.press("y")
        assert pilot.app.clipboard == "two"


async def test_shift_and_arrows_select_whole_lines(no_tools: None) -> None:
    async with screen(*numbered(5)) as (pilot, _):
        await pilot.press("shift+up", "shift+up", "shift+up", "y")
        assert pilot.app.clipboard == "line 2\nline 3\nline 4"


async def test_two_clicks_select_a_word_and_three_the_line(no_tools: None) -> None:
    async with screen("alpha beta gamma") as (pilot, pane):
        await pilot.click(LogPane, offset=(9, 1), times=2)
        assert pane.selected_text() == "beta"
        await pilot.click(LogPane, offset=(9, 1), times=3)
        assert pane.selected_text() == "alpha beta gamma"


async def test_runs_are_separated_and_can_be_gone_to() -> None:
    async with screen() as (pilot, pane):
        for number in (13, 14):
            pane.begin_run(number, f"run {number} · model.py changed")
            pane.append(number, "stdout", b"".join(b"%d\n" % at for at in range(30)), AT_NS)
            pane.end_run(number, f"run {number} ✓ exit 0")
        pane.flush()
        assert rows(pane)[-1].startswith("── run 14 ✓ exit 0 ───")
        assert "run 14" in pane.title_text
        pane.action_show_run(13)
        assert rows(pane)[0].startswith("── run 13 · model.py changed ───")
        assert "run 13" in pane.title_text
        pane.action_show_run(None)
        assert pane.is_following
        await pilot.pause()


async def test_stderr_is_told_apart_without_colour() -> None:
    async with screen() as (_, pane):
        pane.append(1, "stdout", b"out\n", AT_NS)
        pane.append(1, "stderr", b"err\n", AT_NS)
        pane.note("link lost", "warning")
        pane.flush()
        assert rows(pane)[:3] == [" out", "▎err", "·link lost"]


async def test_a_note_or_a_title_cannot_bring_escapes_along() -> None:
    async with screen() as (_, pane):
        pane.begin_run(1, "run 1 · \x1b]52;c;x\x07 [bold]changed")
        pane.note("a\x1b[2Jb", "info")
        pane.flush()
        assert "\x1b" not in "".join(rows(pane))
        assert "[bold]" in rows(pane)[0]


async def test_a_note_between_two_halves_of_a_character_or_of_an_escape_breaks_neither() -> None:
    async with screen() as (_, pane):
        for data in (b"a\xc3", b"\xa9 \x1b[3", b"1mred\n"):
            pane.append(1, "stdout", data, AT_NS)
            pane.note("note", "info")
        pane.flush()
        assert [row for row in texts(pane) if row] == ["a", "note", "é", "note", "red", "note"]


async def test_a_progress_bar_moves_in_its_row() -> None:
    async with screen("before") as (_, pane):
        for at in range(5):
            pane.append(1, "stderr", f"\r{at}/4".encode(), AT_NS)
            pane.flush()
            assert [row for row in texts(pane) if row] == ["before", f"{at}/4"]


async def test_the_title_is_the_border_and_its_change_is_said() -> None:
    async with screen("one") as (pilot, pane):
        assert str(pane.border_title) == pane.title_text
        pilot.app.messages.clear()  # type: ignore[attr-defined]
        add(pane, "two")
        await pilot.pause()
        assert pilot.app.messages == ["state"]  # type: ignore[attr-defined]


async def test_a_pattern_with_markup_is_shown_as_typed() -> None:
    async with screen("one") as (_, pane):
        pane.action_find("[red]")
        assert "/[red] " in pane.title_text


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The desktop that the tests run on keeps its clipboard."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


async def test_what_devloop_says_is_all_there_in_a_narrow_pane() -> None:
    words = "another `devloop up` of this project is open, in another terminal"
    async with screen("x" * 100, size=(60, 11)) as (pilot, pane):
        pane.begin_run(14, f"run 14 · {'a long reason ' * 9}· synced 3 files · 12:00:11")
        pane.note(words)
        pane.flush()
        await pilot.pause()
        rows = [pane.render_line(y).text for y in range(pane.size.height)]
        shown = " ".join("".join(row).strip("· ") for row in rows)
        assert words in shown
        assert any("…" in row and "12:00:11" in row for row in rows)
        assert sum("x" in row for row in rows) == 1


async def test_the_title_tells_a_pattern_from_its_count_and_what_is_no_expression() -> None:
    async with screen("step 12") as (pilot, pane):
        pane.action_find("step 12")
        await pilot.pause()
        assert "/step 12 · 1 found" in pane.title_text
        pane.action_filter("99|[")
        await pilot.pause()
        assert "&99|[ (as text) · 0 found" in pane.title_text


async def test_what_is_copied_of_a_line_that_was_cut_is_the_program_s() -> None:
    async with screen("x" * 20_000) as (pilot, pane):
        assert pane.selected_text() == "x" * 16_384
        await pilot.press("shift+up")
        assert pane.selected_text() == "x" * 16_384


async def test_a_cleared_log_is_that_of_the_newest_run() -> None:
    async with screen() as (pilot, pane):
        pane.begin_run(1, "run 1")
        pane.end_run(1, "run 1")
        pane.begin_run(2, "run 2")
        pane.flush()
        pane.action_clear_view()
        await pilot.pause()
        assert "run 2" in pane.title_text
