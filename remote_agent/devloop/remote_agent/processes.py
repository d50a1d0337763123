"""One run's processes, seen from the agent: signals, the end, and who refuses to end.

Owns the sockets to a run's init and its pidfds. Knows nothing of zygotes and commands.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .zygote import hunt, wire, words

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Exit", "Pair", "Process", "pid_of"]

# Between the order to init and the SIGKILL that needs nobody's consent.
_KILL_GRACE_S = 0.25
# For a run to be hunted down where no namespace of its own ends it.
_HUNT_S = 2.0


@dataclass(frozen=True, slots=True)
class Exit:
    """How a run ended. `code` is meaningful when `signal` is 0."""

    code: int
    signal: int
    user_s: float = 0.0
    system_s: float = 0.0
    peak_memory_bytes: int = 0
    modules: tuple[str, ...] = ()


@dataclass(slots=True)
class Pair:
    """An init and a child that wait for a request."""

    to_child: socket.socket
    to_init: socket.socket
    init_pidfd: int

    @classmethod
    def of_fds(cls, fds: list[int]) -> Pair:
        to_child, to_init = (socket.socket(fileno=fd) for fd in fds[:2])
        return cls(to_child, to_init, fds[2])

    def close(self) -> None:
        """The pair ends, since it reads the end of its sockets."""
        self.to_child.close()
        self.to_init.close()
        os.close(self.init_pidfd)


@dataclass(slots=True, eq=False)
class Process:
    """A run that has started. The event loop that made it must run for `wait`."""

    kind: str
    note: str
    on_end: Callable[[Exit], None]
    _pair: Pair
    _isolated: bool
    last_resort: Callable[[], None] | None = None
    witness: Callable[[], str] = str  # what else was the matter, asked when it has ended
    pid: int = 0
    _namespace: int = 0
    _init_pid: int = 0
    _exit: Exit | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _child_pidfd: int = -1

    def __post_init__(self) -> None:
        self._init_pid = self.pid = pid_of(self._pair.init_pidfd)
        self._pair.to_child.close()
        self._pair.to_init.setblocking(False)
        self._receive()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pair.to_init, self._receive)
        loop.add_reader(self._pair.init_pidfd, self._on_init_gone)

    def signal(self, signum: int) -> None:
        """To the foreground process group. A run that has ended takes no notice."""
        self._order({"op": words.SIGNAL, "signum": signum})

    def hang_up(self) -> None:
        """To the program itself, as when its terminal goes: a shell tells its jobs.

        Once, and not to the group too: a second one ends a shell amid its exit trap.
        """
        if self._child_pidfd >= 0 and not self._ended.is_set():
            try:
                signal.pidfd_send_signal(self._child_pidfd, signal.SIGHUP)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """Everything of the run, whatever it does about it."""
        self._order({"op": words.KILL})
        loop = asyncio.get_running_loop()
        loop.call_later(_KILL_GRACE_S, self._kill_init)
        if self.last_resort is not None:
            loop.call_later(_HUNT_S, self._resort)

    async def wait(self) -> Exit:
        """Returns when nothing of the run is left."""
        await self._ended.wait()
        assert self._exit is not None
        return self._exit

    def survivors(self) -> list[str]:
        """What is left of it, for people: "pid 123 (python), in D state"."""
        return [_describe(pid) for pid in self._living()]

    def pids(self) -> list[int]:
        """Everything of it that lives, as this process's own namespace numbers it."""
        return self._living()

    def _living(self) -> list[int]:
        if self._ended.is_set():
            return []
        if self._isolated and self._namespace:
            return _pids_in_namespace(self._namespace)
        return hunt.living_descendants(self._init_pid)

    def _order(self, message: dict[str, object]) -> None:
        if self._ended.is_set():
            return
        try:
            wire.send(self._pair.to_init, message)
        except OSError:
            return

    def _kill_init(self) -> None:
        # Without a namespace its end would free what it has not yet hunted down.
        if self._isolated and not self._ended.is_set():
            try:
                signal.pidfd_send_signal(self._pair.init_pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _resort(self) -> None:
        """What it ends besides this run, is of the same container."""
        if not self._ended.is_set() and self.last_resort is not None:
            self.last_resort()

    def _receive(self) -> None:
        while True:
            try:
                received = wire.receive(self._pair.to_init)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                asyncio.get_running_loop().remove_reader(self._pair.to_init)
                return
            self._take(received)

    def _take(self, received: wire.Received) -> None:
        message, fds = received
        if message["event"] == words.READY:
            self._namespace = message["namespace"]
            self._child_pidfd = fds[0]
            self.pid = pid_of(fds[0]) or self.pid
        elif message["event"] == words.EXIT:
            self._exit = _exit_of(message)

    def _on_init_gone(self) -> None:
        self._receive()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pair.to_init)
        loop.remove_reader(self._pair.init_pidfd)
        self._pair.to_init.close()
        for fd in (self._pair.init_pidfd, self._child_pidfd):
            if fd >= 0:
                os.close(fd)
        self._exit = self._exit or Exit(0, signal.SIGKILL)
        self._ended.set()
        self.on_end(self._exit)


def _exit_of(message: wire.Message) -> Exit:
    status = message["status"]
    killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return Exit(
        code=0 if killed_by else os.WEXITSTATUS(status),
        signal=killed_by,
        user_s=message["user_s"],
        system_s=message["system_s"],
        peak_memory_bytes=message["peak_kib"] << 10,
        modules=tuple(message["modules"]),
    )


def pid_of(pidfd: int) -> int:
    """In this process's own namespace; 0 when it has ended."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("Pid:"):
                return max(0, int(line.split()[1]))
    return 0


def _pids_in_namespace(inode: int) -> list[int]:
    wanted = f"pid:[{inode}]"
    return [pid for pid in _all_pids() if _namespace_of(pid) == wanted]


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _namespace_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _describe(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            head, _, tail = file.read().rpartition(b")")
    except OSError:
        return f"pid {pid}, just ended"
    name = head.partition(b"(")[2].decode(errors="backslashreplace")  # it may be any bytes
    return f"pid {pid} ({name}), in {tail.split()[0].decode()} state"
