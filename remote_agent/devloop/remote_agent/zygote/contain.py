"""How far a run can be contained here, and the fork that does it.

Owns namespaces. Knows nothing of sockets and programs. With a pid namespace, the end of its
init is the end of every process in it; without one, init hunts them down (`hunt`).
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Any, Callable, NamedTuple

from . import kernel, words

_ROOT_HINT = (
    "run the agent as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
)


class Containment(NamedTuple):
    level: str
    user_namespace: bool
    hint: str


def probe(highest_level: str) -> Containment:
    """Tries each level in a process of its own, best first."""
    if highest_level != words.PID_NAMESPACE:
        return Containment(words.PROCESS_GROUP, False, "pid namespaces are turned off")
    refusal = _try_in_child(_try_pid_namespace)
    if not refusal:
        return Containment(words.PID_NAMESPACE, False, "")
    if os.getuid() != 0 and not _try_in_child(_try_user_namespace):
        return Containment(words.PID_NAMESPACE, True, "")
    return Containment(words.PROCESS_GROUP, False, "%s: %s" % (refusal, _ROOT_HINT))


def enter_user_namespace() -> None:
    """Afterwards this process may make pid namespaces. It is another process: the first one
    only waits for it, since the namespace of its own pid was made by somebody else.

    Single-threaded callers only.
    """
    _map_own_user()
    pid = fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)
    die_with_parent()


def fork_contained(level: str, own_namespace: int) -> int:
    """Forks a future init. `own_namespace` is an open /proc/self/ns/pid."""
    if level != words.PID_NAMESPACE:
        return fork()
    kernel.unshare(kernel.CLONE_NEWPID)
    pid = -1
    try:
        pid = fork()
    finally:
        # A second unshare fails while children are still to be born into the last namespace.
        if pid != 0:
            kernel.setns(own_namespace, kernel.CLONE_NEWPID)
    return pid


def open_own_namespace() -> int:
    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


def become_init(level: str) -> None:
    """In the forked process, before it forks the program."""
    if level == words.PID_NAMESPACE:
        die_with_parent()
        mount_own_proc()
    else:
        kernel.become_subreaper()


def mount_own_proc() -> None:
    """Mounts made on the machine later still arrive here; none leaves."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, b"/", None, kernel.MS_REC | kernel.MS_SLAVE)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount(b"proc", b"/proc", b"proc", flags)


def die_with_parent() -> None:
    """A parent that is gone already is noticed by whoever reads its socket."""
    kernel.set_parent_death_signal(signal.SIGKILL)


def fork() -> int:
    """os.fork without the warning of 3.12 about threads: the canary has shown that it works."""
    if sys.version_info < (3, 12):
        return os.fork()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _map_own_user() -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", "%d %d 1" % (uid, uid)),
        ("gid_map", "%d %d 1" % (gid, gid)),
    ):
        with open("/proc/self/" + name, "w") as file:  # noqa: PTH123
            file.write(text)


def _try_pid_namespace() -> None:
    pid = fork_contained(words.PID_NAMESPACE, open_own_namespace())
    if pid == 0:
        _exit_with_outcome_of(mount_own_proc)
    _, status = os.waitpid(pid, 0)
    if status:
        raise OSError("/proc cannot be mounted in a new pid namespace")


def _try_user_namespace() -> None:
    enter_user_namespace()
    _try_pid_namespace()


def _try_in_child(attempt: Callable[[], Any]) -> str:
    """Empty when it worked, else why it did not."""
    read_end, write_end = os.pipe()
    pid = fork()
    if pid == 0:
        _exit_with_outcome_of(attempt, write_end)
    os.close(write_end)
    with open(read_end, "rb") as file:  # noqa: PTH123
        refusal = file.read().decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    return refusal or ("" if status == 0 else "a pid namespace cannot be made")


def _exit_with_outcome_of(attempt: Callable[[], Any], report: int = -1) -> None:
    status = 1
    try:
        attempt()
        status = 0
    except BaseException as error:
        if report >= 0:
            os.write(report, str(error).encode("utf-8", "replace"))
    finally:
        os._exit(status)
