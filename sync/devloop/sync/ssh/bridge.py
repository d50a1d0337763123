"""A socket of ours led to the agent on a box, which is installed and started when it is not there.

One command on the box does it all when the agent is installed: a round trip, and the start of a
small program there. What the far side's start-up files print before its first line is skipped.

gRPC must not see that line, nor what was printed before. It is read from a socket pair, and then
two threads copy between the pair and the socket that gRPC holds. The copying waits and moves bytes
outside of the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from .boxerrors import AgentRefused, BoxError, NotOurWords
from .build import own_build
from .facts import MARKER, Facts, bridge_command, parse_facts, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from .install import InstallProgress
    from .link import Command, Link

__all__ = ["Bridge", "BridgeOptions", "Mode", "open_bridge", "wait_until_gone"]

HANDSHAKE_TIMEOUT_S = 60.0
MAX_NOISE_BYTES = 64 << 10
MAX_LINE_BYTES = 16 << 10
PIECE_BYTES = 1 << 18
PEEK_BYTES = 1 << 12

Mode: TypeAlias = Literal["start", "again", "find"]


class BridgeOptions(NamedTuple):
    """`python`: the interpreter on the box, "" for the best one. `serve_words`: for an agent that
    is started. `mode`: "start" starts one when none runs; "again" does so unless the last one has
    ended in good order; "find" starts none, and takes whichever build is there."""

    python: str = ""
    serve_words: tuple[str, ...] = ()
    mode: Mode = "start"


class Bridge:
    """A live one. `agent_build` is what the agent is, `own_build` what this client is."""

    def __init__(self, answer: _Answer, agent_build: str, own_build: str) -> None:
        self.agent_build = agent_build
        self.own_build = own_build
        self._command = answer.command
        self._ours = answer.ours
        self._relay: _Relay | None = None

    @property
    def is_ours(self) -> bool:
        return self.agent_build == self.own_build

    def carry(self, sock: socket.socket) -> None:
        """Leads `sock`, whose other end speaks gRPC, to the agent; takes the socket over. Once."""
        self._relay = _Relay(self._ours, sock)

    async def close(self) -> None:
        """Idempotent; the agent goes on."""
        if self._relay is None:
            self._ours.close()
        else:
            self._relay.close()
        await self._command.close()


async def open_bridge(
    link: Link,
    host: str,
    options: BridgeOptions,
    on_progress: Callable[[InstallProgress], None] = lambda _: None,
) -> Bridge | None:
    """To the agent, which is installed and started when need be.

    None when no agent runs, and `options.mode` starts none. Raises BoxErrors, SshErrors.
    """
    build = await asyncio.to_thread(own_build)
    answer = await _ask_or_install(link, host, build, options, on_progress)
    if answer.agent_build is None:
        return None
    return Bridge(answer, answer.agent_build, build)


async def wait_until_gone(link: Link, host: str) -> bool:
    """After `shutdown`: whether the agent has ended, and its runs with it, within 15 s."""
    answer = await _ask(link, host, await asyncio.to_thread(own_build), "gone", BridgeOptions())
    return isinstance(answer, _Answer) and not answer.is_busy


class _Answer(NamedTuple):
    """`agent_build`: None for no agent; then the command has ended."""

    command: Command
    ours: socket.socket
    agent_build: str | None
    is_busy: bool = False


async def _ask_or_install(
    link: Link,
    host: str,
    build: str,
    options: BridgeOptions,
    on_progress: Callable[[InstallProgress], None],
) -> _Answer:
    answer: _Answer | Facts | None = None
    broken: NotOurWords | None = None
    try:
        answer = await _ask(link, host, build, options.mode, options)
    except NotOurWords as error:
        broken = error
    if isinstance(answer, _Answer):
        return answer
    from .install import ask_facts, install

    # An installation that somebody has damaged says nothing of use: it is looked at, and mended.
    facts = answer if answer is not None else await ask_facts(link, options.python)
    if facts is None or options.mode == "find":
        raise broken or BoxError(f"{host} lacks the agent")
    was_missing = await install(link, host, build, facts, on_progress)
    if broken is not None and not was_missing:
        raise broken
    answer = await _ask(link, host, build, options.mode, options)
    if isinstance(answer, _Answer):
        return answer
    raise BoxError(f"{host} does not run what was installed there")


async def _ask(
    link: Link, host: str, build: str, mode: str, options: BridgeOptions
) -> _Answer | Facts:
    """Facts when that build is not installed. Raises BoxErrors, SshErrors."""
    text = bridge_command(build, mode, options.python, options.serve_words)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    command: Command | None = None
    found: _Answer | Facts | None = None
    try:
        command = await link.connect_socket(text, theirs)
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            found = await _read_answer(ours, command, host)
    except TimeoutError:
        raise NotOurWords(
            f"{host} did not answer within {HANDSHAKE_TIMEOUT_S:g} s: {_said(b'', command)}"
        ) from None
    finally:
        if not isinstance(found, _Answer) or found.agent_build is None:
            ours.close()
            if command is not None:
                await command.close()
    return found


async def _read_answer(ours: socket.socket, command: Command, host: str) -> _Answer | Facts:
    start = f"{MARKER} ".encode()
    noise = await _read_until(ours, start, MAX_NOISE_BYTES)
    if not noise.endswith(start):
        code = await command.wait()
        raise NotOurWords(f"{host} answered (exit code {code}): {_said(noise, command)}")
    line = (await _read_until(ours, b"\n", MAX_LINE_BYTES)).decode(errors="surrogateescape")
    word, _, rest = line.rstrip("\n").partition(" ")
    match word:
        case "bridge":
            return _Answer(command, ours, rest)
        case "absent" | "ended" | "busy":
            return _Answer(command, ours, None, is_busy=word == "busy")
        case "facts":
            text = await _read_until(ours, b"\nend\n", MAX_LINE_BYTES)
            return parse_facts(text.decode(errors="surrogateescape").splitlines())
        case "error":
            raise _refused(host, rest)
    raise NotOurWords(f"{host} answered: {printable(line.encode(errors='surrogateescape'))}")


def _refused(host: str, words: str) -> BoxError:
    try:
        error = json.loads(words)
        message, hint = str(error["message"]), str(error["hint"])
    except (ValueError, KeyError, TypeError):
        return NotOurWords(f"{host} answered: {printable(words.encode(errors='replace'))}")
    return AgentRefused(f"{printable(message.encode())} (on {host})", hint=hint)


async def _read_until(sock: socket.socket, mark: bytes, max_bytes: int) -> bytes:
    """Up to and with the mark, and not a byte more: what follows is gRPC's.

    Without the mark, what came before the end. Raises NotOurWords for more than `max_bytes`.
    """
    loop = asyncio.get_running_loop()
    found = bytearray()
    while not found.endswith(mark):
        piece = await loop.sock_recv(sock, 1)
        if not piece:
            break
        found += piece
        _take_up_to(sock, mark, found)
        if len(found) > max_bytes:
            raise NotOurWords(f"more than {max_bytes:,} bytes, and no word of devloop's")
    return bytes(found)


def _take_up_to(sock: socket.socket, mark: bytes, found: bytearray) -> None:
    """What has arrived by now is looked at first: of it, nothing behind the mark is taken."""
    while not found.endswith(mark):
        try:
            seen = sock.recv(PEEK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        if not seen:
            return
        end = (found[-len(mark) :] + seen).find(mark)
        before = min(len(found), len(mark))
        found += sock.recv(len(seen) if end < 0 else end + len(mark) - before)


def _said(noise: bytes, command: Command | None) -> str:
    return printable(noise, command.stderr_tail if command else b"") or "nothing"


class _Relay:
    """Copies between two sockets, both ways, until both have ended. Takes both over."""

    def __init__(self, one: socket.socket, other: socket.socket) -> None:
        self._sockets = (one, other)
        for sock in self._sockets:
            sock.setblocking(True)
        threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def close(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        back = threading.Thread(target=_copy, args=(other, one), daemon=True)
        back.start()
        _copy(one, other)
        back.join()
        one.close()
        other.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    buffer = bytearray(PIECE_BYTES)
    view = memoryview(buffer)
    with contextlib.suppress(OSError):
        while size := source.recv_into(buffer):
            target.sendall(view[:size])
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
