"""What only a process in the container can see: its files.

The answering side is a fork of the spawner inside, and reads files of the image there, where no
link leads out; the asking side is the agent's, and waits no longer than it likes: a file that
nobody serves must not hold up a start of another run. One question at a time, each a JSON object:

    terminal  {uid} → {} + fds [its agent's end, its run's end]; it is one of the container's own
    resolve   {argv, env, cwd, workspace, local_root, watched: [path]}
              → {argv, env, executable, program, signatures: {path: stat}} or {error, hint}
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Any, NoReturn

from devloop.remote_agent.command import Command, CommandNotExecutable, resolve_command
from devloop.remote_agent.entrypoint import NotForked, PythonProgram
from devloop.remote_agent.signature import signature_of
from devloop.remote_agent.zygote import contain, wire

__all__ = ["answer", "command_of", "question_of"]

# asm-generic/ioctls.h, as on x86 and arm
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441


def question_of(
    argv: tuple[bytes, ...],
    env: dict[str, bytes],
    cwd: bytes,
    workspace: bytes,
    local_root: bytes | None,
    watched: list[str],
) -> dict[str, Any]:
    return {
        "ask": "resolve",
        "argv": [wire.text_of(word) for word in argv],
        "env": {name: wire.text_of(value) for name, value in env.items()},
        "cwd": wire.text_of(cwd),
        "workspace": wire.text_of(workspace),
        "local_root": None if local_root is None else wire.text_of(local_root),
        "watched": watched,
    }


def command_of(reply: dict[str, Any]) -> Command:
    return Command(
        tuple(wire.bytes_of(word) for word in reply["argv"]),
        {name: wire.bytes_of(value) for name, value in reply["env"].items()},
        wire.bytes_of(reply["executable"]),
        _program_of(reply["program"]),
    )


def answer(questions: socket.socket) -> NoReturn:
    """Until nobody asks any more."""
    contain.die_with_parent()
    while (received := wire.receive(questions)) is not None:
        question = received.message
        fds: list[int] = []
        try:
            if question["ask"] == "terminal":
                reply, fds = {}, _open_terminal(question["uid"])
            else:
                reply = _resolve(question)
        except CommandNotExecutable as refusal:
            reply = {"error": str(refusal), "hint": refusal.hint}
        except OSError as error:
            reply = {"error": str(error), "hint": ""}
        wire.send(questions, {**reply, "number": question["number"]}, fds)
        for fd in fds:
            os.close(fd)
    os._exit(0)


def _resolve(question: dict[str, Any]) -> dict[str, Any]:
    local_root = question["local_root"]
    command = resolve_command(
        tuple(wire.bytes_of(word) for word in question["argv"]),
        {name: wire.bytes_of(value) for name, value in question["env"].items()},
        wire.bytes_of(question["cwd"]),
        Path(question["workspace"]),
        None if local_root is None else Path(local_root),
        None,
    )
    return {
        "argv": [wire.text_of(word) for word in command.argv],
        "env": {name: wire.text_of(value) for name, value in command.env.items()},
        "executable": wire.text_of(command.executable),
        "program": _described(command.program),
        "signatures": {path: signature_of(path) for path in question["watched"]},
    }


def _open_terminal(uid: int) -> list[int]:
    """By the container's own devpts, so that it has a name there. It is that user's."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        os.fchown(slave, uid, -1)
    except OSError:
        os.close(master)
        raise
    return [master, slave]


def _described(program: PythonProgram | NotForked | None) -> dict[str, Any] | None:
    match program:
        case None:
            return None
        case NotForked(reason):
            return {"refused": reason}
        case PythonProgram(flags, mode, target, args):
            return {
                "flags": [wire.text_of(flag) for flag in flags],
                "mode": mode,
                "target": wire.text_of(target),
                "args": [wire.text_of(argument) for argument in args],
            }


def _program_of(value: dict[str, Any] | None) -> PythonProgram | NotForked | None:
    if value is None:
        return None
    if "refused" in value:
        return NotForked(value["refused"])
    flags, args = (tuple(map(wire.bytes_of, value[name])) for name in ("flags", "args"))
    return PythonProgram(flags, value["mode"], wire.bytes_of(value["target"]), args)
