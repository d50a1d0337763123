"""Every program of `programs/`, run by plain `python` and from a zygote: nobody can tell."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .spawning import Ended, Workshop, make_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent / "programs"

# Started by exec inside the zygote's child, which is as good as plain.
FALLS_BACK = {"syntax_error", "syntax_error_late", "not_utf8", "indentation_error", "missing"}
ADDRESS = re.compile(rb"0x[0-9a-f]+")
ARGUMENTS = {
    "stdin_read": b"first\nsecond\nthird\nfourth",
    "breakpoint_pdb": b"where\np a, b\nup\nwhere\ndown\nnext\nnext\ncontinue\n",
}
SCRIPTS = sorted(path.stem for path in PROGRAMS.glob("*.py"))

COMMAND_LINES: dict[str, list[str | bytes]] = {
    "unbuffered": ["python", "-u", "stdio.py"],
    "optimised": ["python", "-O", "debug_asserts.py"],
    "optimised twice": ["python", "-OO", "doctest_main.py"],
    "no bytecode": ["python", "-B", "runtime_state.py"],
    "warnings as errors": ["python", "-W", "error", "warn_in_main.py"],
    "development mode": ["python", "-X", "dev", "runtime_state.py"],
    "fault handler": ["python", "-X", "faulthandler", "segfault.py"],
    "utf-8 mode": ["python", "-Xutf8", "stdio.py"],
    "safe path": ["python", "-P", "argv_and_path.py"],
    "no user site": ["python", "-s", "argv_and_path.py"],
    "several flags": ["python", "-uBO", "argv_and_path.py"],
    "arguments": ["python", "argv_and_path.py", "-u", "--", "a b", "", "ä"],
    "bytes in arguments": ["python", "argv_and_path.py", b"\xff\xfe"],
    "dotted path": ["python", "./argv_and_path.py"],
    "path in a folder": ["python", "package/../argv_and_path.py"],
    "linked script": ["python", "linked/link.py"],
    "python3": ["python3", "argv_and_path.py"],
    "bare script": ["argv_and_path.py", "x"],
    "missing": ["python", "missing.py"],
    "folder": ["python", "is_folder", "x"],
    "code": ["python", "-c", "import sys; print(sys.argv, sys.path, vars())", "a", "-x"],
    "code that fails": ["python", "-c", "def f():\n  1/0\nf()"],
    "code that does not compile": ["python", "-c", "if"],
    "code attached": ["python", "-cprint(__name__)"],
    "package": ["python", "-m", "package", "a", "-m"],
    "module": ["python", "-m", "sibling"],
    "module in a package": ["python", "-m", "package.part"],
    "recursion in a module": ["python", "-m", "recursion_module"],
    "module that is missing": ["python", "-m", "nothing.here"],
    "module with traceback": ["python", "-um", "traceback_nested"],
    "module of the library": ["python", "-m", "json.tool", "--help"],
    "program from stdin": ["python", "-", "a"],
    "isolated": ["python", "-I", "argv_and_path.py"],
    "no command": ["python", "--version"],
    "console script": ["tool", "a"],
    "shadow": ["python", "shadow/main.py"],
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    workshop = Workshop.open(tmp_path_factory.mktemp("differential"))
    shutil.copytree(PROGRAMS, workshop.workspace, dirs_exist_ok=True)
    environment = workshop.workspace / ".venv"
    make_environment(environment)
    (workshop.workspace / "linked").mkdir()
    (workshop.workspace / "linked" / "link.py").symlink_to("../argv_and_path.py")
    _write_console_script(environment / "bin")
    workshop.env["BYTES"] = b"\xff=\xfe"
    yield workshop
    workshop.close()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_program_does_the_same_from_a_zygote(workshop: Workshop, name: str) -> None:
    _compare(workshop, name, ["python", f"{name}.py"], ARGUMENTS.get(name, b""))


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_command_line_means_the_same_from_a_zygote(workshop: Workshop, name: str) -> None:
    _compare(workshop, name, COMMAND_LINES[name], b"print(1)\n")


@pytest.mark.parametrize("name", ["stdio", "stdin_read", "breakpoint_pdb", "traceback_nested"])
def test_a_terminal_shows_the_same_from_a_zygote(workshop: Workshop, name: str) -> None:
    typed = ARGUMENTS.get(name, b"") + b"\n\x04\x04\x04"
    plain = workshop.run_on_terminal("python", f"{name}.py", typed=typed, warm=False)
    warm = workshop.run_on_terminal("python", f"{name}.py", typed=typed)
    assert workshop.last_kind == "zygote", workshop.last_note
    assert warm == plain


def test_input_encoding_follows_the_environment(workshop: Workshop) -> None:
    for value in (b"latin-1", b"ascii:backslashreplace"):
        env = {"PYTHONIOENCODING": value}
        plain = workshop.run("python", "stdio.py", env=env, warm=False)
        assert workshop.run("python", "stdio.py", env=env) == plain


def _compare(workshop: Workshop, name: str, argv: list[str | bytes], stdin: bytes) -> None:
    plain = workshop.run(*argv, stdin=stdin, warm=False)
    warm = workshop.run(*argv, stdin=stdin)
    assert _without_addresses(warm) == _without_addresses(plain)
    falls_back = name in FALLS_BACK | COLD_LINES
    assert workshop.last_kind == ("cold" if falls_back else "zygote"), workshop.last_note
    assert workshop.last_note or not falls_back


def _without_addresses(ended: Ended) -> Ended:
    stdout, stderr = (ADDRESS.sub(b"0x", text) for text in (ended.stdout, ended.stderr))
    return replace(ended, stdout=stdout, stderr=stderr)


COLD_LINES = {
    "folder",
    "code that does not compile",
    "program from stdin",
    "isolated",
    "no command",
    "shadow",
}


def _write_console_script(bin_folder: Path) -> None:
    script = bin_folder / "tool"
    script.write_text(
        f"#!{bin_folder}/python\nimport sys\nprint(sys.argv, sys.path)\nsys.exit(3)\n"
    )
    os.chmod(script, 0o755)
