"""Runs that outlive the command that started them: -d, ps, logs, attach, stop, down, pull."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from .box import Tail, descendants_with, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from .box import Box


def test_a_detached_run_gives_its_number_and_goes_on(box: Box) -> None:
    project = box.project()
    number = detached(box, project, "sh", "-c", "echo one; sleep 0.3; echo two; sleep 779.25")
    [_, line] = box.live_runs(project).splitlines()
    assert line.split()[:3] == [number, "project", "running"]
    assert "sleep 779.25" in line
    follower = box.start(project, "logs", "-f", number, stdout=subprocess.PIPE)
    out = Tail(follower.stdout)
    out.wait_for("one\ntwo")
    assert box.run(project, "logs").text == "one\ntwo\n"
    assert f"run {number} ended: SIGINT" in box.run(project, "stop").stderr
    assert follower.wait(10) == 0
    assert not descendants_with("779.25")
    assert box.live_runs(project) == ""


def test_attach_types_into_a_run_and_exits_as_it_does(box: Box) -> None:
    project = box.project()
    number = detached(box, project, "sh", "-c", "echo ready; sleep 0.3; exit 6")
    done = box.run(project, "attach", number)
    assert (done.code, done.text) == (6, "ready\n")
    again = box.run(project, "attach", number)
    assert (again.code, again.text) == (6, "ready\n")


def test_ctrl_c_in_attach_interrupts_the_run(box: Box) -> None:
    project = box.project()
    detached(box, project, "sh", "-c", "echo ready; exec sleep 60")
    process = box.start(project, "attach", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    Tail(process.stdout).wait_for("ready")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130


def test_stop_kill_ends_what_ignores_signals(box: Box) -> None:
    project = box.project()
    script = "trap '' INT TERM; echo ready; while :; do sleep 0.015625; done"
    detached(box, project, "sh", "-c", script)
    wait_until(lambda: box.run(project, "logs").text)
    assert box.run(project, "stop", "--kill").code == 0
    assert not descendants_with("0.015625")


@pytest.mark.parametrize("verb", ["logs", "stop", "attach"])
def test_a_run_that_is_not_there_is_named(box: Box, verb: str) -> None:
    project = box.project()
    box.exec(project, "true")
    box.run(project, verb, "999").assert_error("has no run 999")


def test_a_change_waits_for_a_run_pinned_to_other_files(box: Box) -> None:
    project = box.project(main="print(1)")
    number = detached(box, project, "sleep", "60")
    (project / "main.py").write_text("print(2)")
    waiting = box.start(
        project,
        *("exec", "--", "python3", "main.py"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    talk, out = Tail(waiting.stderr), Tail(waiting.stdout)
    talk.wait_for(f"run {number} uses another version of these files")
    assert box.run(project, "stop", number).code == 0
    out.wait_for("^2$")
    assert waiting.wait(10) == 0


def test_down_ends_the_agent_and_its_runs(own_box: Box) -> None:
    project = own_box.project()
    detached(own_box, project, "sleep", "780.5")
    agent = own_box.agent()
    assert "and 1 live run with it" in own_box.run(project, "down").stderr
    agent.wait(5)
    assert not descendants_with("780.5")
    assert not (own_box.runtime_dir / "agent.sock").exists()


def test_runs_survive_a_restart_of_the_agent(own_box: Box) -> None:
    project = own_box.project()
    own_box.exec(project, "echo", "kept")
    own_box.run(project, "down")
    own_box.exec(project, "true")
    assert own_box.run(project, "logs", "1").text == "kept\n"


def test_pull_fetches_outputs_and_keeps_what_was_there(box: Box) -> None:
    project = box.project()
    (project / "devloop.toml").write_text('sync.outputs = ["out/"]\n')
    script = "mkdir -p out; echo model > out/model; echo log > out/log"
    assert box.exec(project, "sh", "-c", script).code == 0
    assert (project / "out" / "model").read_text() == "model\n"
    (project / "out" / "log").write_text("my own notes\n")
    (project / "out" / "model").unlink()
    done = box.run(project, "pull")
    assert done.code == 1
    assert "out/log" in done.stderr
    assert (project / "out" / "model").read_text() == "model\n"
    assert (project / "out" / "log").read_text() == "my own notes\n"


def test_ps_shows_no_control_code_of_a_command(box: Box) -> None:
    project = box.project()
    box.exec(project, "true", b"\xff", "\x1b[31m")
    done = box.run(project, "ps", "-a", env={"PYTHONIOENCODING": "utf-8:strict"})
    assert (done.code, "\x1b" in done.text) == (0, False)
    assert r"true '\udcff' '\x1b[31m'" in done.text


def test_files_that_runs_make_stay_in_the_workspace(box: Box) -> None:
    project = box.project(main="")
    box.exec(project, "sh", "-c", "echo checkpoint > state")
    (project / "main.py").write_text("print(open('state').read())")
    assert box.exec(project, "python3", "main.py").text == "checkpoint\n\n"
    assert not (project / "state").exists()


def detached(box: Box, project: Path, *command: str) -> str:
    done = box.run(project, "exec", "-d", "--", *command)
    assert done.code == 0, done
    return done.text.strip()
