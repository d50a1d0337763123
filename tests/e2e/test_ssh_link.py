"""A link that is cut, at whatever moment: nothing is lost, and the next command works."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from .box import Tail, Up, descendants_with, save, stops_slowly, wait_until
from .terminal import open_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.sshd import Sshd

    from .box import Box

LOST = r"trying again until it answers|trying to reach it again"
WATCHING = "^devloop: watching"
TICKS = (
    "import itertools, time\n"
    "for number in itertools.count():\n"
    "    print(f'tick-{number}', flush=True)\n"
    "    time.sleep(0.02)\n"
)


IGNORES_SIGINT = (
    "import signal, time\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.fixture
def box(ssh_box: Box) -> Box:
    return ssh_box


def sshd_of(box: Box) -> Sshd:
    assert box.sshd is not None
    return box.sshd


def cut(box: Box) -> None:
    sshd_of(box).drop_connections()


def noise(size_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def exec_pipe(box: Box, project: Path, *words: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return box.start(project, "exec", *words, stdin=pipe, stdout=pipe, stderr=pipe)


# -- cut while a cycle is under way


def test_a_link_cut_while_it_is_made_fails_one_command(box: Box) -> None:
    project = box.project()
    assert box.exec(project, "true").code == 0  # an installation would begin anew by itself
    cut(box)  # what is kept: the next command makes a connection of its own
    with slow_commands(box):
        accepted = count_accepted(box)
        process = exec_pipe(box, project, "--", "true")
        wait_until(lambda: count_accepted(box) > accepted)
        cut(box)
    talk = Tail(process.stderr).wait_for_end()
    assert process.wait(30) == 255, talk
    assert talk.count("error: ") == talk.count("hint: ") == 1, talk
    assert box.exec(project, "echo", "next").text == "next\n"


def test_a_link_cut_while_the_agent_is_installed_leaves_no_half_of_it(own_ssh_box: Box) -> None:
    box = own_ssh_box
    project = box.project()
    fresh = box.base / "fresh"
    sshd = sshd_of(box)
    config = sshd.folder / "sshd_config"
    config.write_text(
        re.sub(r"DEVLOOP_DATA_DIR=\S+", f"DEVLOOP_DATA_DIR={fresh}", config.read_text())
    )
    sshd.reload()
    process = exec_pipe(box, project, "--", "true")
    wait_until(lambda: fresh.exists() and any(fresh.rglob("*.so")))
    cut(box)
    talk = Tail(process.stderr).wait_for_end()
    assert process.wait(60) == 255, talk
    assert talk.count("error: ") == 1, talk
    assert box.exec(project, "echo", "next", timeout_s=120).text == "next\n"
    assert len([entry for entry in (fresh / "versions").iterdir() if entry.is_dir()]) == 1


@pytest.mark.parametrize("stage", ["upload", "apply"])
def test_up_comes_back_from_a_link_cut_amid_a_sync(box: Box, stage: str) -> None:
    project = box.project(main=digest_of_files("data"))
    (project / "data").mkdir()
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^[0-9a-f]{64}$")
    up.talk.wait_for("run 1 ✓")
    staging = workspace_of(box, project) / "staging"
    make_data(project / "data", large=stage == "upload")
    if stage == "upload":
        store = box.state_dir / "store"
        full = size_of(store)
        wait_until(lambda: size_of(store) > full + (1 << 20))
    else:
        wait_until(lambda: staging.exists() and any(staging.iterdir()))
    cut(box)
    up.talk.wait_for(LOST)
    up.out.wait_for(f"^{expected_digest(project / 'data')}$", timeout_s=60)
    talk = up.leave()
    assert len(re.findall(LOST, talk)) == 1, talk
    assert talk.count("devloop: watching") == 2, talk


def test_exec_after_one_that_was_cut_amid_its_upload_has_every_byte(box: Box) -> None:
    project = box.project(main=digest_of_files("data"))
    (project / "data").mkdir()
    make_data(project / "data", large=True)
    store = box.state_dir / "store"
    full = size_of(store)
    process = exec_pipe(box, project, "--", "python3", "main.py")
    wait_until(lambda: size_of(store) > full + (1 << 20))
    cut(box)
    talk = Tail(process.stderr).wait_for_end()
    assert process.wait(30) == 255, talk
    assert talk.count("error: ") == talk.count("hint: ") == 1, talk
    done = box.exec(project, "python3", "main.py", timeout_s=60)
    assert done.text.strip() == expected_digest(project / "data"), done


def test_up_comes_back_from_a_link_cut_amid_a_run_without_a_lost_line(box: Box) -> None:
    up = Up(box, box.project(main=TICKS), "--", "python3", "main.py")
    for number in (20, 80):
        up.out.wait_for(f"^tick-{number}$")
        cut(box)
    up.out.wait_for("^tick-150$")
    talk = up.leave()
    ticks = [int(tick) for tick in re.findall(r"^tick-(\d+)$", up.out.text, re.MULTILINE)]
    assert ticks == list(range(len(ticks)))
    assert len(re.findall(LOST, talk)) == talk.count("devloop: watching") - 1 == 2, talk
    assert talk.count("── run 1 · ") == 1, talk


def test_up_comes_back_from_a_link_cut_while_the_old_run_is_stopped(box: Box) -> None:
    project = box.project(main=stops_slowly(1.0))
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^slow runs$")
    save(project / "main.py", "print('second')")
    up.out.wait_for("^stopping$")
    cut(box)
    up.out.wait_for("^second$")
    up.leave()


def test_a_pull_that_was_cut_is_made_good_by_the_next(box: Box) -> None:
    project = box.project()
    (project / "devloop.toml").write_text('sync.outputs = ["out/"]\n')
    write = (
        "import random, os; os.mkdir('out')\n"
        "open('out/model', 'wb').write(random.Random(0).randbytes(60 << 20))"
    )
    done = box.run(project, "exec", "-d", "--", "python3", "-c", write)
    wait_until(lambda: box.live_runs(project) == "")
    process = box.start(project, "pull", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: size_of(project) > 1 << 20 or process.poll() is not None)
    cut(box)
    talk = Tail(process.stderr).wait_for_end()
    assert process.wait(30) == 255, (done, talk)
    assert not (project / "out" / "model").exists()
    assert box.run(project, "pull").code == 0
    assert (project / "out" / "model").read_bytes() == noise(60 << 20)


# -- while the link is away


def test_saves_made_while_the_link_is_away_arrive_when_it_is_back(box: Box) -> None:
    project = box.project(main="print('token-1')")
    up = Up(box, project, "--", "python3", "main.py")
    up.talk.wait_for("run 1 ✓")
    config = sshd_of(box).config
    good = config.read_text()
    config.write_text(good.replace("Port ", "Port 1 #"))  # nobody listens there
    cut(box)
    up.talk.wait_for(LOST)
    for number in (2, 3):
        save(project / "main.py", f"print('token-{number}')")
    up.talk.wait_for("refused")
    config.write_text(good)
    up.out.wait_for("^token-3$")
    talk = up.leave()
    assert "token-2" not in up.out.text
    assert len(re.findall("refused", talk)) == 1, talk


def test_ctrl_c_twice_leaves_up_while_the_link_is_lost_and_says_what_goes_on(box: Box) -> None:
    project = box.project(main=TICKS)
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^tick-5$")
    lose(box)
    up.talk.wait_for(LOST)
    up.interrupt()
    up.talk.wait_for("run 1 cannot be reached now; Ctrl-C again")
    began = time.monotonic()
    up.interrupt()
    assert up.process.wait(10) == 0
    assert time.monotonic() - began < 3
    assert "`devloop attach 1` shows it" in up.talk.wait_for_end()
    find(box)
    assert "running" in box.live_runs(project)
    assert box.run(project, "stop", "1").code == 0


def test_ctrl_c_twice_leaves_exec_while_the_link_is_lost_and_says_what_goes_on(box: Box) -> None:
    project = box.project(main=TICKS)
    process = exec_pipe(box, project, "--", "python3", "main.py")
    out, talk = Tail(process.stdout), Tail(process.stderr)
    out.wait_for("^tick-5$")
    lose(box)
    talk.wait_for(LOST)
    process.send_signal(signal.SIGINT)
    talk.wait_for("run 1 cannot be reached now; Ctrl-C again")
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    assert "run 1 could not be stopped; `devloop stop 1`" in talk.wait_for_end()
    find(box)
    assert "running" in box.live_runs(project)


def test_ctrl_c_twice_leaves_a_link_that_does_not_answer_before_it_is_known_as_lost(
    box: Box,
) -> None:
    project = box.project(main=TICKS)
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^tick-5$")
    sshd_of(box).signal_connections(signal.SIGSTOP)
    up.interrupt()
    up.talk.wait_for("interrupting run 1")
    began = time.monotonic()
    up.interrupt()
    assert up.process.wait(15) == 0
    assert time.monotonic() - began < 6
    assert "run 1 was not stopped, and may go on there" in up.talk.wait_for_end()
    sshd_of(box).signal_connections(signal.SIGCONT)


def test_a_link_that_does_not_answer_is_noticed_and_replaced(box: Box) -> None:
    assert_survives_silence(box)


def test_a_shared_link_that_does_not_answer_is_replaced_by_an_own_one(own_ssh_box: Box) -> None:
    """One of the user's own ControlMaster, which takes connections to it as long as it lives."""
    sshd = sshd_of(own_ssh_box)
    path = str(own_ssh_box.base / "users")
    options = {"ControlPath": path, "ControlMaster": "auto", "ControlPersist": "60"}
    sshd.config.write_text(sshd.client_config(**options))
    subprocess.run([*sshd.ssh(), "true"], check=True, capture_output=True, timeout=20)
    assert_survives_silence(own_ssh_box)
    subprocess.run(sshd.ssh("-O", "exit"), check=True, capture_output=True, timeout=20)


def assert_survives_silence(box: Box) -> None:
    up = Up(box, box.project(main=TICKS), "--", "python3", "main.py")
    up.out.wait_for("^tick-5$")
    began = time.monotonic()
    sshd_of(box).signal_connections(signal.SIGSTOP)
    up.talk.wait_for(LOST, timeout_s=20)
    assert time.monotonic() - began < 16
    up.talk.wait_for(WATCHING, count=2, timeout_s=5)
    up.leave()
    ticks = [int(tick) for tick in re.findall(r"^tick-(\d+)$", up.out.text, re.MULTILINE)]
    assert ticks == list(range(len(ticks)))


# -- in a terminal


def test_what_is_said_over_a_program_in_a_terminal_starts_at_the_left_edge(box: Box) -> None:
    script = "printf half; exec sleep 60"
    with open_terminal(box, box.project(), "exec", "--", "sh", "-c", script) as terminal:
        terminal.screen.wait_for("half")
        cut(box)
        terminal.screen.wait_for("connected again")
        lost = rf"half\r\ndevloop: .*({LOST})\r\n"
        terminal.screen.wait_for(rf"{lost}(.*\r\n)*devloop: connected again\r\n")
        terminal.type("\x03")
        assert terminal.process.wait(10) == 130


def test_gpus_says_on_which_box_there_are_none(box: Box) -> None:
    done = box.run(box.project(), "gpus")
    assert done.stdout or "no NVIDIA GPUs on box: " in done.stderr, done


# -- where the sockets lie


def test_a_runtime_directory_with_a_long_path_is_no_hindrance(box: Box) -> None:
    env = {"DEVLOOP_RUNTIME_DIR": str(box.base / ("long" * 30))}
    done = box.exec(box.project(), "echo", "in", env=env)
    assert (done.code, done.text, done.stderr) == (0, "in\n", ""), done


# -- input


def test_input_goes_on_over_two_lost_links_without_a_lost_or_repeated_byte(box: Box) -> None:
    data = noise(5 << 20)
    process = exec_pipe(box, box.project(), "--", "sha256sum")
    talk = Tail(process.stderr)
    assert process.stdin is not None
    third = len(data) // 3
    for number in range(3):
        process.stdin.write(data[third * number : third * (number + 1) if number < 2 else None])
        process.stdin.flush()
        if number < 2:
            cut(box)
            talk.wait_for(LOST, count=number + 1)
    process.stdin.close()
    assert Tail(process.stdout).wait_for_end().split()[0] == hashlib.sha256(data).hexdigest()
    assert process.wait(30) == 0
    assert talk.wait_for_end().count("connected again") == 2


# -- a client that is gone


def test_attach_shows_all_output_after_the_client_was_killed(box: Box) -> None:
    project = box.project(main=TICKS)
    process = exec_pipe(box, project, "--", "python3", "main.py")
    Tail(process.stdout).wait_for("^tick-5$")
    process.kill()
    process.wait()
    guest = box.start(project, "attach", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, talk = Tail(guest.stdout), Tail(guest.stderr)
    last = out.wait_for("^tick-1..$")
    cut(box)
    talk.wait_for(LOST)
    out.wait_for("^tick-2..$")
    guest.send_signal(signal.SIGTERM)
    assert guest.wait(10) == 128 + signal.SIGTERM, last
    ticks = [int(tick) for tick in re.findall(r"^tick-(\d+)$", out.wait_for_end(), re.MULTILINE)]
    assert ticks == list(range(len(ticks)))
    assert box.run(project, "stop").code == 0


def test_a_run_outlives_its_client_as_long_as_on_disconnect_says(box: Box) -> None:
    words = {"2s": "770.5", "stop": "771.5", "continue": "772.5", "1h": "773.5"}
    projects = {word: box.project() for word in words}
    for word, marker in words.items():
        project = projects[word]
        (project / "devloop.toml").write_text(f'run.on_disconnect = "{word}"\n')
        process = exec_pipe(box, project, "--", "sh", "-c", f"echo ready; sleep {marker}")
        Tail(process.stdout).wait_for("ready")
        process.kill()
        process.wait()
    short = words.pop("2s")
    wait_until(lambda: not descendants_with(short), timeout_s=10)
    killed = time.monotonic()
    wait_until(lambda: time.monotonic() > killed + 1.0)
    for word, marker in words.items():
        assert descendants_with(marker), word
        assert box.run(projects[word], "stop").code == 0


# -- an agent that is gone


def test_an_agent_killed_amid_a_sync_costs_nothing_but_the_try(own_ssh_box: Box) -> None:
    box = own_ssh_box
    project = box.project(main=digest_of_files("data"))
    (project / "data").mkdir()
    up = Up(box, project, "--", "python3", "main.py")
    up.talk.wait_for("run 1 ✓")
    agent = box.agent()
    staging = workspace_of(box, project) / "staging"
    make_data(project / "data", large=False)
    wait_until(lambda: staging.exists() and any(staging.iterdir()))
    agent.kill()
    up.out.wait_for(f"^{expected_digest(project / 'data')}$", timeout_s=60)
    up.leave()


def test_exec_says_why_when_its_agent_was_killed(own_ssh_box: Box) -> None:
    box = own_ssh_box
    process = exec_pipe(box, box.project(), "--", "sh", "-c", "echo ready; sleep 60")
    Tail(process.stdout).wait_for("^ready$")
    box.agent().kill()
    talk = Tail(process.stderr).wait_for_end()
    assert process.wait(30) == 255, talk
    assert re.search(
        "^error: run 1: lost: the agent was killed\nhint: .*`devloop logs 1`", talk, re.M
    )
    assert talk.count("error: ") == talk.count("hint: ") == 1, talk


def test_exec_that_down_ends_does_not_say_that_its_run_goes_on(own_ssh_box: Box) -> None:
    box = own_ssh_box
    project = box.project()
    process = exec_pipe(box, project, "--", "python3", "-c", IGNORES_SIGINT)
    Tail(process.stdout).wait_for("^ready$")
    assert box.run(project, "down").code == 0
    talk = Tail(process.stderr).wait_for_end()
    assert process.wait(30) in (137, 255), talk
    assert "goes on" not in talk, talk


def test_a_connection_stays_for_the_next_command_until_down(own_ssh_box: Box) -> None:
    box = own_ssh_box
    sshd, project = sshd_of(box), box.project()
    for _ in range(2):
        assert box.exec(project, "true").code == 0
    assert sshd.connections()
    assert sshd.log.count("Accepted publickey") == 1
    for ended in ("the agent has ended", "no agent runs on box"):
        down = box.run(project, "down")
        assert (down.code, ended in down.stderr) == (0, True), down
        wait_until(lambda: not sshd.connections(), timeout_s=10)


def test_down_ends_up_with_one_line(own_ssh_box: Box) -> None:
    box = own_ssh_box
    project = box.project(main=TICKS)
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^tick-5$")
    down = box.run(project, "down")
    assert down.code == 0, down
    assert up.process.wait(20) == 0, up.talk.text
    talk = up.talk.wait_for_end()
    assert talk.count("was ended by `devloop down`; leaving") == 1, talk
    assert not re.search(LOST, talk), talk
    assert box.run(project, "ps").code == 1


# -- more than one


def test_two_projects_on_one_box_do_not_disturb_each_other(box: Box) -> None:
    one, two = box.project(main="print('one-1')"), box.project(main="print('two-1')")
    ups = [Up(box, project, "--", "python3", "main.py") for project in (one, two)]
    for up, word in zip(ups, ("one", "two"), strict=True):
        up.out.wait_for(f"^{word}-1$")
    cut(box)
    for up in ups:
        up.talk.wait_for(WATCHING, count=2)
    save(one / "main.py", "print('one-2')")
    save(two / "main.py", "print('two-2')")
    for up, word in zip(ups, ("one", "two"), strict=True):
        up.out.wait_for(f"^{word}-2$")
        up.leave()
    assert "two" not in ups[0].out.text
    assert "one" not in ups[1].out.text


def test_a_second_up_says_that_there_is_one_and_offers_to_attach(box: Box) -> None:
    project = box.project(main=TICKS)
    first = Up(box, project, "--", "python3", "main.py")
    first.out.wait_for("^tick-5$")
    assert "another" not in first.talk.text
    second = Up(box, project, "--", "echo", "second")
    second.talk.wait_for("another `devloop up` of this project is open.*; run 1 is its")
    second.talk.wait_for("hint: `devloop attach 1`")
    second.out.wait_for("^second$")
    second.leave()
    first.leave()


def workspace_of(box: Box, project: Path) -> Path:
    """On the box: the one that has the project's newest run."""
    [found] = [
        path.parent
        for path in box.state_dir.glob("workspaces/*/origin")
        if path.read_bytes().strip() == os.fsencode(project)
    ]
    return found


def count_accepted(box: Box) -> int:
    """Connections so far. A process of sshd's may also belong to who only asked if it listens."""
    return sshd_of(box).log.count("Accepted publickey")


@contextlib.contextmanager
def slow_commands(box: Box) -> Iterator[None]:
    """On the box: a connection under way stays so, however busy this machine is."""
    sshd = sshd_of(box)
    config = sshd.folder / "sshd_config"
    before = config.read_text()
    config.write_text(f'{before}ForceCommand sleep 5; exec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    sshd.reload()
    try:
        yield
    finally:
        config.write_text(before)
        sshd.reload()


def lose(box: Box) -> None:
    """The box is away: what it had is cut, and nothing answers."""
    config = sshd_of(box).config
    config.with_name("kept").write_text(config.read_text())
    config.write_text(config.read_text().replace("Port ", "Port 1 #"))
    cut(box)


def find(box: Box) -> None:
    config = sshd_of(box).config
    config.write_text(config.with_name("kept").read_text())


def make_data(folder: Path, *, large: bool) -> None:
    """One large file, or many small ones."""
    if large:
        (folder / "large").write_bytes(os.urandom(40 << 20))  # the box must not have it yet
        return
    for number in range(3000):
        (folder / str(number)).write_bytes(noise(600, number))


def digest_of_files(folder: str) -> str:
    return (
        "import hashlib, pathlib\n"
        "digest = hashlib.sha256()\n"
        f"for path in sorted(pathlib.Path({folder!r}).glob('*')):\n"
        "    digest.update(path.name.encode() + path.read_bytes())\n"
        "print(digest.hexdigest(), flush=True)\n"
    )


def expected_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def size_of(folder: Path) -> int:
    """Of all files below it, also while they come and go."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_size
            except OSError:
                continue
    return total
