"""GPUs picked for runs, as users see it: a real driver library tells of made-up GPUs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.remote_agent.fake_driver import A100, FakeDriver, gpu_line

from .box import Box, Tail, Up, clean_environment, events, open_box, save, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

NOBODY = 65534
SHOW = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))\n"
HOLD = SHOW + "import sys; sys.stdout.flush(); sys.stdin.read()\n"
ENDLESS = SHOW + "import time, sys; sys.stdout.flush(); time.sleep(600)\n"


@pytest.fixture(scope="module")
def library() -> Iterator[FakeDriver]:
    """In a folder that other users may enter."""
    with tempfile.TemporaryDirectory(prefix="dl-gpu-") as directory:
        Path(directory).chmod(0o755)
        yield FakeDriver(Path(directory))


@pytest.fixture
def driver(library: FakeDriver) -> FakeDriver:
    """Two free GPUs."""
    library.wedged.unlink(missing_ok=True)
    library.says(gpu_line(), gpu_line())
    return library


@pytest.fixture
def locks() -> Iterator[str]:
    """A folder for all users' locks, as /run/lock is."""
    directory = tempfile.mkdtemp(prefix="dl-locks-")
    Path(directory).chmod(0o1777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def gpu_box(driver: FakeDriver, locks: str) -> Iterator[Box]:
    with open_box(**driver.env, DEVLOOP_GPU_LOCKS_DIR=locks) as box:
        box.env.pop("CUDA_VISIBLE_DEVICES", None)
        yield box


@contextlib.contextmanager
def open_box_of_nobody(box: Box) -> Iterator[Box]:
    """Another user's on the same machine."""
    base = Path(tempfile.mkdtemp(prefix="dl-"))
    os.chown(base, NOBODY, NOBODY)
    # He may read, and no more: the interpreter of the tests may lie in root's home.
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    prefix = ("setpriv", *user, *reading)
    shared = {name: box.env[name] for name in box.env if name.startswith(("FAKE_", "LD_"))}
    shared["DEVLOOP_GPU_LOCKS_DIR"] = box.env["DEVLOOP_GPU_LOCKS_DIR"]
    theirs = Box(base, clean_environment(base) | shared | {"HOME": str(base)}, prefix)
    try:
        yield theirs
    finally:
        theirs.close()
        shutil.rmtree(base)


def holding(box: Box, project: Path, *words: str) -> tuple[subprocess.Popen[bytes], str]:
    """A run that ends with its stdin, and what it printed first."""
    command = ("exec", *words, "--", "python3", "hold.py")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = box.start(project, *command, **pipes)
    assert process.stdout is not None
    return process, process.stdout.readline().decode().strip()


def let_go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0


def test_a_run_sees_the_gpus_that_were_picked_for_it_and_they_are_told(gpu_box: Box) -> None:
    project = gpu_box.project(show=SHOW)
    done = gpu_box.run(project, "exec", "--gpus", "2", "--", "python3", "show.py")
    assert done.text == "GPU-fake-0,GPU-fake-1\n"
    assert f"run 1 has GPUs 0, 1 ({A100})" in done.stderr
    done = gpu_box.run(project, "exec", "--json", "--gpus", "1", "--", "true")
    assert events(done)[0]["gpus"] == [{"uuid": "GPU-fake-0", "label": "0", "name": A100}]


def test_without_a_wish_the_environment_is_left_alone(gpu_box: Box, driver: FakeDriver) -> None:
    driver.wedged.touch()
    project = gpu_box.project(show=SHOW)
    assert gpu_box.exec(project, "python3", "show.py").text == "None\n"
    mine = {"CUDA_VISIBLE_DEVICES": "1"}
    assert gpu_box.exec(project, "python3", "show.py", env=mine).text == "1\n"


def test_a_wish_for_none_hides_them_all(gpu_box: Box, driver: FakeDriver) -> None:
    driver.wedged.touch()
    project = gpu_box.project(show=SHOW)
    (project / "devloop.toml").write_text("[run]\ngpus = 0\n")
    assert gpu_box.exec(project, "python3", "show.py").text == "\n"


def test_runs_on_different_gpus_share_a_warm_interpreter(gpu_box: Box) -> None:
    project = gpu_box.project(hold=HOLD, show=SHOW)
    first, seen = holding(gpu_box, project, "--gpus", "1")
    assert seen == "GPU-fake-0"
    words = ("exec", "--json", "--gpus", "1", "--", "python3", "show.py")
    started, *output = events(gpu_box.run(project, *words))
    assert output[0]["text"] == "GPU-fake-1\n"
    assert started["start"] == "zygote"
    let_go(first)


def test_who_waits_is_told_for_whom_and_starts_when_they_are_free(gpu_box: Box) -> None:
    project = gpu_box.project(hold=HOLD)
    first, _ = holding(gpu_box, project, "--gpus", "2")
    waiting = gpu_box.start(
        project, "exec", "--gpus", "1", "--", "echo", "ran", stdout=-1, stderr=subprocess.PIPE
    )
    talk, out = Tail(waiting.stderr), Tail(waiting.stdout)
    talk.wait_for(r"waiting for GPUs that are in use:\n  GPU 0 .*: run 1 of project \(\w+\)")
    assert waiting.poll() is None
    let_go(first)
    out.wait_for("ran")
    assert waiting.wait(30) == 0


def test_ctrl_c_ends_the_wait(gpu_box: Box) -> None:
    project = gpu_box.project(hold=HOLD)
    first, _ = holding(gpu_box, project, "--gpus", "2")
    waiting = gpu_box.start(project, "exec", "--gpus", "1", "--", "true", stderr=subprocess.PIPE)
    Tail(waiting.stderr).wait_for("waiting for GPUs")
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(30) == 130
    let_go(first)
    runs = gpu_box.run(project, "ps", "-a").text.splitlines()
    assert len(runs) == 2, runs


def test_a_gpu_that_others_programs_use_is_waited_for(gpu_box: Box, driver: FakeDriver) -> None:
    driver.says(gpu_line(used_mib=900), f"process 0 -1 {os.getpid()} 890 C")
    project = gpu_box.project()
    waiting = gpu_box.start(project, "exec", "--gpus", "1", "--", "true", stderr=subprocess.PIPE)
    Tail(waiting.stderr).wait_for(rf"GPU 0 .*: \w+: .*python.*\(pid {os.getpid()}\)")
    driver.says(gpu_line())
    assert waiting.wait(30) == 0


def test_a_wish_that_cannot_be_met_is_an_error_at_once(gpu_box: Box) -> None:
    project = gpu_box.project()
    words = ("exec", "--gpus", "H100", "--", "true")
    gpu_box.run(project, *words).assert_error(f'no GPUs for "H100": there is 2 × {A100}')
    gpu_box.run(project, "exec", "--gpus", "1:2", "--", "true").assert_error("a count twice")
    assert "no live runs" in gpu_box.run(project, "ps").stderr


def test_a_restart_stays_on_its_gpu_and_asks_no_driver(gpu_box: Box, driver: FakeDriver) -> None:
    project = gpu_box.project(train=ENDLESS)
    (project / "devloop.toml").write_text('[run]\ngpus = "A100"\ncommand = "python3 train.py"\n')
    up = Up(gpu_box, project)
    up.out.wait_for("GPU-fake-0")
    up.talk.wait_for(r"run 1 · first run · GPU 0 ·")
    driver.wedged.touch()
    save(project / "train.py", ENDLESS + "# changed\n")
    up.out.wait_for("GPU-fake-0", count=2)
    up.talk.wait_for(r"run 2 · train.py changed · GPU 0 ·")
    up.leave()


def test_up_tells_for_whom_it_waits(gpu_box: Box) -> None:
    first, _ = holding(gpu_box, gpu_box.project("other", hold=HOLD), "--gpus", "2")
    project = gpu_box.project(show=SHOW)
    (project / "devloop.toml").write_text('[run]\ngpus = 1\ncommand = "python3 show.py"\n')
    up = Up(gpu_box, project)
    up.talk.wait_for(r"waiting for GPUs .*\n  GPU 0 .*: run 1 of other")
    let_go(first)
    up.out.wait_for("GPU-fake-0")
    up.leave()


def test_a_killed_agent_gives_its_gpus_back(gpu_box: Box, driver: FakeDriver) -> None:
    driver.says(gpu_line())
    project = gpu_box.project(train=ENDLESS)
    detached = gpu_box.run(project, "exec", "-d", "--gpus", "1", "--", "python3", "train.py")
    assert detached.code == 0, detached
    with open_box(**{n: v for n, v in gpu_box.env.items() if n.startswith(("FAKE_", "LD_"))}) as b:
        b.env["DEVLOOP_GPU_LOCKS_DIR"] = gpu_box.env["DEVLOOP_GPU_LOCKS_DIR"]
        waiting = b.start(b.project(), "exec", "--gpus", "1", "--", "true", stderr=subprocess.PIPE)
        Tail(waiting.stderr).wait_for(r"GPU 0 .*: run 1 of project")
        gpu_box.agent().kill()
        assert waiting.wait(30) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_two_users_of_one_box_get_different_gpus(gpu_box: Box) -> None:
    with open_box_of_nobody(gpu_box) as theirs:
        ours, first = holding(gpu_box, gpu_box.project("ours", hold=HOLD), "--gpus", "1")
        project = theirs.project("theirs", hold=HOLD)
        for path in (project.parent, project, *project.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        his, second = holding(theirs, project, "--gpus", "1")
        assert [first, second] == ["GPU-fake-0", "GPU-fake-1"], his.communicate()
        for box in (gpu_box, theirs):
            table = box.run(box.base, "gpus").text
            assert "run 1 of ours (root), for " in table
            assert "run 1 of theirs (nobody), for " in table
        waiting = theirs.start(project, "exec", "--gpus", "1", "--", "true", stderr=subprocess.PIPE)
        Tail(waiting.stderr).wait_for(r"GPU 0 .*: run 1 of ours \(root\)\n  GPU 1 .*\(nobody\)")
        let_go(ours)
        assert waiting.wait(30) == 0
        let_go(his)


def test_gpus_lists_what_there_is_and_who_uses_it(gpu_box: Box, driver: FakeDriver) -> None:
    driver.says(
        gpu_line(used_mib=10240),
        gpu_line(used_mib=300),
        gpu_line(divided=True),
        f"slice 2 4864 0 {A100} MIG 1g.5gb",
        f"process 0 -1 {os.getpid()} 10000 C",
        f"process 1 -1 {os.getpid()} 295 G",
    )
    project = gpu_box.project(hold=HOLD)
    held, seen = holding(gpu_box, project, "--gpus", "1g.5gb")
    assert seen == "MIG-fake-2-0"
    header, *rows = gpu_box.run(project, "gpus").text.splitlines()
    assert header.split() == ["GPU", "NAME", "MEMORY", "LOAD", "USED", "BY"]
    assert rows[0].startswith(f"0    {A100}")
    assert "10.0 / 39.6 GiB  87 %" in rows[0]
    assert rows[0].endswith(f"(pid {os.getpid()})")
    assert rows[1].endswith("free")
    assert rows[2].endswith("divided into slices")
    assert rows[3].startswith("2:1  ")
    assert "run 1 of project (" in rows[3]
    listed = json.loads(gpu_box.run(project, "gpus", "--json").text)["gpus"]
    assert [gpu["is_free"] for gpu in listed] == [False, True, False]
    assert listed[2]["slices"][0]["holder"]["project"] == "project"
    assert gpu_box.run(project, "ps").text.splitlines()[1].split()[-3] == "2:1"
    let_go(held)


def test_gpus_says_that_there_are_none_or_no_answer(gpu_box: Box, driver: FakeDriver) -> None:
    driver.wedged.touch()
    gpu_box.run(gpu_box.base, "gpus").assert_error("the NVIDIA driver has not answered")
    driver.wedged.unlink()
    driver.says("")
    wait_until(lambda: "no GPU" in gpu_box.run(gpu_box.base, "gpus").stderr)
    assert gpu_box.run(gpu_box.base, "gpus", "--json").text.startswith('{"gpus": []')
