"""What a run's command comes down to: variables, executable, and whether a zygote can run it.

Joins `interpreter` and `entrypoint`; reads the first line of a console script, starts nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .entrypoint import NotForked, PythonProgram, environment_refusal, is_python, parse_python
from .interpreter import activated, find_command, find_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Command", "resolve_command"]

_SHEBANG_BYTES = 256


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
    environment = find_environment(env, workspace, local_root)
    variables = activated(env, environment, own)
    if argv[0].endswith(b".py"):
        argv = (b"python", *argv)
    command = Command(argv, variables, b"", None)
    return _python(command, cwd) if is_python(argv[0]) else _console_script(command, cwd)


def _python(command: Command, cwd: bytes) -> Command:
    found = find_command(command.argv[0], command.env, cwd)
    if found is None and command.argv[0] == b"python":
        command = replace(command, argv=(b"python3", *command.argv[1:]))
        found = find_command(b"python3", command.env, cwd)
    if found is None:
        return command
    return replace(command, executable=found, program=_fitting(command, command.argv[1:]))


def _console_script(command: Command, cwd: bytes) -> Command:
    """Its first line is what the kernel would start it with."""
    path = find_command(command.argv[0], command.env, cwd)
    interpreter = None if path is None else _shebang(path)
    if path is None or interpreter is None:
        return command
    argv = (interpreter, path, *command.argv[1:])
    return replace(command, argv=argv, executable=interpreter, program=_fitting(command, argv[1:]))


def _fitting(command: Command, args: tuple[bytes, ...]) -> PythonProgram | NotForked:
    refusal = environment_refusal(command.env)
    return NotForked(refusal) if refusal else parse_python(args)


def _shebang(path: bytes) -> bytes | None:
    """The interpreter, when the line names an absolute Python and no option."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the path is bytes
            line = file.read(_SHEBANG_BYTES).partition(b"\n")[0]
    except OSError:
        return None
    interpreter = line[2:].strip()
    plain = line.startswith(b"#!/") and b" " not in interpreter and is_python(interpreter)
    return interpreter if plain and os.access(interpreter, os.X_OK) else None
