"""What a command line starts, as far as Python is concerned. Pure: looks at no file.

Follows the option grammar of CPython's command line (Python/initconfig.c, getopt.c).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["NotForked", "PythonProgram", "environment_refusal", "is_python", "parse_python"]

Mode: TypeAlias = Literal["script", "module", "code"]

_PYTHON = re.compile(rb"python(3(\.\d+)?)?$")
_PLAIN_FLAGS = frozenset(b"bBdOPqsu")
_WITH_VALUE = frozenset(b"WX")
_REFUSED_FLAGS = {
    ord("E"): "-E hides the variables that a zygote is started with",
    ord("I"): "-I hides the variables that a zygote is started with",
    ord("S"): "-S leaves out the site module, where a zygote hooks in",
    ord("i"): "-i is interactive",
    ord("v"): "-v reports every import",
    ord("x"): "-x skips a line of the program",
}
_REFUSED_X = ("importtime", "tracemalloc", "perf", "perf_jit", "showrefcount", "presite")
_REFUSED_VARIABLES = (
    "PYTHONINSPECT",
    "PYTHONVERBOSE",
    "PYTHONPROFILEIMPORTTIME",
    "PYTHONTRACEMALLOC",
    "PYTHONPERFSUPPORT",
    "PYTHONHOME",
)


@dataclass(frozen=True, slots=True)
class PythonProgram:
    """A command that a zygote can run. `flags` go to the interpreter itself."""

    flags: tuple[bytes, ...]
    mode: Mode
    target: bytes
    args: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class NotForked:
    """A command that must start in a fresh process, and why."""

    reason: str


def is_python(command: bytes) -> bool:
    return _PYTHON.match(command.rpartition(b"/")[2]) is not None


def parse_python(argv: Sequence[bytes]) -> PythonProgram | NotForked:
    """`argv` without the interpreter's own name."""
    flags: list[bytes] = []
    rest = list(argv)
    while rest and rest[0].startswith(b"-") and rest[0] != b"-":
        option = rest.pop(0)
        if option == b"--":
            break
        if option.startswith(b"--"):
            return _long_option(option)
        outcome = _short_options(option, rest, flags)
        if outcome is not None:
            return outcome
    if not rest or rest[0] == b"-":
        return NotForked("the program comes from stdin")
    return PythonProgram(tuple(flags), "script", rest[0], tuple(rest[1:]))


def environment_refusal(env: Mapping[str, bytes]) -> str:
    """Why no zygote can be started with this environment; empty when one can."""
    for name in _REFUSED_VARIABLES:
        if env.get(name):
            return f"{name} is set"
    return ""


def _short_options(
    option: bytes, rest: list[bytes], flags: list[bytes]
) -> PythonProgram | NotForked | None:
    """None: go on with the next argument."""
    for index, letter in enumerate(option[1:], 1):
        if letter in b"cm":
            return _ending_option(letter, option[index + 1 :], rest, flags)
        if letter in _WITH_VALUE:
            return _valued_option(letter, option[index + 1 :], rest, flags)
        if letter not in _PLAIN_FLAGS:
            name = chr(letter) if letter < 128 else "?"
            return NotForked(_REFUSED_FLAGS.get(letter, f"-{name} is not an option of a program"))
        flags.append(b"-%c" % letter)
    return None


def _ending_option(
    letter: int, attached: bytes, rest: list[bytes], flags: list[bytes]
) -> PythonProgram | NotForked:
    """-c and -m end the options; what follows belongs to the program."""
    if not attached and not rest:
        return NotForked(f"-{chr(letter)} lacks its argument")
    target = attached or rest.pop(0)
    mode: Mode = "code" if letter == ord("c") else "module"
    return PythonProgram(tuple(flags), mode, target, tuple(rest))


def _valued_option(
    letter: int, attached: bytes, rest: list[bytes], flags: list[bytes]
) -> NotForked | None:
    if not attached and not rest:
        return NotForked(f"-{chr(letter)} lacks its argument")
    value = attached or rest.pop(0)
    name = value.partition(b"=")[0].decode("utf-8", "replace")
    if letter == ord("X") and name in _REFUSED_X:
        return NotForked(f"-X {name} watches the imports")
    flags += [b"-%c" % letter, value]
    return None


def _long_option(option: bytes) -> NotForked:
    return NotForked(f"{option.decode('utf-8', 'replace')} is not an option of a program")
