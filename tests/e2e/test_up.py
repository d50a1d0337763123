"""`devloop up --plain`: save, and it runs; whatever fails, it goes on watching."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import venv
from typing import TYPE_CHECKING

import pytest

from devloop.cli.plain import LEAVE_WITHIN_S

from .box import Tail, Up, descendants_with, save, stops_slowly, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from .box import Box

FINISHED = r"^── run \d+ [✓✗■] .*$"


@pytest.mark.over_ssh
def test_a_save_runs_the_new_code(box: Box) -> None:
    project = box.project(main="print('token-1')")
    up = Up(box, project, "--", "python3", "main.py")
    for number in (1, 2, 3, 4):
        up.out.wait_for(f"^token-{number}$")
        up.talk.wait_for(FINISHED, count=number)
        save(project / "main.py", f"print('token-{number + 1}')")
    up.out.wait_for("^token-5$")
    talk = up.leave()
    assert re.search(r"── run \d+ · main.py changed · synced 1 file in 0\.\d+ s ──", talk)
    assert re.search(
        r"✓ exit 0 · 0\.\d+ s · save→out 0\.\d+ s ──\n   detect .* output \S+ ms\n", talk
    )
    assert max(map(len, talk.splitlines()[1:])) < 100


def test_a_failing_script_is_told_and_watched_on(box: Box) -> None:
    project = box.project(main="1/0")
    up = Up(box, project, "--", "python3", "main.py")
    up.talk.wait_for("ZeroDivisionError")
    up.talk.wait_for("✗ exit 1")
    save(project / "main.py", "print(")
    up.talk.wait_for("SyntaxError")
    save(project / "main.py", "print('fixed')")
    up.out.wait_for("^fixed$")
    up.leave()


def test_a_command_that_is_not_found_is_told_once(box: Box) -> None:
    project = box.project()
    up = Up(box, project, "--", "./tool")
    up.talk.wait_for("tool: command not found")
    (project / "tool").write_text("#!/bin/sh\necho tool runs\n")
    (project / "tool").chmod(0o755)
    up.out.wait_for("^tool runs$")
    assert up.leave().count("command not found") == 1


@pytest.mark.over_ssh
def test_ctrl_c_interrupts_the_run_and_a_save_runs_again(box: Box) -> None:
    project = box.project(main=sleeper("one"))
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^one$")
    up.interrupt()
    up.talk.wait_for("interrupting run")
    up.talk.wait_for("run 1 ✗ SIGINT")
    interrupted = time.monotonic()
    save(project / "main.py", sleeper("two"))
    up.out.wait_for("^two$")
    wait_until(lambda: time.monotonic() > interrupted + LEAVE_WITHIN_S)
    up.interrupt()
    up.talk.wait_for("run 2 ✗ SIGINT")
    up.interrupt()
    assert up.process.wait(5) == 0
    assert box.live_runs(project) == ""


def test_ctrl_c_twice_leaves_at_once_whatever_the_run_ignores(box: Box) -> None:
    project = box.project()
    script = "trap '' INT TERM; echo ready; while :; do sleep 0.03125; done"
    up = Up(box, project, "--", "sh", "-c", script)
    up.out.wait_for("ready")
    up.interrupt()
    up.talk.wait_for("again to leave")
    began = time.monotonic()
    up.interrupt()
    assert up.process.wait(5) == 0
    assert time.monotonic() - began < 2.0
    wait_until(lambda: not descendants_with("0.03125"), timeout_s=5)


def test_ctrl_c_twice_leaves_when_nothing_runs(box: Box) -> None:
    up = Up(box, box.project(), "--", "true")
    up.talk.wait_for(FINISHED)
    up.interrupt()
    up.talk.wait_for("Ctrl-C again to leave")
    up.interrupt()
    assert up.process.wait(5) == 0


def test_ctrl_c_twice_leaves_though_a_run_has_started_in_between(box: Box) -> None:
    project = box.project(main=sleeper("one"))
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^one$")
    save(project / "main.py", sleeper("two"))
    up.interrupt()
    up.talk.wait_for("interrupting run|again to leave")
    up.out.wait_for("^two$")
    up.interrupt()
    assert up.process.wait(5) == 0


@pytest.mark.embedded
def test_an_agent_that_down_ended_is_not_started_again(own_box: Box) -> None:
    project = own_box.project(main=sleeper("one"))
    up = Up(own_box, project, "--", "python3", "main.py")
    up.out.wait_for("^one$")
    assert own_box.run(project, "down").code == 0
    assert up.process.wait(10) == 0
    assert up.talk.wait_for_end().count("the agent was ended by `devloop down`; leaving") == 1
    assert not (own_box.runtime_dir / "agent.sock").exists()


@pytest.mark.embedded
def test_an_environment_of_the_project_is_used_and_not_uploaded(box: Box) -> None:
    project = box.project()
    venv.create(project / ".venv", symlinks=True)
    done = box.exec(project, "python", "-c", "import sys; print(sys.prefix)")
    assert done.text.strip() == str(project / ".venv"), done
    assert not list(box.state_dir.glob("workspaces/*/files/.venv/pyvenv.cfg"))


def test_after_a_killed_agent_the_next_save_runs(own_box: Box) -> None:
    project = own_box.project(main="print('token-1')")
    up = Up(own_box, project, "--", "python3", "main.py")
    up.talk.wait_for(FINISHED)
    own_box.agent().kill()
    up.talk.wait_for("trying again")
    up.talk.wait_for("^devloop: watching", count=2)
    save(project / "main.py", "print('token-2')")
    up.out.wait_for("^token-2$")
    up.leave()


@pytest.mark.over_ssh
def test_an_agent_killed_amid_a_run_is_told_and_the_next_save_runs(own_box: Box) -> None:
    project = own_box.project(main=sleeper("started"))
    up = Up(own_box, project, "--", "python3", "main.py")
    up.out.wait_for("^started$")
    own_box.agent().kill()
    up.talk.wait_for(r"run 1 ■ exit 255 \(lost: the agent was killed\)")
    up.talk.wait_for("^devloop: watching", count=2)
    assert "unhandled errors" not in up.talk.text
    save(project / "main.py", "print('after')")
    up.out.wait_for("^after$")
    up.leave()


@pytest.mark.over_ssh
def test_deleted_and_renamed_files_are_followed(box: Box) -> None:
    listing = "import os\nprint(sorted(os.listdir()), flush=True)"
    project = box.project(main=listing, a="", b="")
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for(r"^\['a.py', 'b.py', 'main.py'\]$")
    (project / "a.py").unlink()
    up.out.wait_for(r"^\['b.py', 'main.py'\]$")
    (project / "b.py").rename(project / "c.py")
    up.out.wait_for(r"^\['c.py', 'main.py'\]$")
    up.leave()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_git_checkout_gives_few_runs_and_the_last_has_its_tree(box: Box) -> None:
    count = "import glob\nprint({open(f).read() for f in glob.glob('many/*')}, flush=True)"
    project = box.project(main=count)
    (project / "many").mkdir()
    git(project, "init", "-q")
    for version in ("old", "new"):
        for number in range(500):
            (project / "many" / str(number)).write_text(version)
        git(project, "add", "-A")
        git(project, "commit", "-qm", version)
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for(r"^\{'new'\}$")
    git(project, "checkout", "-q", "HEAD~1")
    up.out.wait_for(r"^\{'old'\}$")
    talk = up.leave()
    assert len(re.findall(r"^── run \d+ · ", talk, re.MULTILINE)) <= 4, talk


def test_on_save_queue_lets_the_run_end(box: Box) -> None:
    project = box.project(main=waits_for_go("one"))
    (project / "devloop.toml").write_text('run.on_save = "queue"\n')
    up = Up(box, project, "-e", f"GO={project.parent}/go", "--", "python3", "main.py")
    up.out.wait_for("^one starts$")
    save(project / "main.py", waits_for_go("two"))
    (project.parent / "go").touch()
    up.out.wait_for("^one ends$")
    up.out.wait_for("^two starts$")
    up.leave()


@pytest.mark.over_ssh
def test_on_save_signal_changes_files_under_the_run(box: Box) -> None:
    script = (
        "import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n"
        "print('ready', flush=True)\n"
        "while signal.sigwait([signal.SIGHUP]): print(open('data').read(), flush=True)\n"
    )
    project = box.project(main=script)
    (project / "data").write_text("old")
    (project / "devloop.toml").write_text('run.on_save = "signal"\n')
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^ready$")
    save(project / "data", "new")
    up.out.wait_for("^new$")
    assert up.leave().count("── run") == 2  # it started once, and ended once


def test_saves_during_a_long_stop_give_one_run_of_the_newest(box: Box) -> None:
    project = box.project(main=stops_slowly(0.8))
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^slow runs$")
    save(project / "main.py", "print('second')")
    up.out.wait_for("^stopping$")
    save(project / "main.py", "print('third')")
    save(project / "main.py", "print('fourth')")
    up.out.wait_for("^fourth$")
    up.leave()
    assert "third" not in up.out.text


@pytest.mark.parametrize("harm", ["emptied", "removed"])
def test_a_root_that_vanishes_deletes_nothing_on_the_box(box: Box, harm: str) -> None:
    project = box.project(main="print('here')", other="")
    up = Up(box, project, "--", "python3", "main.py")
    up.talk.wait_for(FINISHED)
    if harm == "emptied":
        for path in project.iterdir():
            path.unlink()
        up.talk.wait_for("is empty now; nothing is deleted on the box")
    else:
        shutil.rmtree(project)
        up.talk.wait_for("is gone")
    [files] = [
        path
        for path in box.state_dir.glob("workspaces/*/files/other.py")
        if (path.parent / "main.py").read_text() == "print('here')"
    ]
    project.mkdir(exist_ok=True)
    save(project / "main.py", "print('back')")
    up.out.wait_for("^back$")
    talk = up.leave()
    assert talk.count("is back") == talk.count(" is gone: ") == (harm == "removed")
    assert not files.exists()  # once there is something again, it is followed


def test_a_configuration_that_is_saved_holds_for_the_next_run(box: Box) -> None:
    project = box.project(main="import os\nprint('A is', os.environ.get('A'), os.listdir())")
    (project / "notes.txt").write_text("")
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^A is None .*notes.txt")
    save(project / "devloop.toml", '[run]\nenv = { A = "1" }\n[sync]\nignore = ["notes.txt"]\n')
    assert "notes.txt" not in up.out.wait_for("^A is 1 .*")
    up.talk.wait_for("devloop.toml has changed: the next run is as it says")
    save(project / "devloop.toml", "[run\n")
    up.talk.wait_for("devloop.toml:1:5: ")
    up.talk.wait_for("what was configured before still holds")
    up.out.wait_for("^A is 1 ", count=2)
    up.leave()


@pytest.mark.over_ssh
def test_outputs_come_back_after_the_run(box: Box) -> None:
    project = box.project(main="import os; os.mkdir('out'); open('out/model', 'w').write('w')")
    (project / "devloop.toml").write_text('sync.outputs = ["out/"]\n')
    up = Up(box, project, "--", "python3", "main.py")
    up.talk.wait_for("pulled 1 output")
    assert (project / "out" / "model").read_text() == "w"
    up.leave()


def test_sigterm_leaves_and_stops_the_run(box: Box) -> None:
    project = box.project(main=sleeper("one"))
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^one$")
    up.leave()
    assert box.live_runs(project) == ""


@pytest.mark.embedded
def test_a_killed_up_leaves_no_run(box: Box) -> None:
    project = box.project()
    up = Up(box, project, "--", "sh", "-c", "echo ready; sleep 778.125")
    up.out.wait_for("ready")
    up.process.send_signal(signal.SIGKILL)
    wait_until(lambda: not descendants_with("778.125"), timeout_s=12)


def test_without_a_terminal_up_is_plain(box: Box) -> None:
    process = box.start(
        box.project(),
        *("up", "--", "echo", "runs"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    Tail(process.stdout).wait_for("^runs$")
    Tail(process.stderr).wait_for(FINISHED)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def sleeper(word: str) -> str:
    return f"import time\nprint({word!r}, flush=True)\ntime.sleep(60)\n"


def waits_for_go(word: str) -> str:
    return (
        "import os, time\n"
        f"print('{word} starts', flush=True)\n"
        "while not os.path.exists(os.environ['GO']): time.sleep(0.02)\n"
        f"print('{word} ends', flush=True)\n"
    )


def git(project: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    env = {"PATH": os.environ["PATH"], "HOME": str(project.parent)}
    subprocess.run(["git", *identity, *words], cwd=project, env=env, check=True)
