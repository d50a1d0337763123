"""A process that forks runs: the agent's handle of a spawner or a zygote.

Owns the program's process, its control socket and the pairs that wait. The process is the agent's
own child, or was started by somebody in a container, and then its pidfd comes later. Decides
nothing about which zygote is wanted.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import tempfile
from collections import deque
from typing import TYPE_CHECKING, Any

from devloop.cafs.errors import DevloopError

from .processes import Pair
from .zygote import wire, words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import IO

__all__ = ["Forker", "ForkerFailed", "Refused", "Unsafe"]

# The next pair is forked when the program that just started has had the processor for a moment.
_NEXT_PAIR_AFTER_S = 0.03
_LOG_TAIL_BYTES = 500
_SOCKET_VARIABLE = b"DEVLOOP_ZYGOTE"


class ForkerFailed(DevloopError):
    """The process ended, or never got so far."""


class Refused(ForkerFailed):
    """A preloaded package spoils forks; the zygote has ended."""

    def __init__(self, package: str, reason: str) -> None:
        super().__init__(f"{package} {reason}")
        self.package = package
        self.reason = reason


class Unsafe(ForkerFailed):
    """The canary of this preload failed; the zygote has ended."""


class Forker:
    """One running program. `loaded` resolves once, to its first message or to why there is none."""

    def __init__(self, control: socket.socket, log: IO[bytes]) -> None:
        """Owns both. The process is told of by `attach`, or by `fail` when there is none."""
        self._socket = control
        self._log = log
        self.pid = 0
        self._pidfd = -1
        self._reap: Callable[[], str] = str
        loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.stale = ""
        self._gone = asyncio.Event()
        self.on_gone: Callable[[], None] = lambda: None
        # For what only a spawner in a container says.
        self.on_message: Callable[[dict[str, Any], list[int]], None] = lambda message, fds: None
        self._pairs: deque[Pair] = deque()
        self._takers: deque[asyncio.Future[Pair]] = deque()
        self._live_runs = 0
        self._retired = self._closed = self._wanted_closed = self._has_ended = False
        self._socket.setblocking(False)
        loop.add_reader(self._socket, self._receive)

    @classmethod
    def start(cls, command: Sequence[bytes], env: Mapping[bytes, bytes], cwd: bytes) -> Forker:
        """`command` and `env` may hold b"{fd}": the number of the inherited socket.

        Raises ForkerFailed.
        """
        ours, theirs = wire.socket_pair()
        log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            process = _start(command, env, cwd, theirs, log.fileno())
        except OSError as error:
            ours.close()
            log.close()
            raise ForkerFailed(f"{os.fsdecode(command[0])} does not start: {error}") from error
        finally:
            theirs.close()
        forker = cls(ours, log)
        forker.attach(process.pid, os.pidfd_open(process.pid), lambda: f"with {process.wait()}")
        return forker

    def attach(self, pid: int, pidfd: int, reap: Callable[[], str]) -> None:
        """`pidfd` is this object's from now on. `reap` says how the process has ended."""
        self.pid, self._pidfd, self._reap = pid, pidfd, reap
        asyncio.get_running_loop().add_reader(pidfd, self._on_gone)

    def fail(self, failure: ForkerFailed) -> None:
        """There is no process, and there will be none."""
        self._has_ended = True
        self.close()
        self._settle_gone(failure)

    @property
    def is_ready(self) -> bool:
        return self.is_alive and self.loaded.done() and not self.loaded.exception()

    @property
    def is_alive(self) -> bool:
        return not (self._closed or self._retired)

    @property
    def is_closing(self) -> bool:
        """By the agent's own wish: its end is no failure."""
        return self._retired or self._wanted_closed

    def configure(self, message: dict[str, Any]) -> None:
        self._send({"op": words.CONFIGURE, **message})

    def order(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        """The descriptors stay the caller's. The process's end is noticed where it is reaped."""
        self._send(message, fds)

    async def take(self, timeout_s: float) -> Pair:
        """A pair that waits for its request; counts as a live run until `release`."""
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(self.loaded)
            self._raise_if_gone()
            pair = self._pairs.popleft() if self._pairs else await self._next_pair()
        self._live_runs += 1
        asyncio.get_running_loop().call_later(_NEXT_PAIR_AFTER_S, self.fork_ahead)
        return pair

    def fork_ahead(self) -> None:
        if self.is_alive and not self._pairs:
            self._send({"op": words.PAIR})

    def release(self) -> None:
        """A run of this process has ended."""
        self._live_runs -= 1
        if self._retired and self._live_runs == 0:
            self.close()

    def retire(self) -> None:
        """No new run starts here; the process ends with its last run."""
        self._retired = True
        self._drop_pairs()
        if self._live_runs == 0:
            self.close()

    def close(self) -> None:
        """Ends the process, and with it every run that it has forked."""
        self._wanted_closed = self._wanted_closed or not self._has_ended
        if self._closed:
            return
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._drop_pairs()

    async def gone(self) -> None:
        """Returns when the process has ended and is reaped."""
        await self._gone.wait()

    def log_fileno(self) -> int:
        """Where the process writes its stderr."""
        return self._log.fileno()

    @property
    def is_used(self) -> bool:
        return self._live_runs > 0

    def log_tail(self) -> str:
        """The last that the process wrote to stderr."""
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _LOG_TAIL_BYTES, max(0, size - _LOG_TAIL_BYTES))
        lines = tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _raise_if_gone(self) -> None:
        """Its pairs die with it, perhaps before the event loop has heard of it."""
        poll = select.poll()
        if self._pidfd >= 0:
            poll.register(self._pidfd, select.POLLIN)
        if self._closed or poll.poll(0):
            raise ForkerFailed("the interpreter was killed")

    async def _next_pair(self) -> Pair:
        taker: asyncio.Future[Pair] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        self._send({"op": words.PAIR})
        try:
            return await taker
        except asyncio.CancelledError:
            self._takers.remove(taker)
            raise

    def _send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        try:
            wire.send(self._socket, message, fds)
        except OSError:
            return  # its end is noticed where it is reaped

    def _receive(self) -> None:
        while not self._closed:
            try:
                received = wire.receive(self._socket)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                asyncio.get_running_loop().remove_reader(self._socket)
                return
            self._take_message(*received)

    def _take_message(self, message: dict[str, Any], fds: list[int]) -> None:
        match message["event"]:
            case words.BORN:
                self._add_pair(Pair.of_fds(fds))
            case words.STALE:
                self.stale = message["path"]
            case words.LOADED:
                self._settle_loaded(message)
                self.fork_ahead()
            case words.REFUSED:
                self._settle_loaded(Refused(message["package"], message["reason"]))
            case words.UNSAFE:
                self._settle_loaded(Unsafe(message["reason"]))
            case words.LAUNCHED:
                self.on_message(message, fds)

    def _settle_loaded(self, outcome: dict[str, Any] | ForkerFailed) -> None:
        if self.loaded.done():
            return
        if isinstance(outcome, ForkerFailed):
            self.loaded.set_exception(outcome)
            self.loaded.exception()  # nobody need be waiting
        else:
            self.loaded.set_result(outcome)

    def _add_pair(self, pair: Pair) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(pair)
                return
        if self.is_alive:
            self._pairs.append(pair)
        else:
            pair.close()

    def _drop_pairs(self) -> None:
        while self._pairs:
            self._pairs.popleft().close()

    def _on_gone(self) -> None:
        status = self._reap()
        self._has_ended = True
        if not self._closed:
            self._receive()
        self.close()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._settle_gone(ForkerFailed(f"the interpreter ended {status}: {self.log_tail()}"))

    def _settle_gone(self, failure: ForkerFailed) -> None:
        self._log.close()
        self._settle_loaded(failure)
        for taker in self._takers:
            if not taker.done():
                taker.set_exception(failure)
        self._gone.set()
        self.on_gone()


def _start(
    command: Sequence[bytes],
    env: Mapping[bytes, bytes],
    cwd: bytes,
    control: socket.socket,
    log_fd: int,
) -> subprocess.Popen[bytes]:
    number = b"%d" % control.fileno()
    return subprocess.Popen(
        [argument.replace(b"{fd}", number) for argument in command],
        env={
            name: value if name != _SOCKET_VARIABLE else value.replace(b"{fd}", number)
            for name, value in env.items()
        },
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log_fd,
        pass_fds=[control.fileno()],
        start_new_session=True,
    )
