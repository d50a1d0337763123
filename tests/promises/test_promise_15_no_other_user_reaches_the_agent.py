"""Promise 15: no other local user can talk to the agent."""

from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.e2e.conftest import open_either

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.box import Box

NOBODY = 65534
SOCKETS = ("agent.sock", "bridge.sock")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(params=["embedded", "ssh"])
def box(request: pytest.FixtureRequest, ssh_shared: Path) -> Iterator[Box]:
    with open_either(request.param, ssh_shared) as opened:
        yield opened


@AS_ROOT
@pytest.mark.promise(15)
def test_another_uid_cannot_connect_to_the_socket(box: Box) -> None:
    box.exec(box.project(), "true")
    box.base.chmod(0o755)  # only the runtime directory's own mode is to keep others out
    for path in (box.runtime_dir / name for name in SOCKETS):
        connect(path)
        with pytest.raises(PermissionError):
            as_another_uid(partial(connect, path))
    for hidden in (box.runtime_dir, box.state_dir):
        with pytest.raises(PermissionError):
            as_another_uid(partial(os.listdir, hidden))
    print("4 tries as another uid, 4 refused")


@pytest.mark.promise(15)
def test_the_agent_listens_in_its_own_directory_and_nowhere_else(box: Box) -> None:
    box.exec(box.project(), "python3", "-c", "print()")
    agent = box.agent()
    family = [agent, *agent.children(recursive=True)]
    listening = [
        connection for process in family for connection in process.net_connections(kind="inet")
    ]
    print(f"{len(family)} processes looked at")
    assert listening == []
    if Path("/proc/net/unix").exists():
        assert bound_names(family) == {str(box.runtime_dir / name) for name in SOCKETS}


@AS_ROOT
@pytest.mark.promise(15)
@pytest.mark.parametrize("planted", ["directory", "link", "socket"])
def test_a_planted_runtime_directory_is_refused(box: Box, planted: str) -> None:
    theirs = box.base / "theirs"
    theirs.mkdir(mode=0o777)
    os.chown(theirs, NOBODY, NOBODY)
    at = theirs
    listener = socket.socket(socket.AF_UNIX)
    if planted == "link":
        at = box.base / "link"
        at.symlink_to(theirs)
    elif planted == "socket":
        listener.bind(str(theirs / "agent.sock"))
        listener.listen()
        listener.setblocking(False)
    with listener:
        done = box.exec(box.project(), "true", env={"DEVLOOP_RUNTIME_DIR": str(at)})
        done.assert_error("is not a directory of yours")
        if planted == "socket":
            with pytest.raises(BlockingIOError):  # not even a byte was said to it
                listener.accept()
    print("1 try, 1 refused")


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def as_another_uid(action: Callable[[], object]) -> None:
    """In a forked child: raises PermissionError when the action does there."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            action()
            code = 0
        except PermissionError:
            code = 13
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 13:
        raise PermissionError
    assert code == 0


def bound_names(processes: list[psutil.Process]) -> set[str]:
    """The names, abstract ones with their "@", of the Unix sockets that these processes hold."""
    inodes = {inode for process in processes for inode in socket_inodes(process)}
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {row[7] for row in rows if len(row) > 7 and row[6] in inodes}


def socket_inodes(process: psutil.Process) -> Iterator[str]:
    for fd in Path(f"/proc/{process.pid}/fd").iterdir():
        target = os.readlink(fd)
        if target.startswith("socket:["):
            yield target[len("socket:[") : -1]
