"""What is told while a sync takes its time: the agent is held up, so that it does."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from .box import Tail, wait_until
from .terminal import open_terminal

if TYPE_CHECKING:
    from .box import Box


@pytest.mark.embedded
def test_a_terminal_shows_a_line_that_is_gone_when_the_output_comes(own_box: Box) -> None:
    """With -q there is none."""
    project = own_box.project()
    screen_box = replace(own_box, env=own_box.env | {"TERM": "xterm"})
    agent = own_box.agent()
    agent.suspend()
    try:
        with open_terminal(screen_box, project, "exec", "-q", "--", "echo", "hi") as quiet:
            with open_terminal(screen_box, project, "exec", "--", "echo", "hi") as talking:
                talking.screen.wait_for("devloop: connecting…", count=3)
                agent.resume()
                assert talking.process.wait(20) == 0
                talking.screen.wait_for("\r\x1b\\[Khi")
            assert quiet.process.wait(20) == 0
            quiet.screen.wait_for("hi")
            assert quiet.screen.text.split() == ["hi"]
    finally:
        agent.resume()


def test_elsewhere_a_long_upload_gets_a_plain_line_on_stderr(own_box: Box) -> None:
    project = own_box.project()
    with (project / "data.bin").open("wb") as file:
        file.truncate(192 << 20)
    agent = own_box.agent()
    process = own_box.start(
        project, "exec", "--json", "--", "true", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    store = own_box.state_dir / "store"
    wait_until(lambda: any(path.stat().st_size > 1 << 20 for path in store.rglob(".tmp-*")))
    agent.suspend()
    try:
        talk, out = Tail(process.stderr), Tail(process.stdout)
        talk.wait_for(r"^devloop: uploading 1 file, [\d.]+ MB of 201 MB, [\d.]+ \wB/s\n")
    finally:
        agent.resume()
    assert process.wait(30) == 0
    assert "uploading" not in out.wait_for_end()
    assert "\r" not in talk.wait_for_end()


def test_up_draws_it_while_nothing_is_printed(own_box: Box) -> None:
    project = own_box.project(train="print('one')")
    screen_box = replace(own_box, env=own_box.env | {"TERM": "xterm"})
    with open_terminal(screen_box, project, "up", "--plain", "--", "python3", "train.py") as up:
        up.screen.wait_for("run 1 ✓")
        drawn = up.screen.text.count("devloop: applying… 1 s")  # on a slow machine, also before
        agent = own_box.agent()
        agent.suspend()
        try:
            (project / "train.py").write_text("print('two')")
            up.screen.wait_for("devloop: applying… 1 s", count=drawn + 2)
        finally:
            agent.resume()
        up.screen.wait_for("\r\x1b\\[K── run 2 · train.py changed")
        up.screen.wait_for("run 2 ✓")
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(20) == 0
