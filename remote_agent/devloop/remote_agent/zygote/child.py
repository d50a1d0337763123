"""The child of a pair: takes its request, becomes what was asked, or says why it cannot.

Owns descriptors, terminal, environment and folder of the new program. Knows nothing of Python
programs; `program` does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import termios
from typing import Any, Dict, List, Mapping, NoReturn, Optional

from . import contain, kernel, wire, words

Request = Dict[str, Any]


def take_request(sock: socket.socket) -> Request:
    """Blocks until the agent needs this child. Afterwards stdio, environment and folder are set."""
    received = wire.receive(sock)
    if received is None:
        os._exit(0)
    request, stdio = received
    try:
        _settle(request, stdio)
    except OSError as error:
        _fail(sock, error, "cwd")
    return request


def exec_request(sock: socket.socket, request: Request, note: str = "") -> NoReturn:
    """`note`: why this is an exec although a fork was wanted."""
    if note:
        wire.send(sock, {"event": words.COLD, "note": note})
    argv = [wire.bytes_of(argument) for argument in request["argv"]]
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    try:
        _exec(argv, wire.bytes_of(request["executable"]) or argv[0], _environment(request))
    except (OSError, ValueError) as error:
        _fail(sock, error, "exec")


def become(identity: Optional[Mapping[str, Any]]) -> None:
    """A change of user makes the kernel forget the parent-death signal; it is asked for again.

    Groups are None where nobody may change them."""
    if identity is None:
        return
    if os.geteuid() == 0 and identity["groups"] is not None:
        os.setgroups(identity["groups"])
    os.setgid(identity["gid"])
    os.setuid(identity["uid"])
    contain.die_with_parent()


def _settle(request: Request, stdio: List[int]) -> None:
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    for fd in stdio:
        os.close(fd)
    if request["tty"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if request["drop_capabilities"]:
        kernel.drop_capabilities()
    become(request.get("identity"))
    os.environb.clear()
    os.environb.update(_environment(request))
    os.chdir(wire.bytes_of(request["cwd"]))


def _environment(request: Request) -> Mapping[bytes, bytes]:
    return {wire.bytes_of(name): wire.bytes_of(value) for name, value in request["env"].items()}


def _exec(argv: List[bytes], command: bytes, env: Mapping[bytes, bytes]) -> NoReturn:
    """Like execvp(3): along PATH, and by the shell when the file says nothing of itself."""
    refusal: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in _candidates(command, env):
        try:
            os.execve(path, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execve(b"/bin/sh", [b"sh", path, *argv[1:]], env)
            if error.errno != errno.EACCES or b"/" in command:
                raise
            refusal = error
    raise refusal


def _candidates(command: bytes, env: Mapping[bytes, bytes]) -> List[bytes]:
    if b"/" in command:
        return [command]
    path = env.get(b"PATH", os.fsencode(os.defpath))
    return [os.path.join(folder or b".", command) for folder in path.split(b":")]


def _fail(sock: socket.socket, error: Exception, where: str) -> NoReturn:
    number = getattr(error, "errno", None) or errno.EINVAL
    try:
        wire.send(sock, {"event": words.FAILED, "errno": number, "where": where})
    finally:
        os._exit(127)
