"""A link carried by the system's `ssh`: the user's own configuration, keys and hardware are used.

One `ssh` process, the holder, authenticates and holds the connection; it is a ControlMaster whose
socket only this link knows. Each command is one more `ssh` process, which hands its descriptors to
the holder and waits: no byte passes through Python unless it is read here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs import dirs

from .child import start_child
from .completed import run_on
from .errors import AuthenticationTimedOut, LinkLost, SshError
from .sockets import Place, new_place
from .words import error_from_words

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from .child import Child
    from .host import HostSpec
    from .link import Completed

__all__ = [
    "TEMPORARY_NAME_BYTES",
    "Call",
    "OpensshLink",
    "Shared",
    "connect_openssh",
    "end_master",
]

SSH_FAILED = 255
AUTHENTICATION_TIMEOUT_S = 20.0
POLL_S = 0.003
NOTICE_S = 0.3
END_MASTER_S = 2.0
TEMPORARY_NAME_BYTES = 17  # ssh makes its socket beside the path, under a name so much longer

# What the user's configuration may say for terminals, and what would get in the way here.
ALWAYS = {
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "2",
    "ClearAllForwardings": "yes",
    "ForwardX11": "no",
    "LogLevel": "INFO",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "Tunnel": "no",
    "UpdateHostKeys": "no",
}

# Ends with whoever started it, also when that was killed: end of file on stdin ends ssh, a line
# ends only the watcher. Ctrl-C in the terminal is meant for the run, not for the connection.
HOLDER = """
trap '' INT QUIT
exec 3<&0 </dev/null
{ read -r _ <&3 || kill $$; } >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"""


class Call(NamedTuple):
    """The words of an `ssh` command, without what it is to do. `overrides`: as after `-o`."""

    spec: HostSpec
    config_file: Path | None = None
    connect_timeout_s: float = 10.0
    may_ask: bool = False
    overrides: tuple[str, ...] = ()

    def argv(self, *flags: str) -> list[str]:
        """Up to the host; a command may follow."""
        options = dict(ALWAYS, ConnectTimeout=str(max(1, round(self.connect_timeout_s))))
        if not self.may_ask:
            options["BatchMode"] = "yes"
        words = ["ssh", "-T", *flags]
        if self.config_file is not None:
            words += ["-F", str(self.config_file)]
        for option in (*self.overrides, *(f"{name}={value}" for name, value in options.items())):
            words += ["-o", option]
        if self.spec.user is not None:
            words += ["-l", self.spec.user]
        if self.spec.port is not None:
            words += ["-p", str(self.spec.port)]
        return [*words, "--", self.spec.host]


class Shared(NamedTuple):
    """A ControlMaster that others use too, and that may outlive the link."""

    path: Path
    persist_s: int | None = None  # None: as the user's configuration says


async def connect_openssh(call: Call, shared: Shared | None = None) -> OpensshLink:
    """Authenticates, unless a shared master has done so already.

    Raises a subclass of SshError that names the cause, DirectoryUnusable.
    """
    if shared is None:
        place = await asyncio.to_thread(new_place, "m", spare_bytes=TEMPORARY_NAME_BYTES)
        own = ("-S", str(place.path), "-o", "ControlPersist=no")
        return await _authenticate(call, place, ("-M", *own), (*own, "-o", "ControlMaster=no"))
    flags: tuple[str, ...] = ()
    if shared.persist_s is not None:
        await asyncio.to_thread(dirs.ensure_private, shared.path.parent)
        flags = ("-S", str(shared.path), "-o", f"ControlPersist={shared.persist_s}")
    if _answers(shared.path):
        return OpensshLink(call, Place(shared.path), flags, None)
    master = (*flags, "-o", "ControlMaster=auto") if flags else ()
    return await _authenticate(call, Place(shared.path), master, flags)


async def end_master(call: Call, control_path: Path) -> None:
    """A shared master, with whatever runs over it. Raises ClientMissing."""
    if not _answers(control_path):
        return
    argv = call.argv("-S", str(control_path), "-O", "exit")
    child = await start_child(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(END_MASTER_S):
            await child.wait()
    except TimeoutError:
        pass  # it does not listen, and ends when its time is over
    finally:
        await child.end()


async def _authenticate(
    call: Call, place: Place, master: tuple[str, ...], client: tuple[str, ...]
) -> OpensshLink:
    holder = await start_child(
        ["/bin/sh", "-c", HOLDER, "sh", *call.argv("-N", *master)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        in_terminal=call.may_ask,
    )
    link = OpensshLink(call, place, client, holder)
    limit_s = None if call.may_ask else call.connect_timeout_s + AUTHENTICATION_TIMEOUT_S
    try:
        async with asyncio.timeout(limit_s):
            while not _answers(place.path):
                if link.lost.is_set():
                    raise link.reason or LinkLost(f"the connection to {call.spec} has ended")
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        await link.close()
        raise AuthenticationTimedOut(f"{call.spec} did not finish authentication") from None
    except BaseException:
        await link.close()
        raise
    return link


class OpensshLink:
    """See `link.Link`. Without a holder, or when it leaves in peace, the master is somebody else's:
    its end is noticed when a command fails.
    """

    def __init__(
        self, call: Call, control: Place, flags: tuple[str, ...], holder: Child | None
    ) -> None:
        """`control`: the master's socket. `flags`: those of a command that uses the master."""
        self.lost = asyncio.Event()
        self.reason: SshError | None = None
        self._call = call
        self._control = control
        self._flags = flags
        self._holder = holder
        self._closing = False
        self._commands: set[OpensshStream] = set()
        self._watching = asyncio.create_task(self._watch(holder)) if holder is not None else None

    async def run(
        self,
        command: str,
        *,
        stdin: bytes | AsyncIterator[bytes] = b"",
        timeout_s: float = 60.0,
        max_output_bytes: int = 1 << 20,
    ) -> Completed:
        done = await run_on(self, command, stdin, timeout_s, max_output_bytes)
        if done.exit_code == SSH_FAILED:
            await self._raise_if_lost()
        return done

    async def open(self, command: str) -> OpensshStream:
        return await self._open(command, subprocess.PIPE)

    async def connect_socket(self, command: str, sock: socket.socket) -> OpensshStream:
        with sock:
            sock.setblocking(True)  # of the description that ssh gets
            return await self._open(command, sock.fileno())

    async def close(self) -> None:
        self._closing = True
        for command in list(self._commands):
            await command.close()
        if self._holder is not None:
            await self._holder.end(politely=b"\n")
        if self._watching is not None:
            await self._watching
        if self._control.folder is not None:  # elsewhere the socket may be a master's that stays
            self._control.clear()
        self.lost.set()

    async def _open(self, command: str, ends: int) -> OpensshStream:
        if self.lost.is_set():
            raise self._gone()
        argv = [*self._call._replace(may_ask=False).argv(*self._flags), command]
        child = await start_child(argv, stdin=ends, stdout=ends)
        stream = OpensshStream(child, self._commands.discard)
        self._commands.add(stream)
        return stream

    async def _watch(self, holder: Child) -> None:
        """The holder's end is the link's, unless it has handed the connection to a master."""
        code = await holder.wait()
        if code == 0 and not self._closing and _answers(self._control.path):
            return
        if not self._closing:
            words = holder.stderr_tail.decode(errors="replace")
            self.reason = error_from_words(str(self._call.spec), words)
        if not _answers(self._control.path):
            self._control.clear()  # a master that was killed leaves its socket
        self.lost.set()

    async def _raise_if_lost(self) -> None:
        """255 is also what a command may exit with: the link's end is known a moment later."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.lost.wait(), NOTICE_S)
        if not self.lost.is_set() and not _answers(self._control.path):
            self.reason = LinkLost(f"the shared connection to {self._call.spec} has ended")
            self.lost.set()
        if self.lost.is_set():
            raise self._gone()

    def _gone(self) -> SshError:
        return self.reason or LinkLost(f"the connection to {self._call.spec} is closed")


class OpensshStream:
    """See `link.Stream`."""

    def __init__(self, child: Child, ended: Callable[[OpensshStream], None]) -> None:
        self._child = child
        self._ended = ended

    @property
    def stderr_tail(self) -> bytes:
        return self._child.stderr_tail

    async def read(self, max_bytes: int = 1 << 16) -> bytes:
        assert self._child.stdout is not None, "its output goes to a socket"
        return await self._child.stdout.read(max_bytes)

    async def write(self, data: bytes) -> None:
        assert self._child.stdin is not None, "its input comes from a socket"
        try:
            self._child.stdin.write(data)
            await self._child.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise LinkLost("the command does not read any more") from None

    async def write_eof(self) -> None:
        if self._child.stdin is not None:
            self._child.stdin.close()

    async def wait(self) -> int:
        return await self._child.wait()

    async def close(self) -> None:
        await self._child.end()
        self._ended(self)


def _answers(control_path: Path) -> bool:
    """Whether a master listens there. Its socket appears only after authentication."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(control_path))
        except OSError:
            return False
    return True
