"""`devloop up` in a real terminal, with a real agent: it draws, runs, lends and gives back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.box import descendants_with, open_box, save, wait_until

from .terminal import open_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.box import Box

    from .terminal import Terminal

SLEEPER = "import time\nprint('{}', flush=True)\ntime.sleep(600)\n"
CRASHING = Path(__file__).with_name("crashing.py")


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with open_box() as opened:
        yield opened


UP = ("up", "--", "python3", "main.py")


def test_a_save_runs_the_new_code_in_the_screen(box: Box) -> None:
    project = box.project(main="print('token-1')")
    with open_terminal(box, project, *UP) as terminal:
        text = terminal.wait_for("token-1")
        assert "q quit" in text
        terminal.wait_for("✓ RUN 1 exit 0")
        save(project / "main.py", "print('token-2')")
        terminal.wait_for("token-2")
        terminal.wait_for("main.py changed")
        assert "save→out" in terminal.wait_for("✓ RUN 2 exit 0")
        save(project / "main.py", "raise ValueError('boom')")
        terminal.wait_for("✗ run 3 exit 1")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()


def test_the_size_is_the_terminals_and_not_that_of_exported_variables(box: Box) -> None:
    project = box.project(main="print('before')")
    old = {"COLUMNS": "80", "LINES": "24"}
    with open_terminal(box, project, *UP, rows=45, columns=160, **old) as terminal:
        terminal.wait_for("✓ RUN 1")
        terminal.wait_for("round trip")  # in a pane beside the log


def test_a_run_that_is_kept_goes_on_after_q(box: Box) -> None:
    project = box.project(main=SLEEPER.format("kept"))
    with open_terminal(box, project, *UP) as terminal:
        terminal.wait_for("kept")
        terminal.type("q")
        terminal.wait_for("is live")
        terminal.type("k")
        assert terminal.wait_for_end() == 0
        terminal.wait_for("run 1 goes on; `devloop attach 1`")
        terminal.assert_given_back()
    assert "running" in box.live_runs(project)
    with open_terminal(box, project, *UP) as terminal:
        terminal.wait_for("run 1 is live already, and goes on beside this `up`")
        terminal.wait_for("`devloop stop 1` ends it")
        terminal.wait_for("RUN 2")
    box.run(project, "stop", "1")


def test_a_run_that_is_not_kept_is_stopped(box: Box) -> None:
    project = box.project(main=SLEEPER.format("stopped"))
    with open_terminal(box, project, *UP) as terminal:
        terminal.wait_for("stopped")
        terminal.type("q")
        terminal.wait_for("is live")
        terminal.type("s")
        assert terminal.wait_for_end() == 0
        terminal.wait_for("run 1 was stopped")
    assert "running" not in box.live_runs(project)


def test_the_shell_has_the_real_terminal_and_saves_run_meanwhile(box: Box) -> None:
    project = box.project(main="print('before')")
    with open_terminal(box, project, *UP, SHELL="/bin/sh", ENV="") as terminal:
        terminal.wait_for("✓ RUN 1")
        terminal.type("s")
        wait_until(lambda: b"\x1b[?1049l" in terminal.data)
        terminal.type("echo in $((40+2)) shell\n")
        terminal.wait_for("in 42 shell")
        save(project / "main.py", "open('meanwhile', 'w').write('x')\nprint('after')")
        meanwhile = "test -e meanwhile && echo it ra''n\n"
        wait_until(lambda: terminal.type(meanwhile) or "it ran" in terminal.text)  # type: ignore[func-returns-value]
        terminal.type("exit\n")
        terminal.wait_for("after")
        terminal.wait_for("q quit")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()


def test_the_debugger_has_the_terminal_and_a_save_waits_for_its_end(box: Box) -> None:
    project = box.project(main="x = 6\nraise ValueError('boom')\n")
    (project / "devloop.toml").write_text('[screen]\nkeys = { debug = "f9" }\n')
    with open_terminal(box, project, *UP) as terminal:
        terminal.wait_for("✗ RUN 1")
        terminal.type("\x1b[20~")
        terminal.wait_for("(Pdb)")
        terminal.type("x * 7 + 1\n")
        terminal.wait_for("43")
        save(project / "main.py", "print('token-2')\n")
        terminal.type("!print('still', 'here')\n")
        terminal.wait_for("still here")
        terminal.type("q\n")
        terminal.wait_for("restarted")  # as pdb does after a look at an exception
        terminal.type("q\n")
        terminal.wait_for("✓ RUN 3")
        assert "token-2" in terminal.text
        terminal.type("v")
        terminal.wait_for("+print('token-2')")
        assert "-raise ValueError" in terminal.text
        terminal.type("q")
        terminal.wait_for("token-2")
        terminal.type("R")
        terminal.wait_for("✓ RUN 4")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()


def test_the_failing_line_is_opened_in_the_editor(box: Box, tmp_path: Path) -> None:
    project = box.project(main="def f():\n    raise ValueError('boom')\nf()\n")
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "$@" > "$0.args"\n')
    editor.chmod(0o755)
    with open_terminal(box, project, *UP, VISUAL=str(editor)) as terminal:
        terminal.wait_for("✗ run 1 exit 1")
        terminal.wait_for("main.py:2")
        terminal.type("o")
        args = tmp_path / "editor.args"
        wait_until(args.exists)
        wait_until(lambda: args.read_text() == f"+2 {project}/main.py\n")
        terminal.wait_for("q quit")


def test_an_editor_that_is_not_there_is_told_in_the_screen(box: Box) -> None:
    project = box.project(main="raise ValueError('boom')\n")
    with open_terminal(box, project, *UP, VISUAL="/no/such/editor") as terminal:
        terminal.wait_for("main.py:1")
        terminal.type("o")
        rows = terminal.wait_for("/no/such/editor: No such file").split("\n")
        assert "No such file" in "".join(rows[:10])  # the card is at the bottom
        terminal.wait_for("q quit")
        terminal.type("r")
        terminal.wait_for("✗ run 2 exit 1")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_the_terminal_is_given_back(box: Box, number: int) -> None:
    project = box.project(main=SLEEPER.format("up"))
    with open_terminal(box, project, *UP) as terminal:
        terminal.wait_for("up")
        terminal.wait_for("RUN 1")
        terminal.process.send_signal(number)
        assert terminal.wait_for_end() == 0
        terminal.wait_for("run 1 was stopped")
        terminal.assert_given_back()
    assert "running" not in box.live_runs(project)


@pytest.mark.parametrize("key", ["s", "d"])
def test_a_signal_hangs_up_who_has_the_terminal(box: Box, key: str) -> None:
    project = box.project(main="print('up')\nbreakpoint()\n")
    env = {"SHELL": "/bin/bash", "PS1": "in-shell "}
    with open_terminal(box, project, *UP, **env) as terminal:
        terminal.wait_for("✗ RUN 1")
        terminal.type(key)
        wait_until(lambda: b"\x1b[?1049l" in terminal.data)
        wait_until(lambda: "running" in box.live_runs(project))
        assert descendants_with(str(project))  # `devloop -C PROJECT shell`
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait_for_end() == 0
        assert not descendants_with(str(project))
        terminal.assert_given_back()
    wait_until(lambda: "running" not in box.live_runs(project))


def test_a_pager_that_is_not_there_is_told_until_enter_is_pressed(box: Box) -> None:
    project = box.project(main="print('up')")
    with open_terminal(box, project, *UP, PAGER="nosuchpager") as terminal:
        terminal.wait_for("✓ RUN 1")
        terminal.type("o")
        terminal.wait_for("nosuchpager: not found")
        terminal.wait_for("Enter comes back")
        terminal.type("\n")
        terminal.wait_for("q quit")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()


def test_the_pager_shows_the_whole_log(box: Box, tmp_path: Path) -> None:
    project = box.project(main="print('paged')")
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\nsed s/^/through-/\nread _ < /dev/tty\n")
    pager.chmod(0o755)
    with open_terminal(box, project, *UP, PAGER=str(pager)) as terminal:
        terminal.wait_for("✓ RUN 1")
        terminal.type("o")
        terminal.wait_for("through-paged")
        terminal.type("\n")
        terminal.wait_for("q quit")
        terminal.type("q")
        assert terminal.wait_for_end() == 0


def test_the_death_of_its_parent_ends_it_and_the_terminal_is_given_back(box: Box) -> None:
    """The shell was the session's leader: the kernel hangs up on its foreground."""
    project = box.project(main=SLEEPER.format("up"))
    script = project.parent / "parent.sh"
    script.write_text('"$@"\necho still here\n')
    words = [str(word) for word in box.command(*UP)]
    box.prefix, before = ("sh", str(script)), box.prefix
    try:
        with open_terminal(box, project, *words[1:]) as terminal:
            terminal.wait_for("RUN 1")
            terminal.process.kill()
            terminal.assert_given_back()
    finally:
        box.prefix = before
    wait_until(lambda: "running" not in box.live_runs(project))


def test_a_terminal_that_is_gone_ends_it(box: Box) -> None:
    project = box.project(main=SLEEPER.format("up"))
    with open_terminal(box, project, *UP) as terminal:
        terminal.wait_for("RUN 1")
        os.close(terminal.master)
        terminal.process.wait(15)
    wait_until(lambda: "running" not in box.live_runs(project))


def test_what_is_typed_in_one_go_goes_where_it_was_meant(box: Box) -> None:
    """As over a slow link: many keys in one read."""
    project = box.project(main=SLEEPER.format("exits"))
    with open_terminal(box, project, *UP) as terminal:
        terminal.wait_for("exits")
        terminal.type("/exits\r")
        terminal.wait_for("/exits · 1 found")
        assert b"\x1b[?1049l" not in terminal.data  # no shell, by the s of it
        assert "▶ RUN 1" in terminal.text  # and no stop, by the x
        terminal.type("\x1b")
        wait_until(lambda: "found" not in terminal.text)
        terminal.type("qs")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()
    assert "running" not in box.live_runs(project)


def test_odd_bytes_do_no_harm(box: Box) -> None:
    project = box.project(main="print('odd')")
    with open_terminal(box, project, *UP) as terminal:
        terminal.wait_for("✓ RUN 1")
        for data in (b"\x1b[M\xff\xe9\xc3", b"\xff\xfe\x80", b"\x1b[", b"\x1b]8;;\x07", b"\x00"):
            terminal.type(data)
        terminal.type("\x1b")
        terminal.type("?")
        terminal.wait_for("run again, restarting")
        terminal.type("?")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()


def test_a_crash_gives_the_terminal_back(box: Box, tmp_path: Path) -> None:
    box.prefix, before = (sys.executable, str(CRASHING)), box.prefix
    try:
        with open_terminal(box, tmp_path) as terminal:
            terminal.wait_for("q quit")
            terminal.type("r")
            assert terminal.wait_for_end() == 1
            terminal.wait_for("deliberate")
            terminal.assert_given_back()
    finally:
        box.prefix = before


def test_ctrl_c_interrupts_the_run_and_twice_leaves(box: Box) -> None:
    project = box.project(main=SLEEPER.format("up"))
    with open_terminal(box, project, *UP) as terminal:
        terminal.wait_for("RUN 1")
        terminal.wait_for("up")
        terminal.type("\x03")
        terminal.wait_for("■ RUN 1 interrupted")
        wait_until(lambda: terminal.type("\x03") or terminal.process.poll() is not None)  # type: ignore[func-returns-value]
        assert terminal.process.returncode == 0
        terminal.assert_given_back()


def test_ctrl_c_while_a_pattern_is_typed_leaves_the_run_alone(box: Box) -> None:
    project = box.project(main=SLEEPER.format("up"))
    with open_terminal(box, project, *UP) as terminal:
        terminal.wait_for("▶ RUN 1")
        terminal.type("/")
        terminal.wait_for("a regular expression")
        terminal.type("up")
        terminal.wait_for("1 found")
        terminal.type("\x03")
        wait_until(lambda: "found" not in terminal.text)
        assert "▶ RUN 1" in terminal.text
        assert "interrupting" not in terminal.text
        terminal.type("q")
        terminal.wait_for("is live")
        terminal.type("s")
        assert terminal.wait_for_end() == 0


def test_an_agent_that_is_ended_leaves_the_screen_and_r_comes_back() -> None:
    with open_box() as own_box:
        project = own_box.project(main="print('alive')")
        with open_terminal(own_box, project, *UP) as terminal:
            terminal.wait_for("✓ RUN 1")
            assert own_box.run(project, "down").code == 0
            terminal.wait_for("SESSION ENDED")
            terminal.type("r")
            terminal.wait_for("✓ RUN 2")
            terminal.type("q")
            assert terminal.wait_for_end() == 0


def test_an_agent_that_is_killed_is_replaced_and_its_run_told_as_lost() -> None:
    with open_box() as own_box:
        project = own_box.project(main=SLEEPER.format("up"))
        with open_terminal(own_box, project, *UP, columns=120) as terminal:
            terminal.wait_for("RUN 1")
            terminal.wait_for("up")
            own_box.agent().kill()
            terminal.wait_for("AGENT RESTARTED")
            terminal.wait_for("r runs again")
            terminal.wait_for("run 1 was lost")
            terminal.type("r")
            terminal.wait_for("▶ RUN 2")
            wait_until(lambda: "AGENT RESTARTED" not in terminal.text)
            terminal.type("q")
            terminal.wait_for("is live")
            terminal.type("s")
            assert terminal.wait_for_end() == 0
            terminal.assert_given_back()


def answer(terminal: Terminal, command: str) -> None:
    """One key at a time: Textual handles a burst of letters before a shortcut that came first."""
    while "with its arguments" not in terminal.text:
        terminal.type("\x15")
        with contextlib.suppress(AssertionError):  # it had not the focus yet
            terminal.wait_for("with its arguments", timeout_s=1.0)
    terminal.type(command)
    terminal.wait_for(command)
    terminal.type("\r")


def test_without_a_command_one_question_is_asked_and_remembered(box: Box) -> None:
    project = box.project(train="print('answered')")
    with open_terminal(box, project, "up") as terminal:
        terminal.wait_for("What shall run")
        terminal.wait_for("`python train.py` seems to start it")
        answer(terminal, "python3 train.py")
        terminal.wait_for("`python3 train.py` runs on local")
        terminal.wait_for("answered")
        terminal.wait_for("✓ RUN 1")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
    remembered = tomllib.loads((project / "devloop.toml").read_text())
    assert remembered["run"]["command"] == "python3 train.py"


def test_ctrl_c_leaves_the_question_and_no_file(box: Box) -> None:
    project = box.project(train="print('answered')")
    with open_terminal(box, project, "up") as terminal:
        terminal.wait_for("What shall run")
        terminal.wait_for("python train.py")
        terminal.type("\x03")
        assert terminal.wait_for_end() == 0
        terminal.assert_given_back()
    assert not (project / "devloop.toml").exists()


def test_an_answer_goes_into_the_file_that_is_there(box: Box) -> None:
    project = box.project(train="print('answered')")
    (project / "devloop.toml").write_text("# mine\n[run]\nstop_timeout = 1\n\n[sync]\n")
    with open_terminal(box, project, "up") as terminal:
        terminal.wait_for("What shall run")
        answer(terminal, "python3 train.py")
        terminal.wait_for("answered")
    text = (project / "devloop.toml").read_text()
    assert text.startswith("# mine\n[run]\n")
    assert tomllib.loads(text)["run"] == {"command": "python3 train.py", "stop_timeout": 1}


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"CI": "1"}, {}])
def test_where_nobody_wants_a_screen_there_are_lines(box: Box, env: dict[str, str]) -> None:
    project = box.project(main="print('plain')")
    words = UP if env else ("up", "--plain", *UP[1:])
    with open_terminal(box, project, *words, **env) as terminal:
        terminal.wait_for("plain")
        terminal.wait_for("✓ exit 0")
        assert b"\x1b[?1049h" not in terminal.data
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait_for_end() == 0


def test_output_into_a_pipe_is_lines(box: Box) -> None:
    project = box.project(main="print('piped')")
    process = box.start(project, *UP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"piped\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
