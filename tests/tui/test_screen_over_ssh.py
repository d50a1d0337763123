"""The screen of a project on a box, whose link is cut, is silent, or leads to another agent."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.e2e.box import open_ssh_box, save, wait_until
from tests.e2e.conftest import _need_sshd, ssh_shared

from .terminal import open_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.box import Box
    from tests.sshd import Sshd

__all__ = ["ssh_shared"]

UP = ("up", "--", "python3", "main.py")
TICKS = """
import itertools, time
for number in itertools.count():
    print(f"tick-{number}", flush=True)
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def box(ssh_shared: Path) -> Iterator[Box]:
    _need_sshd()
    with open_ssh_box(ssh_shared) as opened:
        opened.exec(opened.project(), "true")  # the agent is installed
        yield opened


def sshd_of(box: Box) -> Sshd:
    assert box.sshd is not None
    return box.sshd


def lose(box: Box) -> str:
    """The link is cut, and nobody listens there; what brings it back."""
    config = sshd_of(box).config
    good = config.read_text()
    config.write_text(good.replace("Port ", "Port 1 #"))
    sshd_of(box).drop_connections()
    return good


def test_a_link_that_is_cut_is_counted_down_and_goes_on_where_it_stopped(box: Box) -> None:
    project = box.project(main=TICKS)
    with open_terminal(box, project, *UP, columns=160, rows=45) as terminal:
        terminal.wait_for("tick-20")
        terminal.wait_for("round trip")
        good = lose(box)
        terminal.wait_for("LINK LOST")
        terminal.wait_for("next try in")
        terminal.wait_for("stale")
        save(project / "main.py", "print('saved meanwhile')\n" + TICKS)
        sshd_of(box).config.write_text(good)
        text = terminal.wait_for("connected again")
        terminal.wait_for("main.py changed")
        terminal.wait_for("saved meanwhile")
        wait_until(lambda: "LINK LOST" not in terminal.text and "stale" not in terminal.text)
        assert "AGENT RESTARTED" not in text
        terminal.type("q")
        terminal.wait_for("is live")
        terminal.type("s")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()


def test_a_link_that_is_silent_is_noticed_and_replaced(box: Box) -> None:
    with open_terminal(box, box.project(main=TICKS), *UP, columns=160, rows=45) as terminal:
        terminal.wait_for("tick-20")
        sshd_of(box).signal_connections(signal.SIGSTOP)
        began = time.monotonic()
        terminal.wait_for("stale")
        wait_until(lambda: "stale" not in terminal.text)
        assert time.monotonic() - began < 20  # lost within 16 s, resumed within 3
        terminal.type("/link lost\r")
        terminal.wait_for("/link lost · 1 found")
        terminal.type("q")
        terminal.wait_for("is live")
        terminal.type("s")
        assert terminal.wait_for_end() == 0


def test_who_leaves_while_the_link_is_lost_is_told_what_goes_on(box: Box) -> None:
    project = box.project(main=TICKS)
    with open_terminal(box, project, *UP, columns=120) as terminal:
        terminal.wait_for("tick-20")
        good = lose(box)
        terminal.wait_for("LINK LOST")
        terminal.type("q")
        terminal.wait_for("is live")
        terminal.type("s")
        assert terminal.wait_for_end(15) == 0
        terminal.wait_for("may go on there")
        terminal.assert_given_back()
    sshd_of(box).config.write_text(good)
    assert "running" in box.live_runs(project)
    assert box.run(project, "stop", "1").code == 0


def test_an_agent_that_is_killed_on_the_box_is_told_as_restarted(box: Box) -> None:
    with open_terminal(box, box.project(main=TICKS), *UP, columns=120) as terminal:
        terminal.wait_for("tick-20")
        box.agent().kill()
        terminal.wait_for("AGENT RESTARTED")
        terminal.wait_for("run 1 was lost")
        terminal.type("r")
        terminal.wait_for("▶ RUN 2")
        terminal.type("q")
        terminal.wait_for("is live")
        terminal.type("s")
        assert terminal.wait_for_end() == 0
