"""The init of a run: the one process that outlives the program, and ends everything else of it.

It reaps, passes signals on, and reports the exit when nothing but itself is left. With a pid
namespace its own end, whoever causes it, ends the run.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from typing import List, NoReturn, Optional

from . import hunt, kernel, report, wire, words


class Init:
    def __init__(self, program: int, control: socket.socket, page: report.Page, level: str) -> None:
        self._program = program
        self._control = control
        self._page = page
        self._owns_namespace = level == words.PID_NAMESPACE
        self._status: Optional[int] = None
        self._stopping = False
        self._mapped: List[str] = []
        self._wakeup = _wake_on_child()

    def run(self) -> NoReturn:
        try:
            self._announce()
            self._supervise()
            self._end_everything()
            self._report_exit()
        except OSError:
            self._end_everything()
        finally:
            os._exit(0)

    def _announce(self) -> None:
        fd = kernel.pidfd_open(self._program)
        wire.send(
            self._control,
            {"event": words.READY, "namespace": os.stat("/proc/self/ns/pid").st_ino},
            [fd],
        )
        os.close(fd)

    def _supervise(self) -> None:
        """Until the program has ended or must end."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while self._status is None:
            for fd, _ in poll.poll():
                if fd == self._wakeup:
                    os.read(fd, 4096)
                    self._reap()
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        """False when everything must end: by order, or because the agent is gone."""
        received = wire.receive(self._control)
        if received is None or received.message["op"] == words.KILL:
            return False
        self._mapped = self._mapped or report.mapped_packages(self._program)
        self._signal(received.message["signum"])
        return True

    def _signal(self, signum: int) -> None:
        if signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._stopping = True
        group = hunt.foreground_group(self._program) or self._program
        for target in dict.fromkeys((group, self._program)):
            try:
                os.killpg(target, signum)
                return
            except OSError:
                continue

    def _reap(self) -> bool:
        """False when there is no child, living or dead."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._program:
                self._status = status

    def _end_everything(self) -> None:
        """Returns when this process has no descendant."""
        if self._owns_namespace:
            _kill_namespace()
            self._reap_all()
            return
        hunt.end_descendants(self._reap)

    def _reap_all(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            if pid == self._program:
                self._status = status

    def _report_exit(self) -> None:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        wire.send(
            self._control,
            {
                "event": words.EXIT,
                "status": self._status,
                "user_s": used.ru_utime,
                "system_s": used.ru_stime,
                "peak_kib": used.ru_maxrss,
                "modules": self._modules(),
            },
        )

    def _modules(self) -> List[str]:
        """Only of a run that went well, or that somebody stopped."""
        if self._status != 0 and not self._stopping:
            return []
        names = self._page.read()
        return self._mapped if names is None else names


def _kill_namespace() -> None:
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _wake_on_child() -> int:
    """A descriptor that turns readable when a child ends; every other signal is ignored."""
    read_end, write_end = os.pipe()
    for fd in (read_end, write_end):
        os.set_blocking(fd, False)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(signum, signal.SIG_IGN)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    # A program that ended before the handler was there left no wakeup.
    os.write(write_end, b"\0")
    return read_end
