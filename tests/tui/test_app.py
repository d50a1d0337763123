"""Every key, in a screen on a loop that only notes what it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from textual.widgets import Input, OptionList

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import DevloopError
from devloop.cafs.tree import File, encode_node
from devloop.sync.events import Connected, Reconfigured, Reconnecting, RunLost
from devloop.tui.app import UpApp
from devloop.tui.dialogs import AskCommand, AskLeave, Help
from devloop.tui.diffs import DiffScreen
from devloop.tui.keys import KEYS
from devloop.tui.log.pane import LogPane
from devloop.tui.log.sgr import plain
from devloop.tui.panes import Lines, LinesPane
from devloop.tui.state import Link
from devloop.tui.themes import theme_for
from devloop.tui.vitals import gpu_pane

from .fakes import (
    TRACEBACK,
    FakeGround,
    FakeLoop,
    connected,
    ended,
    facts,
    finished,
    first_output,
    printed,
    sample,
    started,
)
from .pictures import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from textual.pilot import Pilot

    from devloop.cafs.digest import Digest

NARROW, WIDE = (80, 24), (160, 45)


class Screen:
    """An app under test, its ground and its clock."""

    def __init__(self, app: UpApp, ground: FakeGround, clock: Clock, pilot: Pilot[None]) -> None:
        self.app = app
        self.ground = ground
        self.clock = clock
        self.pilot = pilot

    @property
    def loop(self) -> FakeLoop:
        return self.ground.loops[-1]

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def until_open(self, sessions: int = 1) -> None:
        while len(self.ground.loops) < sessions or self.app.view.link is Link.OVER:
            await self.pilot.pause(0.01)

    async def until_done(self, group: str) -> None:
        while any(worker.group == group for worker in self.app.workers):
            await self.pilot.pause(0.01)

    async def settle(self) -> None:
        self.app.log_pane.flush()
        self.app.draw()
        await self.pilot.pause()

    def text(self, name: str) -> str:
        return str(self.app.screen_stack[0].query_one(f"#{name}", Lines).render())

    def shows(self, name: str) -> bool:
        return bool(self.app.screen_stack[0].query_one(f"#{name}").display)


@contextlib.asynccontextmanager
async def opened(
    ground: FakeGround | None = None, size: tuple[int, int] = NARROW, *, waits: bool = True
) -> AsyncIterator[Screen]:
    ground, clock = ground or FakeGround(), Clock()
    app = UpApp(ground, clock)
    async with app.run_test(size=size) as pilot:
        screen = Screen(app, ground, clock, pilot)
        if waits:
            await screen.until_open()
            app.event(connected())
        yield screen


def shown_log(screen: Screen) -> str:
    store = screen.app.log_pane.model.store
    return "\n".join(plain(store.line(at).text) for at in range(store.first, store.end))


def live(screen: Screen, number: int = 1) -> None:
    screen.app.event(started(number))
    screen.app.event(first_output(number))
    screen.loop.live_run = number


class Noting(UpApp):
    """Does nothing, and notes what it was asked to do."""

    def __init__(self, ground: FakeGround) -> None:
        super().__init__(ground, Clock())
        self.asked: list[object] = []

    async def run_action(self, action: object, *_: object, **__: object) -> bool:
        self.asked.append(action)
        return True


ALL_KEYS = [(name, key.action) for key in KEYS for name in key.keys.split(",")]


@pytest.mark.parametrize("pane", ["log", "gpu", "sync", "runs"])
async def test_every_key_of_the_table_does_its_own_in_every_pane(pane: str) -> None:
    app = Noting(FakeGround())
    async with app.run_test(size=WIDE) as pilot:
        app.action_pane(pane)
        await pilot.pause()
        wrong = {}
        for name, action in ALL_KEYS:
            app.asked.clear()
            await pilot.press(name)
            if app.asked != [action]:
                wrong[name] = (action, list(app.asked))
    # What moves within a pane is the pane's own.
    own = {
        "log": {},
        "runs": {"enter": ["select"], "end": ["last"]},
        "gpu": {"end": ["scroll_end"]},
        "sync": {"end": ["scroll_end"]},
    }
    assert {name: asked for name, (_, asked) in wrong.items()} == own[pane], wrong


# -- runs


async def test_a_rerun_is_asked_for_by_both_keys() -> None:
    async with opened() as screen:
        await screen.press("r", "enter")
        assert screen.loop.calls == ["rerun", "rerun"]


async def test_shift_r_restarts_cold() -> None:
    async with opened() as screen:
        live(screen)
        await screen.press("R")
        assert screen.loop.calls == ["restart cold"]


async def test_d_runs_under_the_debugger_and_holds_saves_meanwhile() -> None:
    async with opened() as screen:
        live(screen)
        await screen.press("d")
        while len(screen.loop.calls) < 3:
            await screen.pilot.pause(0.01)
        assert screen.loop.calls == ["stop", "pause True", "pause False"]
        words = ("python", "-m", "pdb", "-c", "continue", "train.py")
        assert screen.ground.verbs == [("exec", "--tty", "--", *words)]


async def test_saves_that_were_held_before_the_debugger_are_held_after_it() -> None:
    async with opened() as screen:
        screen.app.view.is_paused = True
        await screen.press("d")
        await screen.until_done("terminal")
        assert screen.loop.calls == ["stop"]


async def test_what_is_no_python_is_not_debugged() -> None:
    async with opened(FakeGround(command="make train")) as screen:
        await screen.press("d")
        assert (screen.loop.calls, screen.ground.verbs) == ([], [])


def code(screen: Screen, text: bytes) -> Digest:
    """A tree with one file, in the agent's store."""
    entry = File(0o644, len(text), 0, digest_of(text))
    node = encode_node({b"model.py": entry})
    screen.ground.client.blobs |= {digest_of(text): text, digest_of(node): node}
    return digest_of(node)


async def test_v_and_shift_v_show_what_changed_in_the_code() -> None:
    async with opened() as screen:
        for number, text in ((1, b"lr = 1\n"), (2, b"lr = 2\n"), (3, b"lr = 3 # \x1b[2J\n")):
            screen.app.event(started(number, tree=code(screen, text)))
        await screen.press("v")
        while not isinstance(screen.app.screen, DiffScreen):
            await screen.pilot.pause(0.01)
        pane = screen.app.screen.query_one(LogPane)
        assert "run 2 → run 3" in pane.title_text
        lines = [plain(pane.model.store.line(at).text) for at in range(pane.line_count)]
        assert lines[-2:] == ["-lr = 2", "+lr = 3 #  [2J"]
        await screen.press("q", "left_square_bracket", "left_square_bracket", "V")
        while not isinstance(screen.app.screen, DiffScreen):
            await screen.pilot.pause(0.01)
        assert "run 1 → run 3" in screen.app.screen.query_one(LogPane).title_text
        await screen.press("escape")
        assert not isinstance(screen.app.screen, DiffScreen)


async def test_code_that_is_gone_from_the_box_is_said() -> None:
    async with opened() as screen:
        screen.app.event(started(1, tree=code(screen, b"old")))
        screen.app.event(started(2, tree=code(screen, b"new")))
        screen.ground.client.blobs.clear()
        await screen.press("4", "v")
        await screen.until_done("diff")
        assert "gone from the box" in screen.app.log_pane.model.store.line(3).text


async def test_one_run_alone_differs_from_nothing() -> None:
    async with opened() as screen:
        await screen.press("v", "V")
        live(screen)
        await screen.press("v", "V")
        assert not isinstance(screen.app.screen, DiffScreen)


async def test_x_stops_and_shift_x_kills() -> None:
    async with opened() as screen:
        live(screen)
        await screen.press("x")
        assert screen.loop.calls == ["stop"]
        await screen.press("X")
        assert screen.loop.calls == ["stop"] * 3  # asked again, the loop kills


async def test_a_run_that_is_being_stopped_is_shown_as_such_until_it_ends() -> None:
    async with opened() as screen:
        live(screen)
        await screen.press("x")
        await screen.settle()
        assert "■ STOPPING RUN 1 00:00.0  X kills" in screen.text("head")
        await screen.press("X")
        await screen.settle()
        assert "■ KILLING RUN 1" in screen.text("head")
        screen.app.event(finished(1, ended(0, signal=9, reason="stopped")))
        await screen.settle()
        assert "■ RUN 1 stopped" in screen.text("head")


async def test_a_second_ctrl_c_on_a_run_that_goes_on_names_what_is_harder() -> None:
    async with opened() as screen:
        live(screen)
        await screen.press("ctrl+c", "ctrl+c")
        assert "run 1 goes on: x stops it, X kills it" in shown_log(screen)
        assert screen.loop.calls == ["interrupt"] * 2


async def test_a_breakpoint_of_an_ordinary_run_says_how_to_debug_it() -> None:
    async with opened() as screen:
        live(screen)
        text = "Traceback (most recent call last):\nbdb.BdbQuit\n"
        screen.app.event(printed(1, text, stderr=True))
        screen.app.event(finished(1, ended(1)))
        await screen.settle()
        assert "d debugs it" in screen.text("card")


async def test_one_s_own_ctrl_c_is_no_failure() -> None:
    async with opened() as screen:
        live(screen)
        await screen.press("ctrl+c")
        screen.app.event(printed(1, "Traceback (most recent call last):\nKeyboardInterrupt\n"))
        screen.app.event(finished(1, ended(0, signal=2, reason="killed by SIGINT")))
        await screen.settle()
        assert "■ RUN 1 interrupted" in screen.text("head")
        assert not screen.shows("card")


async def test_what_is_asked_for_over_a_lost_link_is_said_to_be_kept() -> None:
    async with opened() as screen:
        live(screen)
        screen.app.event(Reconnecting("no route", 5.0))
        await screen.press("ctrl+c", "x", "r")
        log = shown_log(screen)
        assert "run 1 cannot be reached: x stops it once it can" in log
        assert "run 1 is stopped once the link is back" in log
        assert "it runs again once the link is back" in log
        assert screen.loop.calls == ["stop", "rerun"]


async def test_p_pauses_and_runs_on_save_again() -> None:
    async with opened() as screen:
        await screen.press("p")
        screen.app.view.is_paused = True
        await screen.press("p")
        assert screen.loop.calls == ["pause True", "pause False"]


async def test_ctrl_c_copies_a_selection_before_it_interrupts() -> None:
    async with opened() as screen:
        live(screen)
        screen.app.event(printed(1, "one\ntwo\nthree\n"))
        await screen.settle()
        await screen.press("up", "shift+up", "ctrl+c")
        assert screen.loop.calls == []
        assert screen.app.clipboard
        await screen.press("escape", "ctrl+c")
        assert screen.loop.calls == ["interrupt"]


async def test_ctrl_c_gives_up_a_pattern_and_nothing_else() -> None:
    async with opened() as screen:
        live(screen)
        screen.app.event(printed(1, "one\nstep\n"))
        await screen.settle()
        await screen.press("slash", *"step", "ctrl+c")
        assert screen.loop.calls == []
        assert not isinstance(screen.app.focused, Input)
        assert "/step" not in screen.app.log_pane.title_text
        await screen.press("ctrl+c")
        assert screen.loop.calls == ["interrupt"]


async def test_ctrl_c_says_no_to_whatever_is_asked() -> None:
    async with opened() as screen:
        live(screen)
        await screen.press("q")
        assert isinstance(screen.app.screen, AskLeave)
        await screen.press("ctrl+c")
        assert not isinstance(screen.app.screen, AskLeave)
        assert screen.loop.calls == []
        await screen.press("colon", "ctrl+c")
        assert screen.app.screen is screen.app.screen_stack[0]


async def test_ctrl_c_leaves_where_no_command_is_known() -> None:
    async with opened(FakeGround(command=""), waits=False) as screen:
        while not isinstance(screen.app.screen, AskCommand):
            await screen.pilot.pause(0.01)
        await screen.press("ctrl+c")
        assert not screen.app.is_running


async def test_ctrl_c_leaves_only_at_the_second_time_when_nothing_runs() -> None:
    async with opened() as screen:
        await screen.press("ctrl+c")
        screen.clock.now_s += 5
        await screen.press("ctrl+c")
        assert screen.loop.calls == []
        await screen.press("ctrl+c")
        assert screen.loop.calls == ["leave"]


async def test_brackets_step_through_the_runs() -> None:
    async with opened() as screen:
        for number in (1, 2, 3):
            live(screen, number)
            screen.app.event(printed(number, f"of {number}\n" * 30))
            screen.app.event(finished(number, ended(0)))
        await screen.settle()
        await screen.press("left_square_bracket")
        assert "run 2" in screen.app.log_pane.title_text
        await screen.press("left_square_bracket", "left_square_bracket")
        assert "run 1" in screen.app.log_pane.title_text
        await screen.press("right_square_bracket")
        assert "run 2" in screen.app.log_pane.title_text


async def test_choosing_a_run_shows_its_log() -> None:
    async with opened(size=WIDE) as screen:
        for number in (1, 2):
            live(screen, number)
            screen.app.event(printed(number, f"of {number}\n" * 60))
            screen.app.event(finished(number, ended(0)))
        await screen.settle()
        await screen.press("4")
        assert isinstance(screen.app.focused, OptionList)
        await screen.press("down", "down", "enter")
        assert "run 1" in screen.app.log_pane.title_text
        await screen.settle()
        assert "run 1: save → detect 2.1" in screen.text("cycle")
        await screen.press("right_square_bracket", "right_square_bracket", "r")
        await screen.settle()
        assert "run 1:" not in screen.text("cycle")


# -- the log


async def test_the_keys_of_the_log_work_whatever_has_the_focus() -> None:
    async with opened(size=WIDE) as screen:
        live(screen)
        screen.app.event(printed(1, "a\nValueError: b\nc\n" * 40))
        await screen.settle()
        log = screen.app.log_pane
        await screen.press("2", "w")
        assert "wrap on" in log.title_text
        await screen.press("f")
        assert not log.is_following
        await screen.press("G")
        assert log.is_following
        await screen.press("slash", *"alue", "enter")
        assert "/alue · 40 found" in log.title_text
        await screen.press("ampersand", "c", "enter")
        assert "&c" in log.title_text
        await screen.press("1", "escape", "escape", "c")
        assert "cleared" in log.title_text


async def test_every_other_key_of_the_log_reaches_it_from_another_pane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []
    for name in ("find_next", "find_previous", "next_error", "previous_error", "toggle_time"):
        monkeypatch.setattr(LogPane, f"action_{name}", lambda self, name=name: called.append(name))
    for name in ("toggle_mark", "copy"):
        monkeypatch.setattr(LogPane, f"action_{name}", lambda self, name=name: called.append(name))
    async with opened(size=WIDE) as screen:
        await screen.press("3", "n", "N", "e", "E", "t", "m", "y")
    assert called == [
        *("find_next", "find_previous", "next_error", "previous_error"),
        *("toggle_time", "toggle_mark", "copy"),
    ]


async def test_the_letters_of_vim_and_less_move_in_log_and_list() -> None:
    async with opened(size=WIDE) as screen:
        for number in (1, 2):
            live(screen, number)
            screen.app.event(printed(number, "line\n" * 100))
            screen.app.event(finished(number, ended(0)))
        await screen.settle()
        log = screen.app.log_pane
        await screen.press("k")
        assert not log.is_following
        await screen.press("g")
        assert log.scroll_offset.y == 0
        await screen.press("space")
        assert log.scroll_offset.y > 10
        await screen.press("G", "k", "j", "j")
        assert log.is_following
        await screen.press("4", "j", "j", "enter")
        assert "run 1" in log.title_text


async def test_escape_leads_back_to_the_log_where_there_is_room_for_one_pane() -> None:
    async with opened() as screen:
        await screen.press("2")
        assert not screen.shows("main")
        await screen.press("escape")
        assert screen.shows("main")


async def test_end_follows_again_after_scrolling_up() -> None:
    async with opened() as screen:
        live(screen)
        screen.app.event(printed(1, "line\n" * 100))
        await screen.settle()
        await screen.press("pageup")
        assert "PAUSED" in screen.app.log_pane.title_text
        await screen.press("end")
        assert "FOLLOW" in screen.app.log_pane.title_text


async def test_find_keys_typed_into_the_pattern_are_letters() -> None:
    async with opened() as screen:
        await screen.press("slash", *"xqrp")
        assert screen.loop.calls == []
        assert screen.app.focused is not None
        assert isinstance(screen.app.focused, Input)
        assert screen.app.focused.value == "xqrp"


async def test_the_next_error_is_jumped_to() -> None:
    async with opened() as screen:
        live(screen)
        screen.app.event(printed(1, TRACEBACK + "after\n" * 60, stderr=True))
        await screen.settle()
        await screen.press("e")
        assert not screen.app.log_pane.is_following


async def test_output_goes_to_the_log_between_the_words_of_its_run() -> None:
    async with opened() as screen:
        live(screen)
        screen.app.event(printed(1, "hello\n"))
        screen.app.event(finished(1, ended(3)))
        await screen.settle()
        picture = screen.app.export_screenshot()
        for words in ("run&#160;1&#160;·&#160;model.py&#160;changed", "hello", "exit&#160;3"):
            assert words in picture


# -- panes


async def test_numbers_and_tab_choose_a_pane_where_there_is_room_for_one_only() -> None:
    async with opened() as screen:
        assert screen.shows("main")
        for key, name in (("2", "gpu"), ("3", "sync"), ("4", "runs"), ("tab", "main")):
            await screen.press(key)
            shown = [n for n in ("main", "gpu", "sync", "runs") if screen.shows(n)]
            assert shown == [name]
        await screen.press("shift+tab")
        assert screen.shows("runs")


async def test_all_panes_are_there_from_100_columns_on_and_z_shows_one_alone() -> None:
    async with opened(size=(100, 30)) as screen:
        names = ("main", "gpu", "sync", "runs")
        assert all(screen.shows(name) for name in names)
        await screen.press("2", "z")
        screen.app.sample(sample())
        await screen.settle()
        assert [name for name in names if screen.shows(name)] == ["gpu"]
        await screen.press("z")
        assert all(screen.shows(name) for name in names)
        await screen.pilot.resize_terminal(99, 30)
        await screen.pilot.pause()
        assert [name for name in names if screen.shows(name)] == ["gpu"]


async def test_the_panes_beside_the_log_have_their_new_width_soon_after_a_resize() -> None:
    async with opened() as screen:
        live(screen)
        for at in range(3):
            screen.app.sample(sample(at))
        app = screen.app
        pane = app.query_one("#gpu", LinesPane)
        for size in ((160, 45), (80, 24), (120, 30), (80, 24), (200, 50)):
            await screen.pilot.resize_terminal(*size)
            if size[0] < 100:
                continue
            async with asyncio.timeout(10):
                while True:
                    width, height = pane.scrollable_content_region.size
                    lines = gpu_pane(app.view, width, height, screen.clock(), zoomed=False)
                    if width and pane.lines == lines:
                        break
                    await screen.pilot.pause(0.01)


async def test_a_tiny_terminal_has_one_status_line_and_the_log() -> None:
    async with opened(size=(50, 10)) as screen:
        live(screen)
        await screen.settle()
        assert "RUN 1" in screen.text("head")
        assert not any(screen.shows(name) for name in ("cycle", "vitals", "keys", "card", "side"))
        assert screen.app.log_pane.size.height == 9


# -- failure


async def test_a_failed_run_has_a_card_that_the_next_run_takes_away() -> None:
    async with opened() as screen:
        live(screen)
        screen.app.event(printed(1, TRACEBACK, stderr=True))
        screen.app.event(finished(1, ended(1)))
        await screen.settle()
        assert "RuntimeError: mat1" in screen.text("card")
        assert "model.py:34" in screen.text("card")
        await screen.press("escape")
        await screen.settle()
        assert not screen.shows("card")
        live(screen, 2)
        screen.app.event(finished(2, ended(1)))
        await screen.settle()
        assert screen.shows("card")
        live(screen, 3)
        await screen.settle()
        assert not screen.shows("card")


async def test_a_session_that_cannot_be_opened_says_why_and_r_tries_again() -> None:
    ground = FakeGround(error=DevloopError("no route to gpu1", hint="is the VPN up?"))
    async with opened(ground, waits=False) as screen:
        while screen.app.view.link is not Link.OVER:
            await screen.pilot.pause(0.01)
        await screen.settle()
        assert "no route to gpu1" in screen.text("card")
        assert "is the VPN up?" in screen.text("card")
        assert "NOT CONNECTED" in screen.text("head")
        await screen.press("r")
        await screen.until_open()
        screen.app.event(connected())
        await screen.settle()
        assert not screen.shows("card")


async def test_another_configuration_is_taken_over_and_told() -> None:
    async with opened() as screen:
        ground = screen.ground
        ground.command = "python other.py"
        ground.facts = ground.facts._replace(theme="16", keys={"rerun": "f5"})
        screen.app.event(Reconfigured("devloop.toml has changed"))
        await screen.settle()
        assert screen.app.theme == theme_for("16")
        assert "other.py" in screen.text("head")
        assert "F5 rerun" in screen.text("keys") or "f5 rerun" in screen.text("keys")
        assert "devloop.toml has changed" in shown_log(screen)
        await screen.press("f5", "r")
        assert screen.loop.calls == ["rerun"]


async def test_an_agent_that_was_ended_is_told_with_the_run_that_went_along() -> None:
    async with opened() as screen:
        live(screen)
        screen.loop.end(DevloopError("the agent was ended by `devloop down`"))
        while screen.app.view.link is not Link.OVER:
            await screen.pilot.pause(0.01)
        await screen.settle()
        assert "the agent was ended by `devloop down`" in screen.text("card")
        assert "r tries again" in screen.text("card")
        log = shown_log(screen)
        assert "the agent was ended by `devloop down`" in log
        assert "leaving" not in log
        assert "run 1 ? lost" in log


async def test_a_theme_that_is_not_there_is_told_with_those_that_are() -> None:
    async with opened(FakeGround(theme="nosuch")) as screen:
        await screen.settle()
        assert "there is no theme nosuch" in shown_log(screen)
        assert "default, colour-blind, 16, " in shown_log(screen)
        assert "nord" in shown_log(screen)


async def test_a_loop_that_ends_does_not_close_the_screen() -> None:
    async with opened() as screen:
        live(screen)
        screen.loop.leave()  # as when `devloop down` has ended the agent
        while screen.app.view.link is not Link.OVER:
            await screen.pilot.pause(0.01)
        await screen.settle()
        assert "SESSION ENDED" in screen.text("head")
        await screen.press("r")
        await screen.until_open(2)


async def test_whoever_must_be_asked_is_asked_in_the_terminal() -> None:
    ground = FakeGround(error=DevloopError("Permission denied"), may_be_asked=True)
    app = UpApp(ground, Clock())
    lent: list[str] = []

    @contextlib.contextmanager
    def lend():  # type: ignore[no-untyped-def]
        lent.append("lent")
        yield
        lent.append("back")

    app._feed._lend = lend
    async with app.run_test(size=NARROW) as pilot:
        while len(ground.loops) < 1:
            await pilot.pause(0.01)
        assert ground.openings == [False, True]
        assert lent == ["lent", "back"]


async def test_a_lost_link_is_told_once_with_a_countdown() -> None:
    async with opened() as screen:
        live(screen)
        screen.app.sample(sample())
        for _ in range(5):
            screen.app.event(Reconnecting("no answer", 0.8))
        screen.clock.now_s += 0.3
        await screen.settle()
        assert "LINK LOST" in screen.text("head")
        assert "next try in 0.5 s" in screen.text("head")
        assert "stale" in screen.text("vitals")
        picture = screen.app.export_screenshot()
        assert picture.count("link&#160;lost:&#160;no&#160;answer") == 1
        screen.app.event(connected())
        await screen.settle()
        assert "connected&#160;again" in screen.app.export_screenshot()


async def test_an_agent_that_is_another_one_is_told_with_what_to_do_until_the_next_run() -> None:
    async with opened(size=WIDE) as screen:
        live(screen)
        screen.app.event(Reconnecting("the agent has ended", 0.0))
        await screen.settle()
        assert "LINK LOST" in screen.text("head")
        screen.app.event(Connected(facts(pid=7)))
        screen.app.event(RunLost(1))
        await screen.settle()
        screen.clock.now_s += 60
        await screen.settle()
        assert "AGENT RESTARTED  r runs again  ? RUN 1 lost" in screen.text("head")
        assert "run 1 was lost" in screen.text("card")
        sync = str(screen.app.screen.query_one("#sync Lines", Lines).render())
        assert "agent restarted" in sync
        assert "restarted 1×, 1 min ago" in sync
        live(screen, 2)
        await screen.settle()
        assert "RESTARTED" not in screen.text("head")
        assert not screen.shows("card")


async def test_an_agent_that_took_no_run_along_is_news_for_some_seconds() -> None:
    async with opened() as screen:
        screen.app.event(Reconnecting("the agent has ended", 0.0))
        screen.app.event(Connected(facts(pid=7)))
        await screen.settle()
        assert "AGENT RESTARTED  all is as before" in screen.text("head")
        screen.clock.now_s += 11
        await screen.settle()
        assert "RESTARTED" not in screen.text("head")


@pytest.mark.parametrize(
    ("reason", "why", "again"),
    [
        ("its container has ended: its first process was killed", "first process", "container"),
        ("lost: the agent was killed", "the agent was killed", "agent"),
    ],
)
async def test_a_run_that_was_taken_down_has_a_card(reason: str, why: str, again: str) -> None:
    async with opened() as screen:
        live(screen)
        screen.app.event(finished(1, ended(255, reason=reason, wall_s=0.0)))
        await screen.settle()
        assert "✗ RUN 1 lost" in screen.text("head")
        assert why in screen.text("card")
        assert f"in another {again}" in screen.text("card")


async def test_a_run_that_could_not_start_has_a_card_with_its_hint() -> None:
    async with opened() as screen:
        live(screen)
        end = ended(127, reason="command not found: pyhton")
        screen.app.event(finished(1, end._replace(start_failed=True, detail="is it installed?")))
        await screen.settle()
        assert "✗ RUN 1 exit 127" in screen.text("head")
        assert "command not found: pyhton" in screen.text("card")
        assert "hint: is it installed?" in screen.text("card")


# -- leaving


async def test_q_leaves_at_once_when_nothing_runs() -> None:
    async with opened() as screen:
        await screen.press("q")
        assert screen.loop.calls == ["leave"]
        assert not screen.app.is_running or screen.app.return_code == 0


@pytest.mark.parametrize(("key", "call"), [("s", "leave"), ("q", "leave"), ("k", "leave keep")])
async def test_q_asks_what_becomes_of_a_live_run(key: str, call: str) -> None:
    async with opened() as screen:
        live(screen)
        await screen.press("q")
        assert isinstance(screen.app.screen, AskLeave)
        await screen.press("escape")
        assert screen.loop.calls == []
        await screen.press("q", key)
        assert screen.loop.calls == [call]


async def test_shift_d_detaches_and_says_how_to_come_back() -> None:
    async with opened() as screen:
        live(screen, 7)
        await screen.press("D")
        assert screen.loop.calls == ["leave keep"]
        assert screen.app.last_words == ["run 7 goes on; `devloop attach 7` comes back to it"]


async def test_leaving_while_nothing_is_connected_ends_the_try() -> None:
    ground = FakeGround(error=DevloopError("no route"))
    async with opened(ground, waits=False) as screen:
        while screen.app.view.link is not Link.OVER:
            await screen.pilot.pause(0.01)
        await screen.press("q")
        assert not screen.app._feed._opened


# -- the rest


async def test_the_help_shows_the_keys_in_force() -> None:
    ground = FakeGround(keys={"rerun": "f5"})
    async with opened(ground, size=WIDE) as screen:
        await screen.press("question_mark")
        assert isinstance(screen.app.screen, Help)
        picture = screen.app.export_screenshot()
        assert "f5" in picture
        for key in KEYS:
            assert key.words.replace(" ", "&#160;").replace("'", "&#x27;") in picture, key
        await screen.press("escape", "f5", "r")
        assert screen.loop.calls == ["rerun"]


async def test_the_palette_has_every_command() -> None:
    async with opened() as screen:
        await screen.press("colon")
        assert type(screen.app.screen).__name__ == "CommandPalette"
        await screen.press("escape", "ctrl+p")
        assert type(screen.app.screen).__name__ == "CommandPalette"
        titles = [command.title for command in screen.app.get_system_commands(screen.app.screen)]
        assert "Run again, restarting what runs" in titles
        assert len(titles) == len(set(titles))


async def test_without_a_command_one_question_is_asked() -> None:
    async with opened(FakeGround(command=""), waits=False) as screen:
        await screen.pilot.pause()
        assert isinstance(screen.app.screen, AskCommand)
        picture = screen.app.export_screenshot().replace("&#160;", " ")
        assert "`python main.py` seems to start it" in picture
        assert ".venv: its Python runs the program" in picture
        asked = screen.app.screen.query_one(Input)
        assert asked.value == "python main.py"
        asked.value = " "
        await screen.press("enter")
        assert isinstance(screen.app.screen, AskCommand)
        asked.value = "python other.py"
        await screen.press("enter")
        await screen.until_open()
        assert screen.ground.command == "python other.py"
        await screen.settle()
        assert "other.py" in screen.text("head")
        assert "`python other.py` runs on h100-a" in screen.app.log_pane.model.store.line(0).text


@pytest.mark.parametrize("theme", ["default", "colour-blind", "16"])
async def test_every_theme_draws(theme: str) -> None:
    async with opened(FakeGround(theme=theme), size=WIDE) as screen:
        live(screen)
        screen.app.sample(sample())
        await screen.settle()
        assert "RUN" in screen.app.export_screenshot()


async def test_runs_see_no_color_though_the_screen_has_taken_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened() as screen:
        assert screen.app.no_color
        assert os.environ["NO_COLOR"] == "1"


async def test_the_shell_and_the_pager_are_devloop_s_own_verbs() -> None:
    async with opened() as screen:
        live(screen, 5)
        await screen.press("s")
        await screen.press("o")
        assert screen.ground.verbs == [("shell",), ("logs", "5")]
