"""Promises 5, 8 and 21 over SSH, under links that are cut: one tree, nothing left, nothing lost."""

from __future__ import annotations

import itertools
import os
import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.box import Up, descendants_with, save, wait_until
from tests.e2e.conftest import open_either

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.box import Box

SAVES = 100 if os.environ.get("DEVLOOP_SOAK") == "1" else 12
FILES = 10

LOOK = f"""
import time
while True:
    seen = [open(f"data/{{number}}").read() for number in range({FILES})]
    print("saw", *sorted(set(seen)), flush=True)
    time.sleep(0.005)
"""

ESCAPE = """
import os, subprocess, time
subprocess.Popen(["sleep", "774.25"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "774.25"])
    os._exit(0)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def box(ssh_shared: Path) -> Iterator[Box]:
    with open_either("ssh", ssh_shared) as opened:
        yield opened


def cut(box: Box) -> None:
    assert box.sshd is not None
    box.sshd.drop_connections()


@pytest.mark.promise(5)
def test_no_run_sees_two_versions_though_links_are_cut_amid_saves(box: Box) -> None:
    project = box.project(main=LOOK)
    (project / "data").mkdir()
    write_version(project, 0)
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^saw v0$")
    cuts = 0
    for number in range(1, SAVES + 1):
        write_version(project, number)
        if number % 3 == 0:
            cut(box)
            cuts += 1
            up.talk.wait_for("^devloop: watching", count=cuts + 1)
        if number % 2 == 0:
            up.out.wait_for(rf"^saw v{number}$")
    up.leave()
    # Saves of several files are not one: the client may see some of them, as one tree. What a run
    # sees must stay the same until it ends.
    runs = re.split(r"^── run \d+ · .*$", up.talk.text, flags=re.MULTILINE)
    looks = [line for line in up.out.text.splitlines() if line.startswith("saw ")]
    changes = sum(1 for one, two in itertools.pairwise(looks) if one != two)
    print(f"{SAVES} saves, {cuts} cut links, {len(runs) - 1} runs, {len(looks)} looks")
    assert changes <= len(runs) - 2


def write_version(project: Path, number: int) -> None:
    for file in range(FILES):
        save(project / "data" / str(file), f"v{number}")


@pytest.mark.promise(8)
def test_nothing_of_a_run_survives_its_stop(box: Box) -> None:
    project = box.project(main=ESCAPE)
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^ready$")
    cut(box)
    up.talk.wait_for("^devloop: watching", count=2)
    assert len(descendants_with("774.25")) == 2
    assert box.run(project, "stop").code == 0
    wait_until(lambda: not descendants_with("774.25"), timeout_s=5)
    up.leave()
    print("1 run of 3 processes in 3 sessions, 0 left")


@pytest.mark.promise(21)
def test_what_runs_write_outlives_syncs_whose_links_are_cut(box: Box) -> None:
    write = "import os\nopen(f'made-{os.getpid()}-{len(os.listdir())}', 'w').write('mine')\n"
    project = box.project(main=write + "open('kept.py', 'a').write('# on the box')\n", kept="")
    up = Up(box, project, "--", "python3", "main.py")
    up.talk.wait_for("run 1 ✓")
    for number in range(2, 6):
        save(project / "main.py", write + f"# {number}\n")
        cut(box)
        up.talk.wait_for("^devloop: watching", count=number)
    up.talk.wait_for(r"run \d+ ✓", count=2)
    save(project / "kept.py", "new")
    up.talk.wait_for("kept.py had changed on the box; that version is kept at")
    up.talk.wait_for("kept.py changed")
    up.leave()
    done = box.exec(project, "sh", "-c", "cat made-* | wc -c; cat kept.py")
    made, _, kept = done.text.partition("\n")
    assert (kept, int(made) % 4, int(made) >= 8) == ("new", 0, True), done
    print(f"{int(made) // 4} files of runs, 0 lost")
