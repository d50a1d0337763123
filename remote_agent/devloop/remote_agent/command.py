"""What a run's command comes down to: variables, executable, and whether a zygote can run it.

Joins `interpreter` and `entrypoint`; reads the first line of a script, starts nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError

from .entrypoint import NotForked, PythonProgram, environment_refusal, is_python, parse_python
from .interpreter import activated, find_command, find_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Command", "CommandNotExecutable", "resolve_command"]

_SHEBANG_BYTES = 256
_ENV = (b"/usr/bin/env", b"/bin/env")


class CommandNotExecutable(DevloopError):
    """The command is there and may not be executed."""

    exit_code = 126
    hint = "make it executable (`chmod +x`), or name its interpreter"


@dataclass(frozen=True, slots=True)
class Command:
    """`executable` is empty when the command is looked for only at its exec. `program` is None
    for what is no Python."""

    argv: tuple[bytes, ...]
    env: Mapping[str, bytes]
    executable: bytes
    program: PythonProgram | NotForked | None


def resolve_command(
    argv: tuple[bytes, ...],
    env: Mapping[str, bytes],
    cwd: bytes,
    workspace: Path,
    local_root: Path | None,
    own: Path | None,
) -> Command:
    """A bare `x.py` is a program for `python`; `./x.py` is executed, as a shell would.

    Raises CommandNotExecutable for a `./x.py` that does not say by what.
    """
    environment = find_environment(env, workspace, local_root)
    variables = activated(env, environment, own)
    if argv[0].endswith(b".py") and b"/" not in argv[0]:
        argv = (b"python", *argv)
    command = Command(argv, variables, b"", None)
    return _python(command, cwd) if is_python(argv[0]) else _script(command, cwd)


def _python(command: Command, cwd: bytes) -> Command:
    found = find_command(command.argv[0], command.env, cwd)
    if found is None and command.argv[0] == b"python":
        command = replace(command, argv=(b"python3", *command.argv[1:]))
        found = find_command(b"python3", command.env, cwd)
    if found is None:
        return command
    return replace(command, executable=found, program=_fitting(command, command.argv[1:]))


def _script(command: Command, cwd: bytes) -> Command:
    """Its first line is what the kernel would start it with; the program sees the path that was
    executed: the one typed, or the one found along PATH."""
    typed = command.argv[0]
    path = find_command(typed, command.env, cwd)
    if path is None:
        return command
    start = _start_of(path)
    _refuse_nameless(typed, start)
    words = _shebang(start)
    interpreter = _interpreter(words, command, cwd)
    if interpreter is None:
        return command
    argv = (words[-1], typed if b"/" in typed else path, *command.argv[1:])
    return replace(command, argv=argv, executable=interpreter, program=_fitting(command, argv[1:]))


def _refuse_nameless(typed: bytes, start: bytes | None) -> None:
    """A shell would take it for its own, and run Python's `import` as ImageMagick's."""
    if start is None or not typed.endswith(b".py") or start.startswith((b"#!", b"\x7fELF")):
        return
    name = os.fsdecode(typed)
    raise CommandNotExecutable(
        f"{name} is executable, and its first line names no interpreter",
        hint=f"begin it with `#!/usr/bin/env python3`, or say `python {name}`",
    )


def _fitting(command: Command, args: tuple[bytes, ...]) -> PythonProgram | NotForked:
    refusal = environment_refusal(command.env)
    return NotForked(refusal) if refusal else parse_python(args)


def _start_of(path: bytes) -> bytes | None:
    """None for what may be executed and not read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the path is bytes
            return file.read(_SHEBANG_BYTES)
    except OSError:
        return None


def _shebang(start: bytes | None) -> list[bytes]:
    """The words of the line; none when there is no such line."""
    line = (start or b"").partition(b"\n")[0]
    return line[2:].strip(b" \t").replace(b"\t", b" ").split(b" ") if line[:2] == b"#!" else []


def _interpreter(words: list[bytes], command: Command, cwd: bytes) -> bytes | None:
    """For an absolute Python without an option, and for `env` with a Python's name alone."""
    match words:
        case [path] if path.startswith(b"/") and is_python(path):
            return path if os.access(path, os.X_OK) else None
        case [env, name] if env in _ENV and is_python(name):
            return find_command(name, command.env, cwd)
    return None
