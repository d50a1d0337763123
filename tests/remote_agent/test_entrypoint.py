"""The grammar of Python's command line, as a table."""

from __future__ import annotations

import pytest

from devloop.remote_agent.entrypoint import (
    Mode,
    NotForked,
    PythonProgram,
    environment_refusal,
    is_python,
    parse_python,
)

PROGRAMS: dict[str, tuple[tuple[bytes, ...], Mode, bytes, tuple[bytes, ...]]] = {
    "x.py": ((), "script", b"x.py", ()),
    "x.py -u -m a": ((), "script", b"x.py", (b"-u", b"-m", b"a")),
    "-u x.py": ((b"-u",), "script", b"x.py", ()),
    "-uBO x.py": ((b"-u", b"-B", b"-O"), "script", b"x.py", ()),
    "-OO x.py": ((b"-O", b"-O"), "script", b"x.py", ()),
    "-W error x.py": ((b"-W", b"error"), "script", b"x.py", ()),
    "-Werror x.py": ((b"-W", b"error"), "script", b"x.py", ()),
    "-uWerror x.py": ((b"-u", b"-W", b"error"), "script", b"x.py", ()),
    "-X dev x.py": ((b"-X", b"dev"), "script", b"x.py", ()),
    "-m pkg a -b": ((), "module", b"pkg", (b"a", b"-b")),
    "-mpkg a": ((), "module", b"pkg", (b"a",)),
    "-um pkg": ((b"-u",), "module", b"pkg", ()),
    "-c pass -c": ((), "code", b"pass", (b"-c",)),
    "-cpass": ((), "code", b"pass", ()),
    "-- x.py -u": ((), "script", b"x.py", (b"-u",)),
    "-u -- -x.py": ((b"-u",), "script", b"-x.py", ()),
}
COLD = {
    "": "stdin",
    "-": "stdin",
    "- a": "stdin",
    "-i x.py": "interactive",
    "-I x.py": "-I",
    "-E x.py": "-E",
    "-S x.py": "-S",
    "-v x.py": "import",
    "-V": "-V",
    "-h": "-h",
    "--version": "--version",
    "--check-hash-based-pycs never x.py": "--check",
    "-X importtime x.py": "importtime",
    "-X tracemalloc=5 x.py": "tracemalloc",
    "-m": "lacks",
    "-c": "lacks",
    "-W": "lacks",
}


@pytest.mark.parametrize("line", PROGRAMS)
def test_a_program_is_found_behind_its_options(line: str) -> None:
    assert parse_python(line.encode().split()) == PythonProgram(*PROGRAMS[line])


@pytest.mark.parametrize("line", COLD)
def test_what_a_zygote_cannot_do_has_a_reason(line: str) -> None:
    outcome = parse_python(line.encode().split())
    assert isinstance(outcome, NotForked)
    assert COLD[line] in outcome.reason


@pytest.mark.parametrize(
    "name", [b"python", b"python3", b"python3.12", b"/usr/bin/python3", b"./python"]
)
def test_pythons_names_are_known(name: bytes) -> None:
    assert is_python(name)


@pytest.mark.parametrize(
    "name", [b"python2", b"ipython", b"pythonw", b"python3.12-config", b"bash"]
)
def test_other_names_are_not_python(name: bytes) -> None:
    assert not is_python(name)


def test_a_variable_that_watches_imports_is_a_reason() -> None:
    assert environment_refusal({"PYTHONVERBOSE": b"1"}) == "PYTHONVERBOSE is set"
    assert environment_refusal({"PYTHONVERBOSE": b"", "PATH": b"/bin"}) == ""
