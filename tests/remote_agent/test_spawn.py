"""Births and ends of runs through a real spawner and real zygotes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from devloop.remote_agent.learned import Learned, LearnedFile
from devloop.remote_agent.spawn import CommandNotExecutable, CommandNotFound, StartFailed

from .spawning import Workshop, make_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    workshop = Workshop.open(tmp_path)
    make_environment(workshop.workspace / ".venv")
    yield workshop
    workshop.close()


def write(workshop: Workshop, name: str, text: str) -> str:
    path = workshop.workspace / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


def add_package(workshop: Workshop, name: str, text: str = "") -> None:
    (site_packages,) = workshop.workspace.glob(".venv/lib/python*/site-packages")
    (site_packages / f"{name}.py").write_text(text)


def run_until(workshop: Workshop, argv: list[str], reached: Callable[[], bool]) -> bytes:
    """Runs again until `reached`; returns the last output."""
    deadline = time.monotonic() + 20
    while True:
        ended = workshop.run(*argv)
        if reached():
            return ended.stdout
        assert time.monotonic() < deadline, workshop.last_note


def test_a_command_that_is_not_there_is_known_at_its_start(workshop: Workshop) -> None:
    with pytest.raises(CommandNotFound, match="nowhere: command not found"):
        workshop.run("nowhere")
    with pytest.raises(CommandNotFound):
        workshop.run("./nowhere")


def test_a_command_that_may_not_be_executed_is_known_at_its_start(workshop: Workshop) -> None:
    write(workshop, "data", "no program")
    for name in ("./data", "./"):
        with pytest.raises(CommandNotExecutable):
            workshop.run(name)


def test_a_script_without_a_first_line_is_the_shells(workshop: Workshop) -> None:
    name = write(workshop, "script", "echo $0 $1; exit 3\n")
    (workshop.workspace / name).chmod(0o755)
    ended = workshop.run("./script", "a")
    assert (ended.stdout, ended.code) == (b"./script a\n", 3)


def test_an_executable_program_is_started_as_its_first_line_says(workshop: Workshop) -> None:
    code = "import sys; print(sys.argv, __file__, sys.path[0])\n"
    for line, kind in (("/usr/bin/env python3", "zygote"), ("/usr/bin/env -S python3", "cold")):
        name = write(workshop, f"{kind}.py", f"#!{line}\n{code}")
        with pytest.raises(CommandNotExecutable):
            workshop.run(f"./{name}")
        (workshop.workspace / name).chmod(0o755)
        ended = workshop.run(f"./{name}", "a")
        folder = workshop.workspace
        assert ended.stdout.decode() == f"['./{name}', 'a'] {folder}/./{name} {folder}\n"
        assert workshop.last_kind == kind


def test_a_python_program_without_a_first_line_is_not_the_shells(workshop: Workshop) -> None:
    name = write(workshop, "x.py", "print(1)\n")
    (workshop.workspace / name).chmod(0o755)
    with pytest.raises(CommandNotExecutable, match="names no interpreter"):
        workshop.run("./x.py")


def test_a_folder_that_is_gone_fails_the_start(workshop: Workshop, tmp_path: Path) -> None:
    workshop.workspace = tmp_path / "gone"
    with pytest.raises(StartFailed, match="gone"):
        workshop.run("true")


def test_the_exit_tells_status_signal_and_use(workshop: Workshop) -> None:
    assert workshop.run("sh", "-c", "exit 3").code == 3
    assert workshop.run("sh", "-c", "kill -KILL $$").signal == signal.SIGKILL
    workshop.run("python", "-c", "sum(range(3_000_000)); bytearray(50 << 20)")
    assert workshop.last_exit is not None
    assert workshop.last_exit.user_s > 0.01
    assert workshop.last_exit.peak_memory_bytes > 50 << 20


def test_environment_and_arguments_of_a_mebibyte_arrive(workshop: Workshop) -> None:
    env = {f"V{number}": b"x" * 100_000 for number in range(8)}
    code = "import os; print(sum(len(v) for k, v in os.environ.items() if k[0] == 'V'))"
    assert int(workshop.run("python", "-c", code, env=env).stdout) >= 800_000


def test_what_a_good_run_imported_is_preloaded_for_the_next(workshop: Workshop) -> None:
    add_package(workshop, "heavy", "import os\nIMPORTED_BY = os.getpid()\n")
    program = write(
        workshop, "main.py", "import heavy, os; print(heavy.IMPORTED_BY != os.getpid())"
    )
    assert workshop.run("python", program).stdout == b"False\n"
    output = run_until(workshop, ["python", program], lambda: not workshop.last_note)
    assert (workshop.last_kind, output) == ("zygote", b"True\n")


def test_the_projects_own_modules_are_never_preloaded(workshop: Workshop) -> None:
    write(workshop, "own.py", "VALUE = 1\n")
    program = write(workshop, "main.py", "import decimal, own; print(own.VALUE)")
    workshop.run("python", program)
    run_until(workshop, ["python", program], lambda: not workshop.last_note)
    write(workshop, "own.py", "VALUE = 22\n")
    assert workshop.run("python", program).stdout == b"22\n"
    assert workshop.last_kind == "zygote"


def test_an_explicit_preload_is_used(workshop: Workshop) -> None:
    add_package(workshop, "heavy")
    code = "import sys; print('heavy' in sys.modules)"
    deadline = time.monotonic() + 20
    while workshop.run("python", "-c", code, preload=("heavy", "not_there")).stdout != b"True\n":
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
            "threads",
        ),
        ("print('welcome')", "prints"),
        ("import os, time\nif os.fork() == 0: time.sleep(99)", "child"),
    ],
)
def test_a_package_that_spoils_forks_is_left_out(workshop: Workshop, text: str, why: str) -> None:
    add_package(workshop, "spoils", text)
    code = "import sys; print('spoils' in sys.modules)"
    deadline = time.monotonic() + 20
    while why not in workshop.last_note:
        assert workshop.run("python", "-c", code, preload=("spoils",)).stdout == b"False\n"
        assert time.monotonic() < deadline, workshop.last_note


def test_a_package_that_kills_the_zygote_leads_to_a_bare_one(workshop: Workshop) -> None:
    add_package(workshop, "dies", "import os\nos._exit(9)")
    deadline = time.monotonic() + 20
    while "nothing is preloaded" not in workshop.last_note:
        assert workshop.run("python", "-c", "print(1)", preload=("dies",)).stdout == b"1\n"
        assert time.monotonic() < deadline, workshop.last_note
    assert workshop.last_kind == "zygote"


def test_a_changed_package_is_seen_by_the_next_run_but_one(workshop: Workshop) -> None:
    add_package(workshop, "heavy", "VALUE = 1\n")
    program = write(workshop, "main.py", "import heavy; print(heavy.VALUE)")
    workshop.run("python", program)
    run_until(workshop, ["python", program], lambda: not workshop.last_note)
    add_package(workshop, "other")  # as an installer does: the folder changes
    add_package(workshop, "heavy", "VALUE = 22\n")
    assert workshop.run("python", program).stdout == b"22\n"


def test_an_interpreter_that_is_broken_leads_to_a_cold_start(workshop: Workshop) -> None:
    bin_folder = workshop.workspace / ".venv" / "bin"
    (bin_folder / "python").unlink()
    (bin_folder / "python").write_text("#!/bin/sh\necho it ran $1\n")
    (bin_folder / "python").chmod(0o755)
    ended = workshop.run("python", "x.py")
    assert ended.stdout == b"it ran x.py\n"
    assert workshop.last_kind == "cold"
    assert "no zygote" in workshop.last_note


def test_an_environments_own_sitecustomize_has_its_turn(workshop: Workshop) -> None:
    add_package(workshop, "sitecustomize", "import builtins\nbuiltins.customized = __file__\n")
    code = "import sys; print(customized, sys.modules['sitecustomize'].__file__)"
    plain = workshop.run("python", "-c", code, warm=False)
    assert plain.stdout
    assert workshop.run("python", "-c", code) == plain
    assert workshop.last_kind == "zygote"


def test_pythonpath_is_the_users(workshop: Workshop) -> None:
    write(workshop, "lib/helper.py", "VALUE = 5\n")
    code = "import os, sys, helper; print(helper.VALUE, os.environ['PYTHONPATH'], sys.path)"
    env = {"PYTHONPATH": b"lib:/nowhere"}
    plain = workshop.run("python", "-c", code, warm=False, env=env)
    assert workshop.run("python", "-c", code, env=env) == plain
    assert workshop.last_kind == "zygote"


def test_an_editable_install_points_to_the_workspace(workshop: Workshop, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    write(workshop, "src/mine.py", "print(__file__)\n")
    (site_packages,) = workshop.workspace.glob(".venv/lib/python*/site-packages")
    (site_packages / "mine.pth").write_text(f"{project}/src\n")
    ended = workshop.run("python", "-c", "import mine", local_root=project)
    assert ended.stdout.strip() == os.fsencode(workshop.workspace / "src" / "mine.py")


def test_random_numbers_differ_from_run_to_run(workshop: Workshop) -> None:
    code = "import random, uuid; print(random.random(), uuid.uuid4())"
    outputs = {
        workshop.run("python", "-c", code, preload=("random", "uuid")).stdout for _ in range(6)
    }
    assert len(outputs) == 6


def test_a_killed_zygote_costs_nothing_but_time(workshop: Workshop) -> None:
    workshop.run("python", "-c", "1")
    for zygote in list(workshop.spawner._host.pool._all):
        os.kill(zygote.pid, signal.SIGKILL)
        os.waitid(os.P_PID, zygote.pid, os.WEXITED | os.WNOWAIT)
    for _ in range(3):
        assert workshop.run("python", "-c", "print(1)").stdout == b"1\n"


def test_a_signal_reaches_the_foreground_group(workshop: Workshop) -> None:
    blocked = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [2])"
    code = f"{blocked}; print('up', flush=True); print(signal.sigwait([2]).name, flush=True)"

    async def scene() -> tuple[bytes, int]:
        read_end, write_end = os.pipe()
        process = await workshop.start("python", "-c", code, stdout=write_end)
        os.close(write_end)
        seen = await asyncio.to_thread(os.read, read_end, 100)
        process.signal(signal.SIGINT)
        seen += await asyncio.to_thread(os.read, read_end, 100)
        os.close(read_end)
        return seen, (await process.wait()).code

    assert workshop.runner.run(scene()) == (b"up\nSIGINT\n", 0)


def test_a_killed_run_still_tells_what_it_used(workshop: Workshop) -> None:
    async def scene() -> None:
        read_end, write_end = os.pipe()
        code = "x = bytearray(40 << 20); print(1, flush=True); import time; time.sleep(99)"
        process = await workshop.start("python", "-c", code, stdout=write_end)
        os.close(write_end)
        await asyncio.to_thread(os.read, read_end, 1)
        assert process.survivors()
        process.kill()
        exit_ = await process.wait()
        os.close(read_end)
        assert exit_.signal == signal.SIGKILL
        assert exit_.peak_memory_bytes > 40 << 20
        assert process.survivors() == []

    workshop.runner.run(scene())


def test_descriptors_do_not_pile_up(workshop: Workshop) -> None:
    def settled() -> int:
        """When nothing changes any more: a zygote may be on its way, another about to be closed."""
        workshop.run("python", "-c", "1")
        last, now = -1, 0
        while now != last:
            workshop.runner.run(asyncio.sleep(0.2))
            last, now = now, len(os.listdir("/proc/self/fd"))
        return now

    settled()  # the first zygote loads after its run
    before = settled()
    for _ in range(10):
        workshop.run("true")
    assert settled() <= before


def test_what_is_learned_survives_the_agent(tmp_path: Path) -> None:
    file = LearnedFile(tmp_path, b"/w", b"python")
    file.update(file.value.with_modules(("a", "b.c")).with_refused("a", "prints"))
    again = LearnedFile(tmp_path, b"/w", b"python").value
    assert again.preload == ("b.c",)
    assert "a is not preloaded" in again.note
    assert LearnedFile(tmp_path, b"/other", b"python").value == Learned()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 9}', "\x00"])
def test_a_record_that_cannot_be_read_is_learned_again(tmp_path: Path, text: str) -> None:
    file = LearnedFile(tmp_path, b"/w", b"python")
    file.update(Learned(("a",)))
    (path,) = (tmp_path / "learned").iterdir()
    assert json.loads(path.read_text())["modules"] == ["a"]
    path.write_text(text)
    assert LearnedFile(tmp_path, b"/w", b"python").value == Learned()


def test_an_unsafe_set_is_tried_again_when_it_grows() -> None:
    learned = Learned(("a",)).with_unsafe("it hung")
    assert learned.preload == ()
    assert learned.with_modules(("a",)).preload == ()
    assert learned.with_modules(("b",)).preload == ("a", "b")
