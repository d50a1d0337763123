"""The loop of spawner and zygote: forks a pair when the agent asks, reaps, ends with the agent."""

from __future__ import annotations

import os
import select
import signal
import socket
from typing import Any, Callable, Dict, Optional

from . import contain, launch, wire, words
from .pair import Parent, Waiting


def configured(control: socket.socket) -> Dict[str, Any]:
    """The agent's first message. Ends the process when the agent is gone."""
    contain.die_with_parent()
    received = wire.receive(control)
    if received is None:
        os._exit(0)
    return received.message


def serve(
    control: socket.socket, level: str, after_fork: Callable[[], Any], launches: bool = False
) -> Waiting:
    """Returns in each child, and never in the process that called it.

    `launches`: it starts zygotes too, as the spawner in a container does.
    """
    parent = Parent(control, level)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != control.fileno():
                poll.unregister(fd)
                parent.reap(fd)
                continue
            waiting = _obey(parent, launches)
            if waiting is not None:
                return waiting
            _watch_inits(poll, parent)
            after_fork()


def default_signals() -> None:
    """What `nohup` or a service manager made the agent ignore is not for the runs to ignore."""
    kept = (signal.SIGPIPE, getattr(signal, "SIGXFSZ", None))
    for signum in signal.Signals:
        if signum not in kept and signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _obey(parent: Parent, launches: bool) -> Optional[Waiting]:
    received = wire.receive(parent.control)
    if received is None:
        os._exit(0)
    if received.message["op"] == words.PAIR:
        return parent.fork_pair()
    if received.message["op"] == words.LAUNCH and launches:
        launch.launch(parent, received)
    return None


def _watch_inits(poll: Any, parent: Parent) -> None:
    for pidfd in parent.pidfds:
        poll.register(pidfd, select.POLLIN)
