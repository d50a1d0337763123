"""Runs in an image for an agent that is not root: with ids for the image's users, and without."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.cafs.tiers.servers import serve_nothing
from tests.images.bases import debian_base
from tests.images.layout import Dir, File, Image, layer, write_layout
from tests.images.programs import small_root

from devloop.cafs.errors import DevloopError
from devloop.cafs.fuse.check import check_fuse

from .box import Tail, events, wait_until
from .ordinary import ordinary_box

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sshd import Sshd

    from .ordinary import OrdinaryBox

ANN = (1234, 56)  # the image's user and group
PROGRAMS = "sh cat ls stat id chown touch mkdir wc sleep setsid"
ENTRIES = {
    **small_root(*PROGRAMS.split()),
    "etc/passwd": File(b"root:x:0:0:root:/root:/bin/sh\nann:x:1234:56::/home/ann:/bin/sh\n"),
    "etc/group": File(b"root:x:0:\nann:x:56:\naudio:x:29:ann\n"),
    "home": Dir(),
    "home/ann": Dir(0o700, *ANN),
    "home/ann/own": File(b"ann's\n", 0o600, *ANN),
    "opt": Dir(),
    "opt/far": File(b"far\n", 0o640, 3_000_000_000, 3_000_000_000),
    "opt/su": File(Path("/usr/bin/id").read_bytes(), 0o6755),
}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rootless") / "layout"
    write_layout(folder, [Image([layer(ENTRIES)])])
    return folder


@pytest.fixture(scope="module")
def ranged() -> Iterator[OrdinaryBox]:
    """Its user has ids for others."""
    with ordinary_box(ranges=True) as box:
        yield box


@pytest.fixture(scope="module")
def single() -> Iterator[OrdinaryBox]:
    """Its user has no id but his own."""
    with ordinary_box(ranges=False) as box:
        yield box


@pytest.fixture(params=["ranged", "single"])
def box(request: pytest.FixtureRequest) -> OrdinaryBox:
    found: OrdinaryBox = request.getfixturevalue(request.param)
    return found


def in_image(box: OrdinaryBox, layout: Path, more: str = "", **files: str) -> Path:
    project = box.project(**files)
    (project / "devloop.toml").write_text(f'image = "{box.image(layout)}"\n{more}')
    return project


def needs_fuse() -> None:
    with contextlib.suppress(DevloopError):
        check_fuse()
        return
    pytest.skip("needs FUSE")


def test_exit_status_signal_and_stdin_are_those_of_the_program(
    box: OrdinaryBox, layout: Path
) -> None:
    project = in_image(box, layout)
    assert box.exec(project, "sh", "-c", "echo out; exit 7").code == 7
    assert box.exec(project, "sh", "-c", "kill -TERM $$").code == 128 + signal.SIGTERM
    assert box.exec(project, "wc", "-c", stdin=b"x" * 300_000).text == "300000\n"
    box.exec(project, "no-such-program").assert_error("command not found", code=127)
    assert box.exec(project, "id", "-u").text == "0\n"


def test_files_are_whose_the_image_says(ranged: OrdinaryBox, layout: Path) -> None:
    project = in_image(ranged, layout)
    shown = ("stat", "-c", "%u:%g %a", "/usr/bin/id", "/home/ann", "/home/ann/own", "/opt/far")
    said = ranged.exec(project, *shown).text.split("\n")
    assert said == ["0:0 755", "1234:56 700", "1234:56 600", "65534:65534 640", ""]


def test_files_of_users_who_do_not_exist_are_roots(single: OrdinaryBox, layout: Path) -> None:
    project = in_image(single, layout)
    script = "stat -c %u:%g /home/ann/own /opt/far; cat /home/ann/own; echo x >>/opt/far"
    assert single.exec(project, "sh", "-ec", script).text == "0:0\n0:0\nann's\n"


def test_runs_become_the_images_user(ranged: OrdinaryBox, layout: Path) -> None:
    project = in_image(ranged, layout, '[container]\nuser = "ann"\n')
    script = "id -u; id -g; id -G; echo $HOME; cat $HOME/own; touch x /tmp/x; stat -c %u x /tmp/x"
    said = ranged.exec(project, "sh", "-ec", script).text.split("\n")
    assert said == ["1234", "56", "56 29", "/home/ann", "ann's", "1234", "1234", ""]


def test_a_user_for_whom_there_is_no_id_is_an_error_that_says_what_to_install(
    single: OrdinaryBox, layout: Path
) -> None:
    project = in_image(single, layout, '[container]\nuser = "ann"\n')
    done = single.exec(project, "true")
    done.assert_error("runs cannot become user 'ann' of the image, 1234:56")
    assert "apt install uidmap" in done.stderr
    assert "--add-subuids" in done.stderr


def test_a_setuid_file_of_the_image_gives_nothing(ranged: OrdinaryBox, layout: Path) -> None:
    project = in_image(ranged, layout, '[container]\nuser = "ann"\n')
    assert ranged.exec(project, "/opt/su", "-u").text == "1234\n"
    assert ranged.exec(project, "/opt/su", "-g").text == "56\n"


def test_after_down_nothing_of_a_container_is_left(box: OrdinaryBox, layout: Path) -> None:
    project = in_image(box, layout)
    hidden = "setsid sh -c 'trap \"\" TERM INT HUP; sleep 3031' >/dev/null 2>&1 & echo"
    script = f"mkdir -p /opt/d; echo 1 >/opt/d/x; chown 7:7 /opt/d/x /opt/d 2>&1; {hidden}"
    box.exec(project, "sh", "-c", script)
    family = [box.agent(), *box.agent().children(recursive=True)]
    assert list((box.state_dir / "containers/live").glob("*"))
    assert box.run(project, "down").code == 0
    wait_until(lambda: not any(map(lives, family)))
    assert not mounts_below(box)
    assert not list((box.state_dir / "containers/live").glob("*"))


def test_a_killed_agent_leaves_nothing_that_the_next_one_does_not_remove(
    box: OrdinaryBox, layout: Path
) -> None:
    project = in_image(box, layout)
    script = "mkdir /opt/d; echo 1 >/opt/d/x; chown 7:7 /opt/d/x /opt/d; echo on; sleep 3032"
    process = box.start(project, "exec", "--", "sh", "-c", script, stdout=subprocess.PIPE)
    Tail(process.stdout).wait_for("on")
    agent = box.agent()
    family = [agent, *agent.children(recursive=True)]
    process.kill()
    agent.kill()
    wait_until(lambda: not any(map(lives, family)))
    assert not mounts_below(box)
    assert box.exec(project, "ls", "/opt").text == "far\nsu\n"
    assert box.run(project, "down").code == 0
    assert not list((box.state_dir / "containers/live").glob("*"))


def test_stop_ends_children_in_sessions_of_their_own(box: OrdinaryBox, layout: Path) -> None:
    project = in_image(box, layout)
    deaf = "trap '' INT TERM HUP"
    script = f'{deaf}; setsid sh -c "{deaf}; echo on; sleep 3033" & wait; sleep 3033'
    process = box.start(project, "exec", "--", "sh", "-c", script, stdout=subprocess.PIPE)
    Tail(process.stdout).wait_for("on")
    inside = list(filter(lives, box.agent().children(recursive=True)))
    inside = [one for one in inside if "3033" in " ".join(one.cmdline())]
    assert len(inside) >= 2
    assert box.run(project, "stop").code == 0
    wait_until(lambda: not any(map(lives, inside)))
    assert process.wait(10) == 128 + signal.SIGKILL
    assert box.exec(project, "sh", "-c", "echo next").text == "next\n"


def test_the_network_can_be_none(box: OrdinaryBox, layout: Path) -> None:
    project = in_image(box, layout, '[container]\nnetwork = "isolated"\n')
    said = box.exec(project, "cat", "/proc/net/dev").text.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in said] == ["lo"]
    assert box.exec(project, "ls", "/sys/class/net").text == "lo\n"


def test_a_layer_that_is_kept_is_there_again(ranged: OrdinaryBox, layout: Path) -> None:
    project = in_image(ranged, layout, '[container]\nkeep = "work"\n')
    script = "mkdir /opt/d; echo kept >/opt/d/x; chown 7:8 /opt/d/x /opt/d"
    assert ranged.exec(project, "sh", "-ec", script).code == 0
    ranged.run(project, "down")
    said = ranged.exec(project, "sh", "-ec", "cat /opt/d/x; stat -c %u:%g /opt/d/x").text
    assert said == "kept\n7:8\n"


def test_what_runs_wrote_as_other_users_is_cleaned_away(ranged: OrdinaryBox, layout: Path) -> None:
    project = in_image(ranged, layout)
    script = "mkdir -p d/e; echo 1 >d/e/x; chown 7:8 d/e/x d/e d; mkdir -m 0 closed"
    assert ranged.exec(project, "sh", "-ec", script).code == 0
    before = set((ranged.state_dir / "workspaces").iterdir())
    done = ranged.run(project, "clean", "-y")
    assert done.code == 0, done
    after = set((ranged.state_dir / "workspaces").iterdir())
    assert len(before - after) == 1
    assert not [path for path in after if path.name.startswith(".removed-")]


def lazily(box: OrdinaryBox, folder: Path) -> tuple[str, str]:
    """An image's reference, and a tier that has it: the box lacks one file of it, /opt/rare."""
    needs_fuse()
    rare = File(f"rare {folder}\n".encode())
    write_layout(folder / "layout", [Image([layer({**ENTRIES, "opt/rare": rare})])])
    name = box.image(folder / "layout")
    tier = f"file://{Path(name[4:]).parent.parent}/tier"
    for command in (("pull", name), ("push", name, "--to", tier), ("rm", name)):
        done = box.run(box.project(), "image", *command)
        assert done.code == 0, done
    return name, tier


def test_missing_files_come_from_a_tier(box: OrdinaryBox, tmp_path: Path) -> None:
    name, tier = lazily(box, tmp_path)
    project = box.project()
    (project / "devloop.toml").write_text(f'image = "{name}"\nstore = ["{tier}"]\n')
    assert box.exec(project, "cat", "/opt/rare").text == f"rare {tmp_path}\n"
    assert file_servers(box)


def test_a_run_that_waits_for_a_stuck_file_server_can_be_stopped(
    box: OrdinaryBox, tmp_path: Path
) -> None:
    """Only root may abort the kernel's connection to it: it ends with its server."""
    name, tier = lazily(box, tmp_path)
    project = box.project()
    assert box.run(project, "down").code == 0  # and with it the servers of other tests
    (project / "devloop.toml").write_text(f'image = "{name}"\nstore = ["{tier}"]\n')
    assert box.exec(project, "sh", "-c", "cat /etc/passwd /etc/group").code == 0
    assert box.run(project, "down").code == 0
    with serve_nothing() as silent:
        (project / "devloop.toml").write_text(f'image = "{name}"\nstore = ["{silent}"]\n')
        script = "echo up; exec cat /opt/rare"
        process = box.start(project, "exec", "--", "sh", "-c", script, stdout=subprocess.PIPE)
        Tail(process.stdout).wait_for("up")
        (server,) = file_servers(box)
        wait_until(lambda: server.net_connections("tcp"))
        wait_until(lambda: waits_for_an_answer(box))
        server.suspend()
        assert box.run(project, "stop").code == 0
        assert process.wait(20) != 0
        wait_until(lambda: not lives(server))
    (project / "devloop.toml").write_text(f'image = "{name}"\nstore = ["{tier}"]\n')
    assert box.exec(project, "cat", "/opt/rare").text == f"rare {tmp_path}\n"


def test_a_tier_is_reached_over_ssh_as_the_user_would(
    box: OrdinaryBox, layout: Path, sshd: Sshd
) -> None:
    """His own configuration, key and known hosts: the server that needs them is root, somehow."""
    needs_fuse()
    name = box.image(layout)
    assert box.run(box.project(), "image", "pull", name).code == 0
    folder = box.base / "home/.ssh"
    folder.mkdir(mode=0o700)
    for path in (sshd.user_key, sshd.known_hosts):
        shutil.copy(path, folder)
    (folder / "config").write_text(
        sshd.client_config(IdentityFile="~/.ssh/user", UserKnownHostsFile="~/.ssh/known_hosts")
    )
    box.user.own(folder)
    project = box.project()
    tier = f"ssh://{sshd.alias}{box.state_dir}"
    (project / "devloop.toml").write_text(f'image = "{name}"\nstore = ["{tier}"]\n')
    other = {
        f"DEVLOOP_{kind}_DIR": str(box.base / f"other-{kind}") for kind in ("STATE", "RUNTIME")
    }
    try:
        done = box.exec(project, "cat", "/home/ann/own", env=other)
        assert done.text == "ann's\n", done
    finally:
        box.run(project, "down", env=other)
        shutil.rmtree(folder)


def test_without_fuse_an_image_that_is_here_runs(layout: Path) -> None:
    with ordinary_box(ranges=True, fuse=False) as box:
        project = in_image(box, layout)
        script = "stat -c %u:%g /home/ann/own; echo 1 >/home/ann/own; cat /home/ann/own /opt/far"
        assert box.exec(project, "sh", "-ec", script).text == "1234:56\n1\nfar\n"
        assert box.state_dir.stat().st_mode & 0o077 == 0  # setuid files lie there
        told = box.run(project, "doctor").text
        if Path("/dev/fuse").exists():
            assert re.search(r"^! lazy +off: /dev/fuse is closed to the agent's user", told, re.M)
            assert "chmod 666 /dev/fuse" in told, told


def test_a_python_program_is_forked_from_a_warm_interpreter_of_the_image(
    ranged: OrdinaryBox,
) -> None:
    preload = '[run]\npreload = ["json"]\n'
    program = "import sys; print('json' in sys.modules)"
    project = in_image(ranged, debian_base().layout, preload, main=program)

    def is_warm() -> bool:
        done = ranged.run(project, "exec", "--json", "--", "python3", "main.py")
        started = next(event for event in events(done) if event["event"] == "started")
        return bool(started["start"] == "zygote")

    wait_until(is_warm)
    assert ranged.exec(project, "python3", "main.py").text == "True\n"


def test_doctor_says_what_there_is_and_what_would_be_better(
    ranged: OrdinaryBox, single: OrdinaryBox
) -> None:
    told = ranged.run(ranged.project(), "doctor").text
    assert re.search(r"^[✓!] containers +(crun|runc), rootless", told, re.M), told
    assert "add-subuids" not in told
    assert re.search(r"^! images +mounted as (tmpfs|fuse)\+overlay", told, re.M), told
    told = single.run(single.project(), "doctor").text
    assert re.search(r"^! containers +(crun|runc), rootless", told, re.M), told
    assert "add-subuids" in told
    assert re.search(r"^! limits +none of memory, cpu, pids", told, re.M), told


def file_servers(box: OrdinaryBox) -> list[psutil.Process]:
    """Those that have mounted something."""
    family = box.agent().children(recursive=True)
    showing = [one for one in family if " fuse.devloop-" in "".join(_mounts(one.pid))]
    return [one for one in showing if "devloop.cafs.fuse" in words(one)]


def waits_for_an_answer(box: OrdinaryBox) -> bool:
    """Does a process of a run's wait in the kernel's part of FUSE?"""
    family = box.agent().children(recursive=True)
    with contextlib.suppress(OSError):  # one that has ended
        return any("request_wait" in Path(f"/proc/{p.pid}/wchan").read_text() for p in family)
    return False


def words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie
        return " ".join(process.cmdline())
    return ""


def mounts_below(box: OrdinaryBox) -> list[str]:
    return [line for line in _mounts(box.user.holder) if f" {box.base}/" in line]


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _mounts(pid: int) -> list[str]:
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return []
