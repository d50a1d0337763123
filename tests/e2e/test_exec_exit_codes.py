"""`devloop exec` exits as the command did, or as a shell would say why it could not."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from .box import Tail, descendants_with, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from .box import Box

IGNORES = "trap '' INT TERM HUP; echo ready; while :; do sleep 0.{marker}; done"


@pytest.mark.over_ssh
@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)],
)
def test_the_exit_code_is_the_commands_own(box: Box, script: str, code: int) -> None:
    done = box.exec(box.project(), "sh", "-c", script)
    assert (done.code, done.stdout, done.stderr) == (code, b"", "")


def test_a_python_program_exits_as_under_python(box: Box) -> None:
    project = box.project(raises="1/0", exits="raise SystemExit(4)")
    assert box.exec(project, "python3", "exits.py").code == 4
    done = box.exec(project, "python3", "raises.py")
    assert (done.code, done.stderr.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")


@pytest.mark.over_ssh
def test_a_command_that_is_not_there_exits_127(box: Box) -> None:
    project = box.project()
    box.exec(project, "nosuch").assert_error("nosuch: command not found", code=127)
    box.exec(project, "./nosuch").assert_error("./nosuch: command not found", code=127)


def test_a_command_that_may_not_be_executed_exits_126(box: Box) -> None:
    project = box.project()
    (project / "data").write_text("x")
    box.exec(project, "./data").assert_error("./data: Permission denied", code=126)
    box.exec(project, "/").assert_error("Permission denied", code=126)


def test_a_missing_entrypoint_is_named(box: Box) -> None:
    done = box.exec(box.project(), "python3", "nosuch.py")
    assert done.code == 2
    assert "nosuch.py" in done.stderr


def test_no_command_is_a_usage_error(box: Box) -> None:
    project = box.project()
    box.run(project, "exec").assert_error("no command", code=2)
    box.run(project, "up").assert_error("no command", code=2)
    box.run(project, "exec", "--bogus").assert_error("unknown flag --bogus", code=2)


def test_without_a_terminal_t_is_refused(box: Box) -> None:
    box.run(box.project(), "exec", "-t", "--", "true").assert_error("terminal", code=2)


@pytest.mark.over_ssh
def test_ctrl_c_interrupts_the_program_and_exits_130(box: Box) -> None:
    process, out = started(box, box.project(), "sh", "-c", "echo ready; sleep 60")
    out.wait_for("ready")
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130


def test_a_program_that_handles_ctrl_c_says_its_last_words(box: Box) -> None:
    script = "trap 'echo saved; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    process, out = started(box, box.project(), "sh", "-c", script)
    out.wait_for("ready")
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 9
    assert out.wait_for_end() == "ready\nsaved\n"


def test_sigterm_is_forwarded(box: Box) -> None:
    process, out = started(box, box.project(), "sh", "-c", "echo ready; exec sleep 60")
    out.wait_for("ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 143


@pytest.mark.over_ssh
def test_a_second_ctrl_c_kills_what_ignores_signals(box: Box) -> None:
    project = box.project()
    process, out = started(box, project, "sh", "-c", IGNORES.format(marker="0125"))
    out.wait_for("ready")
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(1.5) == 130  # promised: 1 s, on a machine that does nothing else
    wait_until(lambda: not descendants_with("0.0125"), timeout_s=5)


@pytest.mark.embedded
def test_a_killed_client_ends_its_run(box: Box) -> None:
    project = box.project()
    process, out = started(box, project, "sh", "-c", "echo ready; sleep 777.0625")
    out.wait_for("ready")
    process.kill()
    wait_until(lambda: not descendants_with("777.0625"), timeout_s=12)
    wait_until(lambda: not box.live_runs(project))


@pytest.mark.embedded
def test_a_killed_agent_is_devloops_own_failure(own_box: Box) -> None:
    project = own_box.project()
    process, out = started(own_box, project, "sh", "-c", "echo ready; sleep 60")
    out.wait_for("ready")
    own_box.agent().kill()
    assert process.wait(10) == 255
    assert process.stderr is not None
    lines = process.stderr.read().decode().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]


def test_after_a_killed_agent_the_next_exec_starts_another(own_box: Box) -> None:
    project = own_box.project()
    assert own_box.exec(project, "echo", "one").text == "one\n"
    own_box.agent().kill()
    assert (own_box.runtime_dir / "agent.sock").exists()
    done = own_box.exec(project, "echo", "two")
    assert (done.code, done.text, done.stderr) == (0, "two\n", "")


@pytest.mark.over_ssh
def test_arguments_arrive_as_they_were_given(box: Box) -> None:
    words: list[str | bytes] = ["", "a b", "*", "$HOME", "--help", "-q", "ünïcode", b"\xff\xfe"]
    done = box.exec(box.project(), "printf", "%s\\n", *words)
    assert done.stdout == b"".join(
        (word.encode() if isinstance(word, str) else word) + b"\n" for word in words
    )


def started(box: Box, project: Path, *command: str) -> tuple[subprocess.Popen[bytes], Tail]:
    process = box.start(
        project,
        *("exec", "--", *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return process, Tail(process.stdout)
