"""Forks a run ahead of time: its init, and the child that waits to become the program."""

from __future__ import annotations

import os
import socket
from typing import Dict, List, NamedTuple, Optional

from . import contain, kernel, report, wire, words
from .init import Init


class Waiting(NamedTuple):
    """The child's side of a pair."""

    request: socket.socket
    page: report.Page


class Parent:
    """A process that forks pairs; the only owner of the descriptors that no run may inherit."""

    def __init__(self, control: socket.socket, level: str) -> None:
        self.control = control
        self.level = level
        self._own_namespace = contain.open_own_namespace()
        self._inits: Dict[int, int] = {}  # pidfd → pid

    @property
    def pidfds(self) -> List[int]:
        return list(self._inits)

    def fork_pair(self) -> Optional[Waiting]:
        """Returns None in the parent and the child's side in the child."""
        to_child, request = wire.socket_pair()
        to_init, orders = wire.socket_pair()
        page = report.Page()
        pid = contain.fork_contained(self.level, self._own_namespace)
        if pid == 0:
            self.close_in_fork(to_child, to_init)
            return _fork_program(self.level, request, orders, page)
        self._announce(pid, to_child, to_init)
        for sock in (to_child, request, to_init, orders):
            sock.close()
        page.close()
        return None

    def adopt(self, pid: int) -> int:
        """A child that is no init: it is reaped like one. Returns its pidfd, which is lent."""
        pidfd = kernel.pidfd_open(pid)
        self._inits[pidfd] = pid
        return pidfd

    def close_in_fork(self, *agents_ends: socket.socket) -> None:
        """A copy of the agent's end kept open would hide the agent's death."""
        for sock in (self.control, *agents_ends):
            sock.close()
        for fd in (self._own_namespace, *self._inits):
            os.close(fd)

    def reap(self, pidfd: int) -> None:
        os.waitpid(self._inits.pop(pidfd), 0)
        os.close(pidfd)

    def _announce(self, pid: int, to_child: socket.socket, to_init: socket.socket) -> None:
        pidfd = self.adopt(pid)
        fds = [to_child.fileno(), to_init.fileno(), pidfd]
        wire.send(self.control, {"event": words.BORN}, fds)


def _fork_program(
    level: str, request: socket.socket, orders: socket.socket, page: report.Page
) -> Waiting:
    """Returns in the program's process; its parent is the init from here on."""
    try:
        contain.become_init(level)
        pid = contain.fork()
    except OSError:
        os._exit(1)
    if pid:
        request.close()
        Init(pid, orders, page, level).run()
    orders.close()
    os.setsid()
    if level != words.PID_NAMESPACE:
        contain.die_with_parent()
    return Waiting(request, page)
