"""Runs in real containers, started by each runtime that is installed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.remote_agent.container.rooms import (
    KINDS,
    Room,
    lives,
    make_root,
    processes_of,
    skip_unless_possible,
)

from devloop.cafs.ulimits import Ulimit
from devloop.remote_agent.container.bundle import RUN_CAPABILITIES
from devloop.remote_agent.container.check import check_containers
from devloop.remote_agent.container.devices import Devices, Node
from devloop.remote_agent.container.pool import Containers
from devloop.remote_agent.container.spec import ExtraMount, FolderRoot, ImageConfig, Limits
from devloop.remote_agent.spawn import CommandNotExecutable, CommandNotFound, StartFailed
from devloop.remote_agent.zygote.hunt import children_of, living_descendants

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devloop.remote_agent.container.runtime import Kind
    from devloop.remote_agent.processes import Process

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    skip_unless_possible(request.param)
    found: Kind = request.param
    return found


@pytest.fixture
def room(tmp_path: Path, kind: Kind) -> Iterator[Room]:
    room = Room.enter(tmp_path, kind)
    yield room
    room.close()


def needs_python() -> None:
    if not Path("/usr/bin/python3").exists():
        pytest.skip("needs python3 in /usr/bin")


def keepers() -> list[int]:
    mine = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children_of(os.getpid())}
    return [pid for pid, command in mine.items() if b"container/start.py" in command]


def pause_of(room: Room) -> int:
    return room.containers._places[room.spec].pause_pid


def groups_of(containers: Containers) -> list[Path]:
    name, top = f"devloop-{containers._tag}-*", Path("/sys/fs/cgroup")
    return [*top.glob(name), *top.glob(f"*/{name}")]


async def _kill(process: Process) -> None:
    process.kill()
    await process.wait()


def test_a_command_runs_in_the_workspace(room: Room) -> None:
    (room.workspace / "data").write_text("here\n")
    ended = room.run("/bin/sh", "-c", "pwd; cat data; echo out > made")
    assert (ended.stdout, ended.stderr, ended.code) == (b"/workspace\nhere\n", b"", 0)
    assert (room.workspace / "made").read_text() == "out\n"


def test_input_and_exit_are_the_programs(room: Room) -> None:
    ended = room.run("/bin/sh", "-c", "cat >&2; exit 7", stdin=b"some input")
    assert (ended.stderr, ended.code) == (b"some input", 7)
    assert room.run("/bin/sh", "-c", "kill -9 $$").signal == signal.SIGKILL


def test_a_run_on_a_terminal_has_one(room: Room) -> None:
    ended = room.run_on_terminal(
        "/bin/sh", "-c", "test -t 0 && read x && echo got $x", typed=b"a\n"
    )
    assert b"got a" in ended.stdout


@pytest.mark.parametrize("user", ["", "1000:1000"])
def test_a_terminal_has_its_name_in_the_container_and_belongs_to_its_user(
    tmp_path: Path, kind: Kind, user: str
) -> None:
    if user and os.geteuid() != 0:
        pytest.skip("needs root")
    room = Room.enter(tmp_path, kind, image=ImageConfig(user=user))
    try:
        for _ in range(2):  # its first run starts the container
            script = 'read x; tty && stat -c %u "$(tty)"; echo again >"$(tty)"'
            shown = room.run_on_terminal("/bin/sh", "-c", script, typed=b"a\n").stdout.split()
            assert shown[1].startswith(b"/dev/pts/"), shown
            assert shown[2:] == [user.partition(":")[0].encode() or b"0", b"again"]
    finally:
        room.close()


def test_commands_are_looked_for_in_the_container(room: Room) -> None:
    with pytest.raises(CommandNotFound):
        room.run("nowhere")
    (room.workspace / "plain").write_text("no program")
    with pytest.raises(CommandNotExecutable):
        room.run("./plain")
    (room.workspace / "run.sh").write_text("#!/bin/sh\necho $0\n")
    (room.workspace / "run.sh").chmod(0o755)
    assert room.run("./run.sh").stdout == b"./run.sh\n"


def test_a_python_program_forks_from_a_zygote_in_the_container(room: Room) -> None:
    needs_python()
    (room.workspace / "p.py").write_text(
        "import os, sys; print(sys.executable, os.getcwd(), __file__)\n"
    )
    for _ in range(2):
        ended = room.run("python3", "p.py", "x")
        assert ended.stdout == b"/usr/bin/python3 /workspace /workspace/p.py\n", ended
        assert room.last_kind == "zygote", room.last_note


def test_nothing_of_the_boxs_environment_is_in_a_run(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_BOX", "1")
    image = ImageConfig(env=(("PATH", "/bin:/usr/bin"), ("ONE", "image"), ("TWO", "image")))
    room = Room.enter(tmp_path, kind, image=image, gpus=False)
    try:
        lines = room.run("env", env={"TWO": b"user", "DEVLOOP_RUN": b"3"}).stdout.split(b"\n")
    finally:
        room.close()
    found = dict(line.split(b"=", 1) for line in lines if line)
    assert found == {
        b"PATH": b"/bin:/usr/bin",
        b"ONE": b"image",
        b"TWO": b"user",
        b"HOME": b"/root",
        b"PWD": b"/workspace",
        b"DEVLOOP_RUN": b"3",
    }


def test_the_images_own_words_are_followed(tmp_path: Path, kind: Kind) -> None:
    image = ImageConfig(
        entrypoint=("/bin/sh", "-c"), cmd=("id; pwd; echo $HOME",), working_dir="/a/b", user="ann"
    )
    room = Room.enter(tmp_path, kind, image=image)
    try:
        lines = room.run(*image.command).stdout.decode().splitlines()
        assert lines[0] == "uid=1234(ann) gid=56(ann) groups=56(ann),29(audio)"
        assert lines[1:] == ["/a/b", "/h/ann"]
        if Path("/usr/bin/python3").exists():
            code = "import os; print(os.getresuid(), os.getresgid(), os.getgroups())"
            ended = room.run("python3", "-c", code)
            assert ended.stdout == b"(1234, 1234, 1234) (56, 56, 56) [29]\n"
            assert room.last_kind == "zygote", room.last_note
    finally:
        room.close()


@pytest.mark.parametrize("user", ["1000:1000", "ann"])
def test_another_user_has_the_workspace_and_the_agents_user_what_he_makes(
    tmp_path: Path, kind: Kind, user: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    room = Room.enter(tmp_path, kind, image=ImageConfig(user=user))
    room.workspace.chmod(0o700)
    (room.workspace / "sub").mkdir(mode=0o755)
    (room.workspace / "sub/synced").write_text("one\n")
    try:
        script = "id -u; stat -c %u:%g . sub/synced; echo two >>sub/synced; mkdir sub/made; : >new"
        ended = room.run("/bin/sh", "-c", script)
        uid, *owners = ended.stdout.decode().split()
        assert uid != "0"
        assert {owner.split(":")[0] for owner in owners} == {uid}, ended
        assert (room.workspace / "sub/synced").read_text() == "one\ntwo\n"
        for path in room.workspace.rglob("*"):
            assert (path.stat().st_uid, path.stat().st_gid) == (0, 0), path
        ended = room.run("/bin/sh", "-c", "touch /etc/new")
        assert ended.code != 0
    finally:
        room.close()


def test_a_workspace_that_cannot_be_shown_as_anothers_is_one_clear_error(
    tmp_path: Path, kind: Kind
) -> None:
    """An overlay has no id-mapped mounts."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    room = Room.enter(tmp_path, kind, image=ImageConfig(user="1000:1000"))
    layers = [tmp_path / name for name in ("lower", "upper", "work")]
    for layer in layers:
        layer.mkdir()
    options = "lowerdir={},upperdir={},workdir={}".format(*layers)
    command = ["mount", "-t", "overlay", "none", "-o", options, str(room.workspace)]
    subprocess.run(command, check=True)
    try:
        with pytest.raises(StartFailed, match="cannot be shown as that of user 1000"):
            room.run("/bin/true")
        room.spec = replace(room.spec, image=ImageConfig(user="0:1000"))
        assert room.run("touch", "made").code == 0
    finally:
        room.close()
        subprocess.run(["umount", room.workspace], check=True)


def test_a_user_that_the_image_does_not_have_is_an_error(tmp_path: Path, kind: Kind) -> None:
    room = Room.enter(tmp_path, kind, image=ImageConfig(user="nobody-here"))
    try:
        with pytest.raises(StartFailed, match="the image has no user 'nobody-here'"):
            room.run("/bin/true")
        room.until(lambda: room.folders == [])
    finally:
        room.close()


def test_what_is_written_outside_the_workspace_is_thrown_away(room: Room) -> None:
    assert room.run("/bin/sh", "-c", "echo x > /etc/new; cat /etc/new").stdout == b"x\n"
    assert room.run("/bin/cat", "/etc/new").stdout == b"x\n"  # the same warm container
    room.runner.run(room.containers.end(lambda spec: True))
    assert room.run("/bin/sh", "-c", "test -e /etc/new || echo gone").stdout == b"gone\n"
    assert isinstance(room.spec.root, FolderRoot)
    assert not (room.spec.root.path / "etc/new").exists()


def test_a_layer_with_a_name_is_kept(tmp_path: Path, kind: Kind) -> None:
    room = Room.enter(tmp_path, kind, name="mine")
    try:
        room.run("/bin/sh", "-c", "echo x > /etc/new")
        room.runner.run(room.containers.end(lambda spec: True))
        assert room.run("/bin/cat", "/etc/new").stdout == b"x\n"
    finally:
        room.close()


def test_compiled_code_is_an_images_own_and_outlives_a_build(room: Room, tmp_path: Path) -> None:
    script = 'set "$TRITON_CACHE_DIR/k" "$PIP_CACHE_DIR/p"; cat "$@"; echo x | tee "$@"'
    first = replace(room.spec, caches=tmp_path / "caches", reference="team/one:1")
    others = [
        replace(first, reference="team/two:1", shm_bytes=1 << 20),
        replace(first, shm_bytes=2 << 20),
    ]
    found = []
    for room.spec in (first, *others):
        found.append(room.run("/bin/sh", "-c", script).stdout.split())
    assert list(map(len, found)) == [1, 2, 3]


def test_a_layer_of_another_image_is_one_error_that_names_both(tmp_path: Path, kind: Kind) -> None:
    room = Room.enter(tmp_path, kind, name="mine", reference="team/first:1")
    try:
        room.run("/bin/sh", "-c", "echo x > /etc/new")
        first, other = room.spec, FolderRoot(make_root(tmp_path / "other"))
        room.spec = replace(first, root=other, reference="team/second:1")
        said = "'mine' was begun on the image team/first:1 .* cannot go on team/second:1"
        with pytest.raises(StartFailed, match=said) as failure:
            room.run("/bin/true")
        assert "clean --layers" in failure.value.hint
        room.spec = first
        assert room.run("/bin/cat", "/etc/new").stdout == b"x\n"
    finally:
        room.close()


def test_a_layer_belongs_to_one_container_at_a_time(tmp_path: Path, kind: Kind) -> None:
    room = Room.enter(tmp_path, kind, name="mine")
    try:
        _, write_end = os.pipe()
        process = room.runner.run(room.start("/bin/sleep", "20", stdout=write_end))
        first = room.spec
        room.spec = replace(first, shm_bytes=1 << 20)
        with pytest.raises(StartFailed, match="'mine' is in use"):
            room.run("/bin/true")
        room.runner.run(_kill(process))
        assert room.run("/bin/true").code == 0  # the unused one has made room
    finally:
        room.close()


def test_a_run_holds_no_more_than_it_is_given(room: Room) -> None:
    status = room.run("/bin/cat", "/proc/self/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    allowed = sum(1 << number for number in RUN_CAPABILITIES.values())
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(fields[name], 16) == allowed, name
    for name in ("CapInh", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_a_run_cannot_mount_or_make_devices_and_namespaces(room: Room) -> None:
    for command in (
        "mount -t tmpfs none /tmp",
        "umount /workspace",
        "unshare --mount true",
        "unshare --user true",
        "mknod /tmp/disk b 254 0",
        "chroot / mount -t proc none /tmp",
    ):
        ended = room.run("/bin/sh", "-c", command)
        assert ended.code != 0, command
        said = ended.stderr.decode().lower()
        assert any(word in said for word in ("not permitted", "denied", "superuser")), ended


def test_mounts_are_nosuid_and_nodev(room: Room) -> None:
    lines = room.run("/bin/cat", "/proc/self/mountinfo").stdout.decode().splitlines()
    mounts = {line.split()[4]: line.split()[5].split(",") for line in lines}
    assert {"/", "/workspace", "/usr", "/run/devloop", "/dev/shm"} <= set(mounts)
    for target, options in mounts.items():
        if target.startswith(("/proc/", "/sys/")):
            continue  # masks: parts of what is listed itself
        assert "nosuid" in options, target
        may_hold_devices = target in ("/dev", "/dev/pts")
        is_device = os.geteuid() != 0 and Path(target).is_char_device()  # each is mounted
        assert "nodev" in options or may_hold_devices or is_device, target


def test_devloops_own_interpreter_cannot_be_looked_into(room: Room) -> None:
    script = """
for p in /proc/[0-9]*; do
  grep -q start[.]py $p/cmdline 2>/dev/null || continue
  echo found
  for what in root exe cwd; do readlink $p/$what && echo LEAK $what; done
  for what in environ maps mem; do head -c 1 $p/$what >/dev/null 2>&1 && echo LEAK $what; done
  readlink $p/fd/* && echo LEAK fd
done; true
"""
    said = room.run("/bin/sh", "-c", script).stdout.decode().split()
    assert set(said) == {"found"}


def test_no_mount_reaches_the_box(room: Room) -> None:
    before = Path("/proc/self/mountinfo").read_text().count("\n")
    room.run("/bin/true")
    assert Path("/proc/self/mountinfo").read_text().count("\n") == before


def test_the_network_is_the_boxs_or_none(room: Room) -> None:
    links = "cat /proc/net/dev | tail -n +3 | cut -d: -f1"
    shown = room.run("/bin/sh", "-c", links).stdout.split()
    assert sorted(shown) == sorted(os.fsencode(name) for name in os.listdir("/sys/class/net"))
    room.spec = replace(room.spec, network="isolated")
    assert room.run("/bin/sh", "-c", links).stdout.split() == [b"lo"]


def test_an_isolated_container_knows_its_own_names(room: Room) -> None:
    needs_python()
    code = "import socket as s; print(*map(s.gethostbyname, ('localhost', s.gethostname())))"
    room.spec = replace(room.spec, network="isolated")
    assert room.run("/usr/bin/python3", "-c", code).stdout.split() == [b"127.0.0.1"] * 2


def test_shared_memory_is_as_large_as_asked_for(room: Room) -> None:
    room.spec = replace(room.spec, shm_bytes=8 << 20)
    assert b" 8192 " in room.run("/bin/df", "-k", "/dev/shm").stdout


def test_ulimits_are_set(room: Room) -> None:
    ulimits = (
        Ulimit("nofile", 77, 88),
        Ulimit("memlock", 1 << 16, 1 << 17),
        Ulimit("core", 0, 1 << 20),
    )
    room.spec = replace(room.spec, limits=Limits(ulimits=ulimits))
    shown = "for what in n l c; do ulimit -S$what; ulimit -H$what; done; ls /proc/self/fd"
    said = room.run("/bin/sh", "-c", shown).stdout.decode().split()
    assert said[:6] == ["77", "88", "64", "128", "0", "2048"]
    assert said[6:] == ["0", "1", "2", "3"]  # ls has its folder open, and nothing of the box's


def test_ulimits_that_the_box_does_not_allow_are_an_error(room: Room) -> None:
    too_many = Limits(ulimits=(Ulimit("nofile", 1 << 40, 1 << 40),))
    room.spec = replace(room.spec, limits=too_many)
    with pytest.raises(StartFailed, match=r"does not allow container\.ulimits\.nofile"):
        room.run("/bin/true")


def test_memory_beyond_the_limit_ends_the_program(room: Room) -> None:
    needs_python()
    if os.geteuid() != 0:
        pytest.skip("needs root")
    room.spec = replace(room.spec, limits=Limits(memory_bytes=64 << 20))
    ended = room.run("/usr/bin/python3", "-c", "x = bytearray(300 << 20); print(1)", warm=False)
    assert ended.signal == signal.SIGKILL
    assert groups_of(room.containers)
    place = room.containers.place_of(room.spec)
    many = "import os\nfor _ in range(40):\n os.fork() or (bytearray(6 << 20), os.pause())\n"
    room.run("/usr/bin/python3", "-c", f"{many}\nimport time; time.sleep(9)", warm=False)
    assert room.containers.place_of(room.spec) is place, "its spawner was killed"
    assert room.run("/bin/echo", "lives").stdout == b"lives\n"
    room.runner.run(room.containers.end(lambda spec: True))
    room.until(lambda: groups_of(room.containers) == [])


def test_extra_mounts_are_where_they_were_asked_for(room: Room, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("a\n")
    mounts = (*room.spec.mounts, ExtraMount(data, "/mnt/data", read_only=True))
    room.spec = replace(room.spec, mounts=mounts)
    ended = room.run("/bin/sh", "-c", "cat /mnt/data/a; touch /mnt/data/b || echo refused")
    assert ended.stdout == b"a\nrefused\n"


def test_devices_of_the_box_are_there(room: Room) -> None:
    gpu = Node("/dev/gpu/0", 1, 5, 0o666, on_box="/dev/zero")
    room.containers._box = replace(room.containers._look_once(), devices=Devices((gpu,)))
    ended = room.run("/bin/sh", "-c", "head -c 2 /dev/gpu/0 | od -An -tx1; echo >/dev/gpu/0")
    assert (ended.stdout, ended.code) == (b" 00 00\n", 0), ended


def test_a_target_of_another_kind_is_one_clear_error(room: Room, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for source, target, said in (
        (tmp_path, "/etc/passwd", "it is a file, and what comes there a folder"),
        (tmp_path / "file", "/etc", "it is a folder, and what comes there a file"),
        (tmp_path, "/etc/passwd/x", "Not a directory"),
    ):
        mounts = (*room.spec.mounts, ExtraMount(source, target))
        spec, room.spec = room.spec, replace(room.spec, mounts=mounts)
        with pytest.raises(StartFailed, match=f"cannot mount at '{target}' in the image: {said}"):
            room.run("/bin/true")
        room.spec = spec
    room.spec = replace(room.spec, image=ImageConfig(working_dir="/etc/group"))
    with pytest.raises(StartFailed, match="cannot mount at '/etc/group' in the image"):
        room.run("/bin/true")


def test_caches_outlive_the_container(room: Room, tmp_path: Path) -> None:
    room.spec = replace(room.spec, caches=tmp_path / "caches")
    room.run("/bin/sh", "-c", 'echo x > "$TORCH_HOME/kept"')
    assert (tmp_path / "caches/torch/kept").read_text() == "x\n"


def test_a_container_on_its_way_in_counts_as_live(room: Room) -> None:
    async def start() -> None:
        starting = asyncio.create_task(room.containers.ensure(room.spec))
        await asyncio.sleep(0)
        assert room.containers.live() == [room.spec]
        await starting
        assert room.containers.live() == [room.spec]

    room.runner.run(start())


def test_the_longest_unused_container_makes_room(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devloop.remote_agent.container.pool.MAX_CONTAINERS", 2)
    room = Room.enter(tmp_path, kind)
    try:
        specs = [replace(room.spec, shm_bytes=(n + 1) << 20) for n in range(3)]
        for room.spec in specs:
            room.run("/bin/true")
        assert room.containers.live() == specs[1:]
    finally:
        room.close()


def test_starts_at_once_leave_no_more_containers_than_there_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_unless_possible("crun")
    monkeypatch.setattr("devloop.remote_agent.container.pool.MAX_CONTAINERS", 2)
    monkeypatch.setattr("devloop.remote_agent.container.pool.SWEEP_S", 0.1)
    room = Room.enter(tmp_path, "crun")
    specs = [replace(room.spec, shm_bytes=(n + 1) << 20) for n in range(4)]

    async def start_all() -> None:
        await asyncio.gather(*map(room.containers.ensure, specs))

    try:
        room.runner.run(start_all())
        room.until(lambda: len(room.containers.live()) == 2)
    finally:
        room.close()


def test_a_container_that_was_killed_says_why_and_is_started_again(room: Room) -> None:
    said: list[str] = []
    room.containers.on_ending = lambda spec, why: said.append(why)
    for victim, why in {
        "keeper": "its keeper was killed by SIGKILL",
        "pause": "its first process was killed",
        "spawner": "the spawner in it was killed",
    }.items():
        assert room.run("/bin/true").code == 0
        place = room.containers._places[room.spec]
        container = place._container
        inside = processes_of(place.pause_pid)
        pids = {
            "keeper": container._keeper.process.pid,
            "pause": place.pause_pid,
            "spawner": container.spawner.pid,
        }
        os.kill(pids[victim], signal.SIGKILL)
        room.until(lambda: container.ended.is_set() and not any(map(lives, inside)))  # noqa: B023
        room.until(lambda: room.folders == [])
        assert said.pop() == why
    assert "devloop" not in Path("/proc/self/mounts").read_text().split()
    assert room.run("/bin/true").code == 0


def test_nothing_is_left_unreaped_beside_a_container(room: Room) -> None:
    assert room.run("/bin/true").code == 0
    keeper = room.containers._places[room.spec]._container._keeper.process.pid
    states = {pid: Path(f"/proc/{pid}/stat").read_text() for pid in children_of(keeper)}
    assert len(states) == 2, states  # the first process, and the spawner in it
    assert not any(") Z " in state for state in states.values()), states


def test_a_start_that_hangs_in_the_runtime_leaves_nothing_when_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_unless_possible("crun")
    room = Room.enter(tmp_path, "crun")
    hangs = tmp_path / "bin/crun"
    hangs.parent.mkdir()
    hangs.write_text("#!/bin/sh\nsleep 3041 & sleep 3042 & exec sleep 3043\n")
    hangs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{hangs.parent}:{os.environ['PATH']}")

    async def give_up() -> list[int]:
        starting = asyncio.ensure_future(room.containers.ensure(room.spec))
        while len(found := [p for k in keepers() for p in living_descendants(k)]) < 3:
            await asyncio.sleep(0.01)
        starting.cancel()
        await room.containers.close()
        return found

    try:
        found = room.runner.run(asyncio.wait_for(give_up(), 20))
        room.until(lambda: not any(map(lives, found)), timeout_s=5)
    finally:
        room.close()


AGENT = """
import pathlib, signal, sys
from tests.remote_agent.container.rooms import Room
room = Room.enter(pathlib.Path(sys.argv[1]), sys.argv[2])
room.runner.run(room.start("/bin/sleep", "60", stdout=2))
print(room.containers._places[room.spec].pause_pid, flush=True)
signal.pause()
"""


def test_a_killed_agent_leaves_nothing_but_a_folder_that_the_next_one_removes(
    tmp_path: Path, kind: Kind
) -> None:
    command = [sys.executable, "-c", AGENT, str(tmp_path), kind]
    agent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert agent.stdout is not None
    inside = processes_of(int(agent.stdout.readline()))
    assert len(inside) >= (3 if os.geteuid() == 0 else 2)  # only root is told of the spawner
    agent.kill()
    agent.wait()
    agent.stdout.close()
    end = time.monotonic() + 10
    while any(map(lives, inside)):
        assert time.monotonic() < end
        time.sleep(0.01)
    containers = Containers(tmp_path / "containers")
    assert len(list((tmp_path / "containers/live").iterdir())) == 1
    containers.clear()
    assert list((tmp_path / "containers/live").iterdir()) == []
    assert groups_of(containers) == []


@pytest.mark.asyncio
async def test_the_check_starts_a_real_container(kind: Kind) -> None:
    found = await check_containers((kind,))
    rootless = "" if os.geteuid() == 0 else ", rootless"
    assert (found.runtime, found.why) == (kind + rootless, "")
