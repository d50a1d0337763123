"""Starts a zygote's interpreter, where only this process can: in a container.

Owns the new process until it is exec'd. What it writes to stderr goes to the agent's log of it.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, NoReturn

from . import child, contain, wire, words
from .pair import Parent


def launch(parent: Parent, received: wire.Received) -> None:
    """Answers with a pidfd, or with why there is none."""
    request, fds = received
    answer: Dict[str, Any] = {"event": words.LAUNCHED, "number": request["number"]}
    try:
        pid = contain.fork()
        if pid == 0:
            parent.close_in_fork()
            _become_interpreter(request, *fds)
        pidfds = [parent.adopt(pid)]
    except OSError as error:
        answer["error"], pidfds = str(error), []
    for fd in fds:
        os.close(fd)
    wire.send(parent.control, answer, pidfds)


def _become_interpreter(request: Dict[str, Any], control: int, log: int) -> NoReturn:
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for target, fd in enumerate((null, null, log)):
            os.dup2(fd, target)
        os.set_inheritable(control, True)
        child.become(request["identity"])
        os.chdir(wire.bytes_of(request["cwd"]))
        os.execve(*_program(request, b"%d" % control))
    except OSError as error:
        os.write(2, str(error).encode("utf-8", "replace"))
    finally:
        os._exit(127)


def _program(request: Dict[str, Any], control: bytes) -> Any:
    argv: List[bytes] = [wire.bytes_of(word) for word in request["argv"]]
    env = {wire.bytes_of(name): wire.bytes_of(value) for name, value in request["env"].items()}
    filled = {name: value.replace(b"{fd}", control) for name, value in env.items()}
    return argv[0], argv, filled
