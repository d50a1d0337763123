"""`devloop shell`: a real shell on a real terminal, beside whatever runs."""

from __future__ import annotations

import os
import pty
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .box import descendants_with, wait_until
from .terminal import open_terminal

if TYPE_CHECKING:
    import psutil

    from .box import Box

# A prompt that no file of the machine's decides.
BASH = ("shell", "-e", "PS1=ready> ", "--", "bash", "--norc", "--noprofile")
PROMPT = r"ready> "


def test_the_login_shell_opens_in_the_workspace(box: Box) -> None:
    project = box.project(model="x = 1\n")
    with open_terminal(box, project, "shell", "-e", "WHO=me") as terminal:
        terminal.type('echo "<$SHELL:$0:$WHO:$(ls)>"; exit 0\n')
        shown = terminal.screen.wait_for(r"<\S+:\S+:me:model\.py>")
        path, name = shown[1:].split(":")[:2]
        assert path.endswith(name.rpartition("/")[2].lstrip("-"))
        assert terminal.process.wait(10) == 0


@pytest.mark.over_ssh
def test_its_exit_status_is_passed_on(box: Box) -> None:
    with open_terminal(box, box.project(), *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        terminal.type("exit 7\n")
        assert terminal.process.wait(10) == 7
        assert not terminal.is_raw()


def test_ctrl_d_leaves_it(box: Box) -> None:
    with open_terminal(box, box.project(), *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        terminal.type("\x04")
        assert terminal.process.wait(10) == 0


@pytest.mark.over_ssh
def test_ctrl_z_stops_a_job_and_fg_brings_it_back(box: Box) -> None:
    with open_terminal(box, box.project(), *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        terminal.type("sleep 881.5\n")
        wait_until(lambda: descendants_with("881.5"))
        terminal.type("\x1a")
        terminal.screen.wait_for(r"\[1\]\+\s+Stopped\s+sleep 881\.5")
        terminal.type("jobs\n")
        terminal.screen.wait_for(r"\[1\]\+\s+Stopped\s+sleep 881\.5", count=2)
        terminal.type("bg\n")
        terminal.screen.wait_for(r"\[1\]\+ sleep 881\.5 &")
        terminal.type("fg\n")
        wait_until(lambda: all(map(is_in_foreground, descendants_with("881.5"))))
        terminal.type("\x03")
        wait_until(lambda: not descendants_with("881.5"))
        terminal.type("echo status $?\n")
        terminal.screen.wait_for("status 130")
        terminal.type("exit\n")
        assert terminal.process.wait(10) == 0


def is_in_foreground(process: psutil.Process) -> bool:
    """bash names a job before it gives it the terminal, and Ctrl-C goes to who has that."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    group, foreground = fields[2], fields[5]
    return group == foreground


def test_a_resize_reaches_what_runs_in_it(box: Box) -> None:
    with open_terminal(box, box.project(), *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        terminal.type("stty size\n")
        terminal.screen.wait_for("24 80")
        terminal.resize(33, 111)

        def is_told() -> bool:
            """What is typed at once may overtake the signal."""
            terminal.type("stty size\n")
            return "33 111" in terminal.screen.text

        wait_until(is_told)


def test_a_terminal_that_closes_ends_the_shell_and_its_jobs(box: Box) -> None:
    project = box.project()
    with open_terminal(box, project, *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        terminal.type("trap 'echo hung up > said' EXIT; sleep 882.25 & setsid sleep 882.75 &\n")
        wait_until(lambda: len(descendants_with("882.")) == 2)
        terminal.process.send_signal(signal.SIGHUP)
        assert terminal.process.wait(10) == 128 + signal.SIGHUP
    wait_until(lambda: not descendants_with("882."))
    assert box.exec(project, "cat", "said").text == "hung up\n"


def test_sigterm_hangs_up_a_shell_which_would_ignore_it(box: Box) -> None:
    with open_terminal(box, box.project(), *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(10) == 128 + signal.SIGHUP


def test_a_terminal_that_is_gone_ends_the_shell_though_no_signal_says_so(box: Box) -> None:
    """As for one that outlives its parent: it is no longer of the terminal's session."""
    project = box.project()
    master, slave = pty.openpty()
    process = box.start(
        project, *BASH, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    seen = b""
    while PROMPT.encode() not in seen:
        seen += os.read(master, 4096)
    os.write(master, b"sleep 884.5\n")
    wait_until(lambda: descendants_with("884.5"))
    os.close(master)
    process.wait(10)
    wait_until(lambda: box.live_runs(project) == "")


@pytest.mark.embedded
def test_a_killed_client_ends_the_shell_after_its_lease(box: Box) -> None:
    project = box.project()
    with open_terminal(box, project, *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        terminal.type("sleep 883.5\n")
        wait_until(lambda: descendants_with("883.5"))
        terminal.process.kill()
        wait_until(lambda: not descendants_with("883.5"))
    assert box.live_runs(project) == ""


def test_a_shell_opens_beside_a_run_of_other_files_and_waits_for_nothing(box: Box) -> None:
    project = box.project(model="x = 1\n")
    detached(box, project, "sleep", "884.5")
    (project / "model.py").write_text("x = 2\n")
    with open_terminal(box, project, *BASH) as terminal:
        terminal.screen.wait_for("uses another version of these files: they stay as they are")
        terminal.screen.wait_for(PROMPT)
        terminal.type("cat model.py\n")
        terminal.screen.wait_for("x = 1")
    assert box.run(project, "stop").code == 0


def test_a_sync_and_a_run_take_place_while_a_shell_is_open(box: Box) -> None:
    project = box.project(model="x = 1\n")
    with open_terminal(box, project, *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        (project / "model.py").write_text("x = 22\n")
        done = box.exec(project, "cat", "model.py")
        assert (done.code, done.text) == (0, "x = 22\n")
        assert "waiting" not in done.stderr
        terminal.type("cat model.py\n")
        terminal.screen.wait_for("x = 22")


def test_no_sync_leaves_the_files_as_they_are(box: Box) -> None:
    project = box.project(model="x = 1\n")
    box.exec(project, "true")
    (project / "model.py").write_text("x = 2\n")
    with open_terminal(box, project, "shell", "--no-sync", "--", "cat", "model.py") as terminal:
        terminal.screen.wait_for("x = 1")
        assert terminal.process.wait(10) == 0


def test_no_sync_opens_where_nothing_was_ever_synced(box: Box) -> None:
    with open_terminal(box, box.project(x="1\n"), "shell", "--no-sync", "--", "ls") as terminal:
        assert terminal.process.wait(10) == 0


def test_it_starts_in_the_folder_where_it_was_typed(box: Box) -> None:
    project = box.project()
    (project / "devloop.toml").write_text("")
    (project / "sub").mkdir()
    (project / "sub" / "here.txt").write_text("")
    with open_terminal(box, project / "sub", "shell", "--", "ls") as terminal:
        terminal.screen.wait_for("here.txt")
        assert terminal.process.wait(10) == 0


def test_an_open_shell_is_listed_and_stopped_by_its_number_only(box: Box) -> None:
    project = box.project()
    with open_terminal(box, project, *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        [_, line] = box.live_runs(project).splitlines()
        number = line.split()[0]
        assert "bash" in line
        assert box.run(project, "stop").code == 1
        assert box.run(project, "stop", number).code == 0
        assert terminal.process.wait(10) != 0


@pytest.mark.embedded
def test_nothing_of_a_shell_is_kept_and_its_number_is_not_given_again(box: Box) -> None:
    project = box.project("hushed")
    box.exec(project, "true")
    with open_terminal(box, project, *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        terminal.type("echo se''cret-on-screen\n")
        terminal.screen.wait_for("secret-on-screen")
        number = box.live_runs(project).splitlines()[1].split()[0]
        terminal.type("exit\n")
        assert terminal.process.wait(10) == 0
    wait_until(lambda: not holds(box.state_dir, b"secret-on-screen"))
    listed = box.run(project, "ps", "-a").text.splitlines()
    assert not [line for line in listed if "hushed" in line and "bash" in line]
    later = detached(box, project, "true")
    assert int(later) > int(number)


def test_an_agent_that_was_killed_keeps_nothing_of_its_shells(own_box: Box) -> None:
    project = own_box.project()
    with open_terminal(own_box, project, *BASH) as terminal:
        terminal.screen.wait_for(PROMPT)
        terminal.type("echo se''cret-on-screen; sleep 885.5\n")
        terminal.screen.wait_for("secret-on-screen")
        wait_until(lambda: holds(own_box.state_dir, b"secret-on-screen"))
        own_box.agent().kill()
        assert terminal.process.wait(20) == 255
        assert not terminal.is_raw()
    wait_until(lambda: not descendants_with("885.5"))
    assert "bash" not in own_box.run(project, "ps", "-a").text
    assert not holds(own_box.state_dir, b"secret-on-screen")


def test_the_shell_has_the_environment_of_runs(box: Box) -> None:
    project = box.project()
    (project / "devloop.toml").write_text('[run]\nenv = { SEED = "41" }\n')
    with open_terminal(box, project, *BASH, "-c", 'echo "<$SEED:$TERM>"') as terminal:
        terminal.screen.wait_for("<41:dumb>")


def test_without_a_terminal_it_is_refused(box: Box) -> None:
    box.run(box.project(), "shell").assert_error("not both a terminal", code=2)


def test_a_command_that_is_not_there_is_named(box: Box) -> None:
    with open_terminal(box, box.project(), "shell", "--", "no-such-shell") as terminal:
        assert terminal.process.wait(10) == 127
        terminal.screen.wait_for("error: no-such-shell: command not found")


def detached(box: Box, project: Path, *command: str) -> str:
    done = box.run(project, "exec", "-d", "--", *command)
    assert done.code == 0, done
    return done.text.strip()


def holds(folder: Path, words: bytes) -> bool:
    """Some file below it holds these words."""
    for path in folder.rglob("*"):
        try:
            if path.is_file() and words in path.read_bytes():
                return True
        except OSError:
            continue
    return False
