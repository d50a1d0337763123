"""Runs that outlive the command that started them: -d, ps, logs, attach, stop, down, pull."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from devloop.cli.attached import Escape

from .box import Tail, descendants_with, wait_until
from .terminal import open_terminal

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


@pytest.mark.over_ssh
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


@pytest.mark.over_ssh
def test_ctrl_backslash_only_detaches(box: Box) -> None:
    project = box.project()
    number = detached(box, project, "sh", "-c", "echo ready; exec sleep 61")
    process = box.start(
        project,
        *("attach", number),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    Tail(process.stdout).wait_for("ready")
    process.send_signal(signal.SIGQUIT)
    talk = Tail(process.stderr)
    talk.wait_for("this run takes no input")
    talk.wait_for("Ctrl-C interrupts the run")
    assert process.wait(10) == 0
    assert "sleep 61" in box.live_runs(project)
    assert box.run(project, "stop", number).code == 0


def test_a_hang_up_of_an_attach_leaves_the_run(box: Box) -> None:
    project = box.project()
    number = detached(box, project, "sh", "-c", "echo ready; exec sleep 62")
    process = box.start(project, "attach", number, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    Tail(process.stdout).wait_for("ready")
    process.send_signal(signal.SIGHUP)
    assert process.wait(10) == 129
    assert "sleep 62" in box.live_runs(project)
    assert box.run(project, "stop", number).code == 0


def test_a_reader_that_leaves_an_attach_leaves_the_run(box: Box) -> None:
    project = box.project()
    number = detached(box, project, "sh", "-c", "while :; do echo y; sleep 0.0625; done")
    process = box.start(project, "attach", number, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(10) == 141
    assert "running" in box.live_runs(project)
    assert box.run(project, "stop", number).code == 0


def test_a_second_client_reads_only_and_ends_nobodys_input(box: Box) -> None:
    project = box.project()
    owner = box.start(
        project,
        *("exec", "--", "sh", "-c", "echo ready; exec cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    out = Tail(owner.stdout)
    out.wait_for("ready")
    guest = box.start(
        project, "attach", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert guest.stdin is not None
    assert owner.stdin is not None
    guest.stdin.write(b"from the guest\n")
    guest.stdin.close()
    Tail(guest.stderr).wait_for("another client types into this run")
    owner.stdin.write(b"from the owner\n")
    owner.stdin.flush()
    out.wait_for("from the owner")
    Tail(guest.stdout).wait_for("from the owner")
    owner.stdin.close()
    assert (owner.wait(10), guest.wait(10)) == (0, 0)
    assert "guest" not in out.wait_for_end()


def test_a_client_that_takes_over_is_heard_from_its_first_byte_and_can_detach(box: Box) -> None:
    project = box.project()
    with open_terminal(box, project, "exec", "--", "sh", "-c", "echo ready; exec cat") as owner:
        owner.screen.wait_for("ready")
        owner.type("from the owner\r")
        owner.screen.wait_for("from the owner", count=2)
        owner.process.kill()
        owner.process.wait()
        with open_terminal(box, project, "attach") as guest:
            guest.screen.wait_for("Enter ~. detaches")
            wait_until(guest.is_raw)
            guest.type("hi\r")
            guest.screen.wait_for("hi", count=2)
            guest.type("~.")
            assert guest.process.wait(10) == 0
            assert not guest.is_raw()
    assert "cat" in box.live_runs(project)
    assert box.run(project, "stop").code == 0


@pytest.mark.parametrize(
    ("typed", "kept", "found"),
    [
        ([b"a\r~", b".x"], b"a\r", True),
        ([b"~.", b""], b"", True),
        ([b"a~.\n"], b"a~.\n", False),
        ([b"~~.\r~x"], b"~.\r~x", False),
    ],
)
def test_the_escape_is_found_at_the_start_of_a_line(
    typed: list[bytes], kept: bytes, found: bool
) -> None:
    escape = Escape()
    assert (b"".join(map(escape.feed, typed)), escape.found) == (kept, found)


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
    box.run(project, verb, "999").assert_error("has no run 999", code=1)


@pytest.mark.over_ssh
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


@pytest.mark.over_ssh
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


@pytest.mark.embedded
def test_what_has_ended_is_shown_without_an_agent_that_runs(own_box: Box) -> None:
    project = own_box.project()
    own_box.exec(project, "echo", "kept")
    own_box.run(project, "down")
    own_box.run(project, "ps").assert_error("no agent runs here", code=1)
    assert own_box.run(project, "logs").text == "kept\n"
    own_box.run(project, "down")
    assert "echo kept" in own_box.run(project, "ps", "-a").text


@pytest.mark.over_ssh
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
