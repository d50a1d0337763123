"""The screen of `up` over a link that is lost for longer than a moment."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from typing import TYPE_CHECKING

from tests.tui.terminal import open_terminal

from .box import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .box import Box

TICKS = (
    "import itertools, time\n"
    "for number in itertools.count():\n"
    "    print(f'tick-{number}', flush=True)\n"
    "    time.sleep(0.02)\n"
)


@contextlib.contextmanager
def link_lost(box: Box) -> Iterator[None]:
    """Every connection ends, and nobody answers a new one."""
    assert box.sshd is not None
    server = box.sshd.process.pid
    os.kill(server, signal.SIGSTOP)
    try:
        box.sshd.drop_connections()
        yield
    finally:
        os.kill(server, signal.SIGCONT)


def test_a_link_that_is_away_for_seconds_is_counted_down_and_comes_back(ssh_box: Box) -> None:
    project = ssh_box.project(main=TICKS)
    with open_terminal(ssh_box, project, "up", "--", "python3", "main.py") as terminal:
        terminal.wait_for("tick-5", timeout_s=120)
        with link_lost(ssh_box):
            terminal.wait_for("LINK LOST")
            wait_until(lambda: re.search(r"LINK LOST [3-9] s +next try in", terminal.text))
            assert "RUN 1" in terminal.text
        terminal.wait_for("connected again", timeout_s=60)
        wait_until(lambda: "LINK LOST" not in terminal.text)
        first = newest_tick(terminal.text)
        wait_until(lambda: newest_tick(terminal.text) > first)
        assert "▶ RUN 1" in terminal.text
        terminal.type("q")
        terminal.wait_for("is live")
        terminal.type("s")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()


@contextlib.contextmanager
def emptied(path: Path) -> Iterator[Callable[[], object]]:
    """Calling what it gives puts the contents back, as its end does."""
    text = path.read_text()
    path.write_text("")
    try:
        yield lambda: path.write_text(text)
    finally:
        path.write_text(text)


def test_a_host_key_that_is_not_accepted_is_told_in_the_screen(own_ssh_box: Box) -> None:
    box = own_ssh_box
    assert box.sshd is not None
    with (
        emptied(box.sshd.known_hosts) as put_back,
        open_terminal(box, box.project(main=""), "up", "--", "python3", "main.py") as terminal,
    ):
        terminal.wait_for("(yes/no/[fingerprint])?")
        terminal.type("no\n")
        terminal.wait_for("NOT CONNECTED")
        assert "key" in terminal.wait_for("r tries again")
        put_back()
        terminal.type("r")
        terminal.wait_for("✓ RUN 1", timeout_s=120)
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()


def test_a_login_that_is_refused_is_told_in_the_screen(own_ssh_box: Box) -> None:
    box = own_ssh_box
    assert box.sshd is not None
    with (
        emptied(box.sshd.folder / "authorized_keys"),
        open_terminal(box, box.project(main=""), "up", "--", "python3", "main.py") as terminal,
    ):
        terminal.wait_for("NOT CONNECTED")
        assert "Permission denied" in terminal.wait_for("r tries again")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()


def newest_tick(text: str) -> int:
    return max((int(number) for number in re.findall(r"tick-(\d+)", text)), default=0)
