"""A link carried by paramiko, where there is no `ssh`, or where a screen of ours asks the user.

Owns the threads: paramiko blocks, so each command has three that pump between its channel and a
socket, and every call that waits for the far side is made on a thread. None is left after `close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

import paramiko

from .auth import authenticate
from .completed import run_on
from .dial import DEAD_LINK_S, dial, start_proxy
from .errors import (
    ClosedEarly,
    ConfigInvalid,
    ConnectFailed,
    ConnectTimedOut,
    LinkLost,
    SshError,
)
from .host import parse_host
from .host_keys import append, entries_for, refusal, verdict_on
from .known_hosts import HostKey, Verdict, fingerprint, known_key_types
from .link import MAX_STDERR_BYTES
from .resolve import resolve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from .link import Completed, Prompter
    from .resolve import Resolved

__all__ = ["ParamikoLink", "connect_paramiko"]

HEARTBEAT_S = 5.0
QUESTION_TIMEOUT_S = 300.0
PUMP_BYTES = 1 << 18
LOST_EXIT_CODE = 255
MAX_JUMPS = 8

# paramiko's words when the far side went silent before there were keys.
_NO_ANSWER = ("No existing session", "Timeout opening channel.")

# paramiko logs what it also raises, and would print it where the application has no logging.
_log = logging.getLogger("paramiko")
_log.addHandler(logging.NullHandler())
_log.propagate = False


T = TypeVar("T")


class Closes(Protocol):
    def close(self) -> None: ...


async def connect_paramiko(
    resolved: Resolved,
    *,
    config_file: Path | None = None,
    connect_timeout_s: float = 10.0,
    prompter: Prompter | None = None,
) -> ParamikoLink:
    """Authenticates, through the jump hosts that the configuration names.

    Raises a subclass of SshError that names the cause.
    """
    hops = await _route(resolved, config_file)
    asker = _ThreadAsker(asyncio.get_running_loop(), prompter)
    connecting = _Connecting(asker, connect_timeout_s)
    try:
        transport = await _on_thread(lambda: connecting.through(hops), "devloop-ssh-connect")
    except BaseException:
        connecting.abandon()
        raise
    return ParamikoLink(resolved.name, transport, connecting.below)


async def _route(resolved: Resolved, config_file: Path | None) -> list[Resolved]:
    """The hosts to pass, the goal last. The first jump host may itself be reached by jumps."""
    hops = [resolved]
    while (first := hops[0]).proxy_jump is not None:
        names = [name.strip() for name in first.proxy_jump.split(",")]
        jumps = [await resolve(parse_host(name), config_file) for name in names]
        # Only the first one is reached as its own configuration says.
        jumps[1:] = [jump._replace(proxy_jump=None, proxy_command=None) for jump in jumps[1:]]
        hops[:1] = [*jumps, first._replace(proxy_jump=None, proxy_command=None)]
        if len(hops) > MAX_JUMPS:
            raise ConfigInvalid(f"the ProxyJump of {resolved.name} leads over too many hosts")
    return hops


class _ThreadAsker:
    """The prompter, from a thread; one question at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, prompter: Prompter | None) -> None:
        self._loop = loop
        self._prompter = prompter

    def ask(self, question: str, *, secret: bool) -> str | None:
        if self._prompter is None:
            return None
        asking = self._prompter.ask(question, secret=secret)
        return asyncio.run_coroutine_threadsafe(asking, self._loop).result()

    def confirm_host(self, host: str, key: HostKey) -> bool:
        if self._prompter is None:
            return False
        shown = fingerprint(key)
        asking = self._prompter.confirm_host(host, key.type, shown)
        reply = asyncio.run_coroutine_threadsafe(asking, self._loop).result()
        return reply is not None and reply.strip() in ("yes", shown)


class _Connecting:
    """Runs on a thread. `below`: what carries the last transport, to be closed after it."""

    def __init__(self, asker: _ThreadAsker, timeout_s: float) -> None:
        self._asker = asker
        self._timeout_s = timeout_s
        self._abandoned = False
        self.below: list[Closes] = []

    def through(self, hops: list[Resolved]) -> paramiko.Transport:
        transport: paramiko.Transport | None = None
        try:
            for hop in hops:
                transport = self._hop(hop, self._carrier(hop, transport))
        except BaseException:
            _close_all(self.below)
            raise
        assert transport is not None
        return transport

    def abandon(self) -> None:
        """From another thread: ends whatever is being waited for."""
        self._abandoned = True
        _close_all(self.below)

    def _carrier(self, hop: Resolved, last: paramiko.Transport | None) -> Closes:
        if last is not None:
            carrier = self._forward(hop, last)
        elif hop.proxy_command is not None:
            proxy = start_proxy(hop, hop.proxy_command)
            self.below.append(proxy)
            return proxy.sock
        else:
            carrier = dial(hop, self._timeout_s)
        self.below.append(carrier)
        return carrier

    def _forward(self, hop: Resolved, last: paramiko.Transport) -> Closes:
        try:
            return last.open_channel(
                "direct-tcpip", (hop.hostname, hop.port), ("127.0.0.1", 0), timeout=self._timeout_s
            )
        except paramiko.SSHException as error:
            words = f"cannot reach {hop.name}: the jump host before it says: {error}"
            raise ConnectFailed.at(hop.name, words) from None

    def _hop(self, hop: Resolved, carrier: Closes) -> paramiko.Transport:
        with _causes(hop, self._timeout_s):
            transport = paramiko.Transport(carrier)  # type: ignore[arg-type] # a socket's likeness
            self.below.append(transport)
            if self._abandoned:
                raise ConnectFailed("given up")
            transport.banner_timeout = self._timeout_s
            transport.auth_timeout = QUESTION_TIMEOUT_S
            _prefer_known_keys(transport, hop)
            # It returns when the time is over, also without a session: the next call says so.
            transport.start_client(timeout=2 * self._timeout_s)
            self._check_host_key(hop, transport)
            authenticate(transport, hop, self._asker)
            return transport

    def _check_host_key(self, hop: Resolved, transport: paramiko.Transport) -> None:
        shown = transport.get_remote_server_key()
        key = HostKey(shown.get_name(), shown.asbytes())
        verdict = verdict_on(hop, key)
        if verdict is Verdict.KNOWN:
            return
        if verdict is not Verdict.UNKNOWN or hop.unknown_hosts == "refuse":
            raise refusal(hop, key, verdict)
        if hop.unknown_hosts == "ask" and not self._asker.confirm_host(hop.lookup_name, key):
            raise refusal(hop, key, verdict)
        append(hop, key)


def _prefer_known_keys(transport: paramiko.Transport, hop: Resolved) -> None:
    """A far side with several keys shows the one that we know."""
    known = known_key_types(entries_for(hop, hop.lookup_name))
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda name: _key_type(name) not in known)


def _key_type(algorithm: str) -> str:
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


@contextlib.contextmanager
def _causes(hop: Resolved, timeout_s: float) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    except (paramiko.SSHException, EOFError, OSError) as error:
        words = str(error) or type(error).__name__
        early = isinstance(error, (EOFError, OSError)) or "banner" in words
        if (early and time.monotonic() - began >= timeout_s) or words in _NO_ANSWER:
            kind: type[SshError] = ConnectTimedOut
        else:
            kind = ClosedEarly if early else ConnectFailed
        raise kind.at(hop.name, f"cannot reach {hop.name}: {words}") from None


class ParamikoLink:
    """See `link.Link`."""

    def __init__(self, name: str, transport: paramiko.Transport, below: list[Closes]) -> None:
        self.lost = asyncio.Event()
        self.reason: SshError | None = None
        self._name = name
        self._transport = transport
        self._below = below
        self._closing = False
        self._commands: set[ParamikoStream] = set()
        self._answered = time.monotonic()
        self._over = threading.Event()
        self._heart = _start_thread(self._beat, "devloop-ssh-heartbeat")
        self._watching = asyncio.create_task(self._watch())

    async def run(
        self,
        command: str,
        *,
        stdin: bytes | AsyncIterator[bytes] = b"",
        timeout_s: float = 60.0,
        max_output_bytes: int = 1 << 20,
    ) -> Completed:
        done = await run_on(self, command, stdin, timeout_s, max_output_bytes)
        if done.exit_code == LOST_EXIT_CODE and not self._transport.is_active():
            await self.lost.wait()
            raise self._gone()
        return done

    async def open(self, command: str) -> ParamikoStream:
        ours, theirs = socket.socketpair()
        try:
            stream = await self._start(command, theirs)
        except BaseException:
            ours.close()
            raise
        await stream.attach(ours)
        return stream

    async def connect_socket(self, command: str, sock: socket.socket) -> ParamikoStream:
        sock.setblocking(True)
        return await self._start(command, sock)

    async def close(self) -> None:
        self._closing = True
        for command in list(self._commands):
            await command.close()
        self._over.set()
        await _on_thread(lambda: _close_all(self._below), "devloop-ssh-close")
        await self._watching

    async def _start(self, command: str, sock: socket.socket) -> ParamikoStream:
        """Takes the socket over, also when it fails."""
        try:
            if self.lost.is_set():
                raise self._gone()
            channel = await _on_thread(lambda: self._exec(command), "devloop-ssh-open")
        except BaseException:
            sock.close()
            raise
        stream = ParamikoStream(channel, sock, self._commands.discard)
        self._commands.add(stream)
        return stream

    def _exec(self, command: str) -> paramiko.Channel:
        try:
            channel = self._transport.open_session(timeout=DEAD_LINK_S)
            channel.exec_command(command.encode())
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise LinkLost(f"{self._name} starts no command: {error}") from None
        return channel

    def _gone(self) -> SshError:
        return self.reason or LinkLost(f"the connection to {self._name} is closed")

    def _beat(self) -> None:
        """Keepalives alone do not notice a far side that is gone: each must be answered."""
        while not self._over.wait(HEARTBEAT_S) and self._transport.is_active():
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                self._transport.global_request("keepalive@openssh.com", wait=True)
            self._answered = time.monotonic()

    async def _watch(self) -> None:
        while self._transport.is_active() and not self._closing:
            if time.monotonic() - self._answered > HEARTBEAT_S + DEAD_LINK_S:
                break
            await asyncio.sleep(0.1)
        if not self._closing:
            silent = self._transport.is_active()
            words = "does not answer any more" if silent else "ended the connection"
            self.reason = LinkLost(f"{self._name} {words}")
            self._over.set()
            await _on_thread(lambda: _close_all(self._below), "devloop-ssh-close")
        self.lost.set()
        await _on_thread(self._heart.join, "devloop-ssh-join")


class ParamikoStream:
    """See `link.Stream`. Three threads carry the bytes; the last one to end tells the exit code."""

    def __init__(
        self,
        channel: paramiko.Channel,
        sock: socket.socket,
        ended: Callable[[ParamikoStream], None],
    ) -> None:
        self.stderr_tail = b""
        self._channel = channel
        self._sock = sock
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._exit_code: asyncio.Future[int] = self._loop.create_future()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._threads = [
            _start_thread(work, f"devloop-ssh-{work.__name__.strip('_')}")
            for work in (self._pump_in, self._pump_out, self._pump_stderr)
        ]

    async def attach(self, ours: socket.socket) -> None:
        """For `read` and `write`: the other end of the socket that the threads serve."""
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=PUMP_BYTES)

    async def read(self, max_bytes: int = 1 << 16) -> bytes:
        assert self._reader is not None, "its output goes to a socket"
        try:
            return await self._reader.read(max_bytes)
        except (BrokenPipeError, ConnectionResetError):  # of what was written: it reads no more
            return b""

    async def write(self, data: bytes) -> None:
        assert self._writer is not None, "its input comes from a socket"
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise LinkLost("the command does not read any more") from None

    async def write_eof(self) -> None:
        if self._writer is not None and self._writer.can_write_eof():
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    async def wait(self) -> int:
        return await asyncio.shield(self._exit_code)

    async def close(self) -> None:
        self._ended(self)
        if self._writer is not None:
            self._writer.close()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        await _on_thread(self._end, "devloop-ssh-end")

    def _end(self) -> None:
        self._channel.close()
        for thread in self._threads:
            thread.join()
        self._sock.close()

    def _pump_in(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while data := self._sock.recv(PUMP_BYTES):
                self._channel.sendall(data)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()

    def _pump_out(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._channel.recv(PUMP_BYTES):
                self._sock.sendall(data)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def _pump_stderr(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._channel.recv_stderr(PUMP_BYTES):
                self.stderr_tail = (self.stderr_tail + data)[-MAX_STDERR_BYTES:]
        code = self._channel.recv_exit_status()
        # The program is over: whoever feeds it must learn that nobody reads.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)
        with contextlib.suppress(RuntimeError):  # the loop may have ended before us
            self._loop.call_soon_threadsafe(self._finish, code if code >= 0 else LOST_EXIT_CODE)

    def _finish(self, code: int) -> None:
        if not self._exit_code.done():
            self._exit_code.set_result(code)


def _close_all(things: list[Closes]) -> None:
    """The uppermost first, so that each can still say goodbye. Idempotent."""
    for thing in reversed(list(things)):
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            thing.close()
        if isinstance(thing, paramiko.Transport) and thing.is_alive():
            thing.join(DEAD_LINK_S)


def _start_thread(work: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


async def _on_thread(work: Callable[[], T], name: str) -> T:
    """On a thread of its own, which ends with the work: a pool's would stay."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type] # a T when there is no error

    def body() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 # it is raised where it is awaited
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop may have ended before the work
            loop.call_soon_threadsafe(settle, result, failure)

    thread = _start_thread(body, name)
    try:
        return await done
    finally:
        if done.done() and not done.cancelled():
            thread.join()  # it has nothing left to do
