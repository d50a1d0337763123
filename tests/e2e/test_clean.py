"""`devloop clean` and `devloop doctor --repair`: what the box keeps, and giving it back."""

from __future__ import annotations

import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import digest_of
from devloop.cafs.store import DiskStore

from .box import Up
from .terminal import open_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from .box import Box


def workspaces(box: Box) -> list[str]:
    return sorted(path.name for path in (box.state_dir / "workspaces").iterdir())


def stored(box: Box) -> str:
    """What the agent says that its store takes."""
    found = re.search(r"^store +(.*) of at most", box.run(box.base, "clean", "-n").text, re.M)
    assert found is not None
    return found[1]


def test_clean_shows_what_there_is_and_removes_nothing_unasked(own_box: Box) -> None:
    project = own_box.project("asks", train="print(1)")
    own_box.exec(project, "true")
    [workspace] = workspaces(own_box)
    own_box.run(project, "clean").assert_error("nothing was removed", code=2)
    shown = own_box.run(project, "clean", "-n")
    assert (shown.code, shown.stderr) == (0, "")
    assert shown.text.startswith("asks: ")
    assert f"project  {project}\n" in shown.text
    assert "in 1 file\n" in shown.text
    assert "store " in shown.text
    assert workspaces(own_box) == [workspace]


@pytest.mark.over_ssh
def test_clean_removes_the_workspace_and_its_blobs_and_the_next_exec_begins_anew(
    own_box: Box,
) -> None:
    project = own_box.project("cleaned", train="print('again')")
    own_box.exec(project, "sh", "-c", "mkdir locked; touch locked/file; chmod 500 locked")
    assert stored(own_box) != "0 B"
    done = own_box.run(project, "clean", "--yes")
    assert (done.code, "removed cleaned: " in done.stderr) == (0, True), done
    assert (workspaces(own_box), stored(own_box)) == ([], "0 B")
    assert own_box.exec(project, "python3", "train.py").text == "again\n"
    assert own_box.run(project, "logs", "1").text == "again\n"


def test_blobs_that_another_project_needs_stay(own_box: Box) -> None:
    kept = own_box.project("kept", same="shared = 1", other="kept = 1")
    cleaned = own_box.project("cleaned", same="shared = 1")
    own_box.exec(kept, "true")
    held = stored(own_box)
    own_box.exec(cleaned, "true")
    assert stored(own_box) != held
    assert own_box.run(cleaned, "clean", "-y").code == 0
    assert stored(own_box) == held
    (kept / "new.py").write_text("new = 1")
    assert own_box.exec(kept, "cat", "same.py", "new.py").text == "shared = 1new = 1"


def test_what_was_never_pulled_is_named_and_what_was_pulled_is_not(own_box: Box) -> None:
    project = own_box.project("named")
    (project / "devloop.toml").write_text('[sync]\noutputs = ["pulled/"]\n')
    program = "mkdir -p pulled __pycache__; echo 1 > pulled/a; echo 22 > lost.txt; >__pycache__/b"
    own_box.exec(project, "sh", "-c", program)
    shown = own_box.run(project, "clean", "-n").text
    assert "never pulled: 1 file, 3 B\n    lost.txt  3 B\n" in shown
    assert "pulled/a" not in shown
    own_box.exec(project, "-q", "--", "true")
    assert own_box.run(project, "clean", "-y").code == 0
    assert (project / "pulled" / "a").read_text() == "1\n"


def test_what_changed_on_the_box_and_was_kept_is_shown(own_box: Box) -> None:
    project = own_box.project("aside", train="1")
    own_box.exec(project, "sh", "-c", "echo changed > train.py")
    (project / "train.py").write_text("2")
    own_box.exec(project, "true")
    assert "1 file, changed on the box and kept" in own_box.run(project, "clean", "-n").text


def test_a_project_with_a_live_run_or_an_open_up_is_left_alone(own_box: Box) -> None:
    project = own_box.project("busy", train="import time; print('on', flush=True); time.sleep(99)")
    up = Up(own_box, project, "--", "python3", "train.py")
    up.out.wait_for("on")
    before = workspaces(own_box)
    own_box.run(project, "clean", "-y").assert_error("busy is in use: run 1 is live", code=1)
    everything = own_box.run(project, "clean", "--all", "-y")
    assert (everything.code, "left alone: busy" in everything.stderr) == (0, True)
    own_box.run(project, "stop")
    up.talk.wait_for("run 1 ■")
    own_box.run(project, "clean", "-y").assert_error("a `devloop up` of it is open", code=1)
    assert workspaces(own_box) == before
    up.leave()
    assert own_box.run(project, "clean", "-y").code == 0
    assert workspaces(own_box) == []


def test_gone_means_that_the_project_is_here_no_more(own_box: Box) -> None:
    here, gone = own_box.project("here"), own_box.project("gone")
    for project in (here, gone):
        own_box.exec(project, "true")
    gone.rename(gone.with_name("moved"))
    done = own_box.run(here, "clean", "--gone", "-y")
    assert f"project  {gone}, which is gone" in done.text
    assert "removed gone: " in done.stderr
    assert [name.rpartition("-")[0] for name in workspaces(own_box)] == ["here"]
    again = own_box.run(here, "clean", "--gone", "-y")
    assert (again.code, "no workspace to remove" in again.stderr) == (0, True)


def test_on_a_terminal_it_asks(own_box: Box) -> None:
    project = own_box.project("asks")
    own_box.exec(project, "true")
    for answer, code, left in (("n", 1, 1), ("", 1, 1), ("y", 0, 0)):
        with open_terminal(own_box, project, "clean") as terminal:
            terminal.screen.wait_for(r"Remove all that the box holds of asks, .*\[y/N\]")
            terminal.type(f"{answer}\r")
            assert terminal.process.wait(10) == code
        assert len(workspaces(own_box)) == left


def test_a_removal_that_a_kill_interrupts_is_finished_by_the_next_agent(own_box: Box) -> None:
    project = own_box.project("killed")
    own_box.exec(project, "true")
    [workspace] = workspaces(own_box)
    agent = own_box.agent()
    agent.kill()
    agent.wait()
    directory = own_box.state_dir / "workspaces" / workspace
    directory.rename(directory.with_name(f".removed-{workspace}-1"))
    own_box.run(project, "ps", "-a")
    done = own_box.run(project, "clean", "-n")
    assert "killed" not in done.text
    assert workspaces(own_box) == []


def test_repair_drops_a_damaged_blob_and_the_next_sync_sends_it_again(own_box: Box) -> None:
    text = "print('sound')\n"
    project = own_box.project("damaged", train=text, other="x = 1")
    own_box.exec(project, "true")
    sound = own_box.run(project, "doctor", "--repair")
    assert (sound.code, "none of them damaged" in sound.text) == (0, True), sound
    flip_a_byte(own_box.state_dir / "store", text.encode())
    found = own_box.run(project, "doctor", "--repair")
    assert (found.code, "1 of 3 blobs were damaged, and are dropped" in found.text) == (0, True)
    assert "none of them damaged" in own_box.run(project, "doctor", "--repair").text
    (project / "train.py").rename(project / "renamed.py")
    assert own_box.exec(project, "python3", "renamed.py").text == "sound\n"
    assert "store" not in own_box.run(project, "doctor").text.replace("state", "")


def flip_a_byte(root: Path, content: bytes) -> None:
    with DiskStore(root) as store:
        place = store.place_of(digest_of(content))
    with place.path.open("r+b") as file:
        file.seek(place.offset)
        file.write(bytes([content[0] ^ 1]))


def test_clean_without_an_agent_starts_one_to_look(own_box: Box) -> None:
    project = own_box.project("stopped")
    own_box.exec(project, "true")
    own_box.run(project, "down")
    assert own_box.run(project, "clean", "-n").text.startswith("stopped: ")


@pytest.mark.over_ssh
def test_the_store_limit_reaches_the_agent(own_box: Box) -> None:
    project = own_box.project("limited")
    (project / "devloop.toml").write_text('[agent]\nstore_limit = "2GB"\n')
    assert "of at most 2 GB" in own_box.run(project, "clean", "-n").text


def test_sigterm_of_an_attach_leaves_the_run(own_box: Box) -> None:
    project = own_box.project()
    own_box.run(project, "exec", "-d", "--", "sh", "-c", "echo ready; exec sleep 63")
    guest = own_box.start(project, "attach", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert guest.stdout is not None
    assert guest.stdout.readline() == b"ready\n"
    guest.send_signal(signal.SIGTERM)
    assert guest.wait(10) == 143
    assert "sleep 63" in own_box.live_runs(project)


def test_a_stop_that_finds_nothing_exits_1_with_and_without_an_agent(own_box: Box) -> None:
    project = own_box.project("idle")
    own_box.run(project, "stop").assert_error("no run is live", code=1)
    own_box.exec(own_box.project(), "true")
    own_box.run(project, "stop").assert_error("no run of idle is live", code=1)
    own_box.exec(project, "true")
    own_box.run(project, "stop").assert_error("no run of idle is live", code=1)
