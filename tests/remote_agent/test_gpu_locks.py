"""Locks on GPUs between processes and users, and what hostile users can do about them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devloop.remote_agent import gpu_locks
from devloop.remote_agent.gpu_locks import GpuLock, GpuLocks, HeldBy, LocksUnusable

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = 65534
ROUNDS = 2000 if os.environ.get("DEVLOOP_SOAK") == "1" else 150
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
UUID = "GPU-0f1e"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder like /run/lock, which other users can enter."""
    directory = tmp_path / "locks"
    directory.mkdir()
    directory.chmod(0o1777)
    for above in tmp_path.parents[:3]:
        if above.stat().st_uid == os.getuid() and above != Path("/tmp"):
            above.chmod(above.stat().st_mode | 0o011)
    tmp_path.chmod(0o711)
    return directory


@pytest.fixture
def locks(shared: Path) -> GpuLocks:
    return GpuLocks(shared)


def take(locks: GpuLocks, uuid: str = UUID) -> GpuLock:
    lock = locks.take(uuid)
    assert lock is not None
    return lock


def own_file(shared: Path, uid: int | None = None) -> Path:
    return shared / f"devloop-gpu-{UUID}.{os.getuid() if uid is None else uid}"


def as_nobody(action: Callable[[], object]) -> int:
    """In a forked child of another user; its exit code: 0, unless the action raised."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# -- one user


def test_a_lock_is_one_s_alone_until_it_is_closed(locks: GpuLocks) -> None:
    lock = take(locks)
    assert locks.take(UUID) is None
    take(locks, "GPU-other").close()
    lock.close()
    take(locks).close()


def test_the_holder_is_named_while_the_lock_is_held(locks: GpuLocks) -> None:
    assert locks.holder(UUID) is None
    lock = take(locks)
    held = locks.holder(UUID)
    assert held is not None
    assert str(held) == f"a devloop run ({held.user})"
    lock.note("vision", 3, 5)
    assert locks.holder(UUID) == HeldBy(held.user, "vision", 3, 5)
    assert str(locks.holder(UUID)) == f"run 3 of vision ({held.user})"
    lock.close()
    assert locks.holder(UUID) is None


def test_a_look_is_in_nobody_s_way(locks: GpuLocks) -> None:
    lock = take(locks)
    for _ in range(3):
        assert locks.holder(UUID) is not None
    lock.close()
    take(locks).close()


def test_a_killed_process_leaves_no_lock(shared: Path, locks: GpuLocks) -> None:
    code = """if True:
        import pathlib, sys, time
        from devloop.remote_agent.gpu_locks import GpuLocks
        lock = GpuLocks(pathlib.Path(sys.argv[1])).take(sys.argv[2])
        lock.note("p", 1, 1)
        print("held", flush=True)
        time.sleep(600)
    """
    argv = [sys.executable, "-c", code, str(shared), UUID]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert locks.take(UUID) is None
        holder.send_signal(signal.SIGKILL)
    take(locks).close()


def test_the_slashes_of_an_old_driver_s_uuid_lead_nowhere(shared: Path, locks: GpuLocks) -> None:
    take(locks, "MIG-GPU-0f1e/7/0").close()
    take(locks, "../../../escaped").close()
    assert sorted(path.parent for path in shared.iterdir()) == [shared, shared]


# -- several users


@AS_ROOT
def test_another_user_s_lock_counts_and_he_is_named(shared: Path, locks: GpuLocks) -> None:
    lock = take(locks)
    lock.note("vision", 3, 5)
    theirs = GpuLocks(shared, uid=NOBODY)

    def look() -> None:
        assert theirs.take(UUID) is None
        assert str(theirs.holder(UUID)) == "run 3 of vision (root)"

    assert as_nobody(look) == 0
    lock.close()
    assert as_nobody(lambda: take(theirs).close()) == 0
    take(locks).close()


@AS_ROOT
def test_a_strict_umask_does_not_hide_a_lock(shared: Path, locks: GpuLocks) -> None:
    before = os.umask(0o077)
    try:
        lock = take(locks)
    finally:
        os.umask(before)
    theirs = GpuLocks(shared, uid=NOBODY)

    def look() -> None:
        assert theirs.take(UUID) is None

    assert as_nobody(look) == 0
    lock.close()


@AS_ROOT
def test_two_users_never_hold_the_same_gpu(shared: Path) -> None:
    """Each leaves a mark while he holds it, and fails when he finds another's."""
    mark = shared.parent / "held"
    mark.mkdir()
    mark.chmod(0o777)
    context = multiprocessing.get_context("fork")
    taken = context.Array("i", 4)
    racers = [
        context.Process(target=race, args=(shared, mark / "now", uid, slot, taken))
        for slot, uid in enumerate([0, NOBODY, 0, NOBODY])
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    print(f"{ROUNDS} rounds of 4 processes, 2 users; taken {list(taken)} times")
    assert [racer.exitcode for racer in racers] == [0] * 4
    assert min(taken[0] + taken[2], taken[1] + taken[3]) > 0


def race(shared: Path, mark: Path, uid: int, slot: int, taken: list[int]) -> None:
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    locks = GpuLocks(shared, uid=uid)
    for _ in range(ROUNDS):
        lock = locks.take(UUID)
        if lock is not None:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            time.sleep(random.uniform(0, 0.0005))
            mark.unlink()
            lock.close()
            taken[slot] += 1
        time.sleep(random.uniform(0, 0.002))


# -- hostile users


def test_a_link_planted_under_our_name_is_refused_and_not_followed(
    shared: Path, locks: GpuLocks, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    own_file(shared).symlink_to(precious)
    with pytest.raises(LocksUnusable):
        locks.take(UUID)
    assert locks.holder(UUID) is None
    assert precious.read_text() == "precious"


def test_a_second_name_for_a_file_of_ours_is_refused_and_not_written_to(
    shared: Path, locks: GpuLocks
) -> None:
    precious = shared / "precious"
    precious.write_text("precious")
    os.link(precious, own_file(shared))
    with pytest.raises(LocksUnusable, match="not a plain file") as refused:
        locks.take(UUID)
    assert refused.value.hint
    assert precious.read_text() == "precious"


def test_a_pipe_planted_under_our_name_makes_nobody_wait(shared: Path, locks: GpuLocks) -> None:
    os.mkfifo(own_file(shared))
    with pytest.raises(LocksUnusable):
        locks.take(UUID)
    assert locks.holder(UUID) is None


@AS_ROOT
@pytest.mark.parametrize("uid", [0, 1234])
def test_a_file_that_is_not_of_the_user_in_its_name_counts_for_nothing(
    shared: Path, locks: GpuLocks, uid: int
) -> None:
    planted = own_file(shared, uid)
    planted.touch()
    os.chown(planted, NOBODY, NOBODY)
    fd = os.open(planted, os.O_RDWR)
    assert gpu_locks._try_lock(fd)
    assert locks.holder(UUID) is None
    if uid == 0:
        with pytest.raises(LocksUnusable, match="not a plain file of yours"):
            locks.take(UUID)
    else:
        take(locks).close()
    os.close(fd)


@AS_ROOT
def test_nobody_else_can_remove_a_lock(shared: Path, locks: GpuLocks) -> None:
    lock = take(locks)

    def remove() -> None:
        with pytest.raises(PermissionError):
            own_file(shared, 0).unlink()
        with pytest.raises(PermissionError):
            own_file(shared, 0).write_text("{}")

    assert as_nobody(remove) == 0
    lock.close()


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xff\xfe",
        b"[" * 4000,
        b'{"project": 1, "run": 1, "since_ns": 1}',
        b'{"project": "p", "run": -1, "since_ns": 1}',
        b'{"project": "p", "run": 1e300, "since_ns": 1}',
    ],
)
def test_a_note_that_makes_no_sense_leaves_the_user_s_name(
    shared: Path, locks: GpuLocks, note: bytes
) -> None:
    lock = take(locks)
    own_file(shared).write_bytes(note)
    held = locks.holder(UUID)
    assert held is not None
    assert (held.project, held.run) == ("", 0)
    lock.close()


def test_a_note_reaches_no_terminal_as_control_codes(shared: Path, locks: GpuLocks) -> None:
    lock = take(locks)
    words = {"project": "\x1b[2J\n" + "x" * 9000, "run": 1, "since_ns": 1}
    own_file(shared).write_text(json.dumps(words)[:4096] + '"')
    assert "\x1b" not in str(locks.holder(UUID))
    own_file(shared).write_text(json.dumps(words | {"project": "\x1b[2J\np"}))
    assert str(locks.holder(UUID)).startswith("run 1 of ?[2J?p (")
    lock.close()


def test_a_folder_of_its_own_is_chosen_that_nobody_else_can_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, sticky = tmp_path / "plain", tmp_path / "sticky"
    for directory, mode in ((plain, 0o777), (sticky, 0o1777)):
        directory.mkdir()
        directory.chmod(mode)
    (tmp_path / "link").symlink_to(sticky)
    candidates = (tmp_path / "missing", plain, tmp_path / "link", sticky)
    monkeypatch.setattr(gpu_locks, "_SHARED_DIRS", candidates)
    if os.getuid() == 0:
        take(GpuLocks()).close()
        assert [path.name for path in sticky.iterdir()] == [own_file(sticky).name]
        os.chown(sticky, NOBODY, NOBODY)
    with pytest.raises(LocksUnusable, match="neither") as refused:
        GpuLocks().take(UUID)
    assert "DEVLOOP_GPU_LOCKS_DIR" in refused.value.hint


def test_a_folder_may_be_named(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVLOOP_GPU_LOCKS_DIR", str(shared))
    take(GpuLocks()).close()
    assert own_file(shared).exists()
    monkeypatch.setenv("DEVLOOP_GPU_LOCKS_DIR", str(shared / "missing"))
    with pytest.raises(LocksUnusable):
        GpuLocks().take(UUID)
