"""`devloop exec` in a terminal: the program has one too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .box import wait_until
from .terminal import open_terminal

if TYPE_CHECKING:
    from .box import Box


def test_the_program_has_a_terminal_of_the_same_size(box: Box) -> None:
    with open_terminal(box, box.project(), "exec", "--", "sh", "-c", "tty; stty size") as terminal:
        assert terminal.process.wait(10) == 0
        terminal.screen.wait_for(r"/dev/pts/\d+\s+24 80")


@pytest.mark.over_ssh
def test_a_resize_reaches_the_program(box: Box) -> None:
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"
    with open_terminal(box, box.project(), "exec", "--", "sh", "-c", script) as terminal:
        terminal.screen.wait_for("ready")
        terminal.resize(33, 111)
        terminal.screen.wait_for("33 111")
        assert terminal.process.wait(10) == 0


def test_ctrl_c_is_the_programs_key(box: Box) -> None:
    script = "trap 'echo caught' INT; echo ready; read line; echo again; exec sleep 60"
    with open_terminal(box, box.project(), "exec", "--", "sh", "-c", script) as terminal:
        terminal.screen.wait_for("ready")
        terminal.type("\x03")
        terminal.screen.wait_for("caught")
        terminal.type("x\n")
        terminal.screen.wait_for("again")
        terminal.type("\x03")
        assert terminal.process.wait(10) == 130


def test_ctrl_d_ends_the_input(box: Box) -> None:
    with open_terminal(box, box.project(), "exec", "--", "cat") as terminal:
        terminal.type("line\n")
        terminal.screen.wait_for("line", count=2)
        terminal.type("\x04")
        assert terminal.process.wait(10) == 0


def test_input_prompts_and_reads_what_is_typed(box: Box) -> None:
    project = box.project(ask="print('hello ' + input('name? '))")
    with open_terminal(box, project, "exec", "--", "python3", "ask.py") as terminal:
        terminal.screen.wait_for(r"name\? ")
        terminal.type("box\n")
        terminal.screen.wait_for("hello box")
        assert terminal.process.wait(10) == 0


def test_breakpoint_opens_the_debugger(box: Box) -> None:
    project = box.project(stops="x = 41\nbreakpoint()\nprint('x is', x)\n")
    with open_terminal(box, project, "exec", "--", "python3", "stops.py") as terminal:
        terminal.screen.wait_for(r"\(Pdb\) ")
        terminal.type("x += 1\n")
        terminal.screen.wait_for(r"\(Pdb\) ", count=2)
        terminal.type("continue\n")
        terminal.screen.wait_for("x is 42")
        assert terminal.process.wait(10) == 0


def test_what_was_typed_ahead_is_the_programs(box: Box) -> None:
    with open_terminal(box, box.project(), "exec", "--", "head", "-1") as terminal:
        terminal.type("early\n")
        terminal.screen.wait_for("early", count=2)
        assert terminal.process.wait(10) == 0


@pytest.mark.over_ssh
def test_the_terminal_is_put_back(box: Box) -> None:
    with open_terminal(box, box.project(), "exec", "--", "sh", "-c", "read x; kill -9 $$") as t:
        wait_until(t.is_raw)
        t.type("\n")
        assert t.process.wait(10) == 137
        assert not t.is_raw()


def test_with_capital_t_the_program_has_pipes(box: Box) -> None:
    script = "test -t 1 || echo a pipe"
    with open_terminal(box, box.project(), "exec", "-T", "--", "sh", "-c", script) as terminal:
        terminal.screen.wait_for("a pipe")
        assert terminal.process.wait(10) == 0
