"""Imports ahead of the runs, and the proof that a fork after them is safe.

Refuses a package that starts Python threads, opens an NVIDIA device, leaves a child process or
writes to stdout: none of these survives a fork as it would a fresh start. Knows nothing of how a
run is made.
"""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import os
import select
import signal
import sys
from typing import Any, Dict, Iterator, List, NamedTuple

from . import contain

CANARY_TIMEOUT_S = 5.0
SAID_BYTES = 400


class Spoiled(Exception):
    """Imports went in that no fork should inherit; the process is of no use any more."""

    def __init__(self, package: str, reason: str) -> None:
        super().__init__("%s %s" % (package, reason))
        self.package = package
        self.reason = reason


class Capture(NamedTuple):
    """What imports write while their output has nowhere to go."""

    stdout: int
    stderr: int

    def said(self) -> str:
        sys.stderr.flush()
        return os.pread(self.stderr, SAID_BYTES, 0).decode("utf-8", "replace").strip()

    def printed(self) -> bool:
        sys.stdout.flush()
        return os.fstat(self.stdout).st_size > 0


def import_all(names: List[str], workspace: str) -> str:
    """Returns what the imports wrote to stderr. The project's own modules are never found."""
    saved_fds = [os.dup(1), os.dup(2)]
    saved_path = list(sys.path)
    capture = Capture(*(os.memfd_create("devloop-said", os.MFD_CLOEXEC) for _ in range(2)))
    sys.path[:] = [path for path in saved_path if not lies_in_project(path, workspace)]
    os.dup2(capture.stdout, 1)
    os.dup2(capture.stderr, 2)
    try:
        for name in names:
            _import(name)
            _check(name.partition(".")[0], capture)
        return capture.said()
    finally:
        sys.path[:] = saved_path
        for target, fd in enumerate(saved_fds, 1):
            os.dup2(fd, target)
        for fd in (*saved_fds, *capture):
            os.close(fd)


def lies_in_project(path: str, workspace: str) -> bool:
    """Inside the workspace, and not in a virtual environment that lies there."""
    if not workspace or not _is_inside(os.path.abspath(path), workspace):
        return False
    return not _is_inside(sys.prefix, workspace) or not _is_inside(path, sys.prefix)


def canary_refusal() -> str:
    """Empty when a forked child could use the thread pools of what is imported."""
    pid = contain.fork()
    if pid == 0:
        _run_canary()
    from . import kernel

    pidfd = kernel.pidfd_open(pid)
    ended, _, _ = select.select([pidfd], [], [], CANARY_TIMEOUT_S)
    os.close(pidfd)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not ended:
        return "a forked child hung in its first computation on two threads"
    return "" if status == 0 else "a forked child failed in its first computation"


def settle() -> None:
    """Imported objects leave the garbage collector's sight, or each child would copy them."""
    gc.collect()
    gc.freeze()


def file_times() -> Dict[str, int]:
    """Of every imported module's file, to notice later that it changed."""
    return {path: _mtime_ns(path) for path in _module_files()}


def first_changed(times: Dict[str, int]) -> str:
    for path, mtime_ns in times.items():
        if _mtime_ns(path) != mtime_ns:
            return path
    return ""


def environment_stats() -> Dict[str, List[int]]:
    """What tells, without starting anything, that packages came or went."""
    site_dirs = [path for path in sys.path if path.endswith("-packages")]
    pth = [
        os.path.join(folder, name)
        for folder in site_dirs
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if name.endswith(".pth")
    ]
    paths = [sys.executable, os.path.join(sys.prefix, "pyvenv.cfg"), *site_dirs, *pth]
    return {path: stat_signature(path) for path in paths}


def stat_signature(path: str) -> List[int]:
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _import(name: str) -> None:
    """A module that does not import here is left for the program to fail on, or not."""
    try:
        importlib.import_module(name)
    except (Exception, SystemExit):
        pass


def _check(package: str, capture: Capture) -> None:
    threading: Any = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        raise Spoiled(package, "starts threads when it is imported")
    if capture.printed():
        raise Spoiled(package, "prints when it is imported")
    if any(target.startswith("/dev/nvidia") for target in _open_files()):
        raise Spoiled(package, "opens the GPU when it is imported")
    if _has_child():
        raise Spoiled(package, "leaves a child process when it is imported")


def _open_files() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue


def _has_child() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _run_canary() -> None:
    status = 1
    try:
        _compute()
        status = 0
    finally:
        os._exit(status)


def _compute() -> None:
    """Large enough for each library's thread pool."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        square: Any = numpy.ones((256, 256))
        square.dot(square)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.mm(torch.ones(512, 512), torch.ones(512, 512))
        torch.ones(1 << 20).add_(1).sum()


def _module_files() -> Iterator[str]:
    for module in list(sys.modules.values()):
        path = getattr(getattr(module, "__spec__", None), "origin", None)
        if isinstance(path, str) and path.startswith("/"):
            yield path


def _mtime_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


def _is_inside(path: str, folder: str) -> bool:
    return (path + os.sep).startswith(folder.rstrip(os.sep) + os.sep)
