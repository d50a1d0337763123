"""The spawner in a container: a fork of the keeper that goes in, and can never come out.

It is devloop's own interpreter with everything loaded, so that it needs no file of the image, and
an image needs no Python. Whoever runs in the container cannot look into it: it is not dumpable,
and nobody in there has CAP_SYS_PTRACE. It speaks the protocol of `zygote.serve` with the agent.
"""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from devloop.cafs.mount.kernel import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, set_attributes
from devloop.remote_agent.zygote import child, kernel, serve, wire, words

from . import locked, look

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Inside", "start_inside"]


class Inside(NamedTuple):
    """`log`: a descriptor for what goes wrong. `joins`: of files that take a pid into a cgroup.
    `victim_score`: see `cgroups.victim_score`."""

    control: socket.socket
    questions: socket.socket
    log: int
    capabilities: Iterable[int]
    seccomp: bytes
    limits: Mapping[str, tuple[int, int]]
    victim_score: int
    namespaces: int
    joins: Iterable[int]


def start_inside(pause_pidfd: int, inside: Inside) -> int:
    """The spawner's pid. The caller is a child subreaper, and its parent from here on.

    Raises OSError.
    """
    pid_end, pid_says = os.pipe()
    go, go_says = os.pipe()
    between = os.fork()
    if between == 0:
        for fd in (pid_end, go_says):
            os.close(fd)
        _go_in(pause_pidfd, inside, pid_says, go)
    for fd in (pid_says, go):
        os.close(fd)
    with open(pid_end, "rb") as file:  # noqa: PTH123
        said = file.read().decode("utf-8", "replace")
    os.waitpid(between, 0)
    try:
        if not said.isdigit():
            raise OSError(f"no process can enter the container: {said or 'it died'}")
        # Only now is this process the spawner's parent, whose death it may ask to die with.
        os.write(go_says, b"\0")
    finally:
        os.close(go_says)
    return int(said)


def _go_in(pause_pidfd: int, inside: Inside, pid_says: int, go: int) -> NoReturn:
    """A process keeps its own pid namespace: only its child is in the container's."""
    try:
        for fd in inside.joins:
            os.write(fd, b"%d" % os.getpid())
        most_files = os.sysconf("SC_OPEN_MAX")
        locked.set_limits(inside.limits)
        locked.enter_namespaces(pause_pidfd, inside.namespaces)
        pid = os.fork()
        if pid == 0:
            os.close(pid_says)
            _serve(inside, go, most_files)
        os.write(pid_says, b"%d" % pid)
    except OSError as error:
        os.write(pid_says, str(error).encode())
    finally:
        os._exit(0)


def _serve(inside: Inside, go: int, most_files: int) -> NoReturn:
    """`most_files`: how many the keeper may have open."""
    try:
        os.read(go, 1)
        control, questions = _keep_only(inside, most_files)
        os.setsid()
        os.chdir("/")
        _make_mounts_safe()
        locked.lock_down(inside.capabilities, inside.seccomp)
        if os.fork() == 0:
            control.close()
            look.answer(questions)
        questions.close()
        if inside.victim_score:
            os.register_at_fork(after_in_child=partial(_become_victim, inside.victim_score))
        _spawn(control)
    except BaseException as error:
        os.write(2, repr(error).encode("utf-8", "replace"))
        raise
    finally:
        os._exit(1)


def _become_victim(score: int) -> None:
    """What a run does about it later, is only to be a more likely one, or as likely as others."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - imports less
            file.write(str(score))
    except OSError:
        return  # it starts all the same


def _make_mounts_safe() -> None:
    """Whatever a runtime makes of its root: crun's is a mount without these flags."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        set_attributes(root, MOUNT_ATTR_NOSUID, recursive=True)
        set_attributes(root, MOUNT_ATTR_NODEV, recursive=False)
    finally:
        os.close(root)


def _spawn(control: socket.socket) -> NoReturn:
    """Returns from `serve` in each run's own process."""
    serve.configured(control)
    serve.default_signals()
    loaded = {"event": words.LOADED, "level": words.PROCESS_GROUP, "hint": ""}
    wire.send(control, dict(loaded, user_namespace=False))
    waiting = serve.serve(control, words.PROCESS_GROUP, lambda: None, launches=True)
    child.exec_request(waiting.request, child.take_request(waiting.request))


def _keep_only(inside: Inside, most_files: int) -> tuple[socket.socket, socket.socket]:
    """Whatever else the keeper has open is the box's; the last of it are the mounts' own."""
    null = os.open(os.devnull, os.O_RDWR)
    for target, fd in enumerate((null, null, inside.log)):
        os.dup2(fd, target)
    kept = sorted((inside.control.fileno(), inside.questions.fileno()))
    first = 3
    for fd in kept:
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, most_files)
    kernel.become_subreaper()
    return inside.control, inside.questions
