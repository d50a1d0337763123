"""Why a program has failed, from what real programs print."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from devloop.tui.failure import Output, explained
from devloop.tui.tracebacks import last_raised

if TYPE_CHECKING:
    from pathlib import Path

GROUP = """
def caught(error):
    try: raise error
    except Exception as caught: return caught
raise ExceptionGroup("two", [caught(ValueError("one")), caught(TypeError("other"))])
"""
NOT_RAISED = 'raise ExceptionGroup("two", [ValueError("one")])'
RICH = """
from rich.traceback import install
install(width=70)
def f():
    raise KeyError("rich")
f()
"""
HANDLED = """
import logging, sys
try: 1/0
except Exception: logging.exception("it goes on")
for at in range(50): print("line", at)
sys.exit(3)
"""
TOLD = """
import sys, traceback
try: 1/0
except Exception: traceback.print_exc()
sys.exit(3)
"""
LOCAL = """
def f():
    class Odd(Exception): pass
    raise Odd
f()
"""
CHAINED = """
try: 1/0
except Exception as error: raise OSError("second") from error
"""
PIPED = 'print("held back\\n" * 60, end="")\nraise ValueError("boom")'
BAR = """
import sys
sys.stderr.write("\\r 61%|####    | 610/1000 [00:12<00:07, 50.1it/s]\\n")
sys.exit(3)
"""


class Case(NamedTuple):
    program: str
    words: str
    line: int | None


CASES = {
    "raised": Case("\nraise ValueError('boom')", "ValueError: boom", 2),
    "what does not compile": Case("\nprint(", "SyntaxError: '(' was never closed", 2),
    "amid a line": Case(
        "print('\\rstep 4', end='')\n1/0", "ZeroDivisionError: division by zero", 2
    ),
    "a group": Case(GROUP, "TypeError: other", 3),
    "a group of what was never raised": Case(
        NOT_RAISED, "ExceptionGroup: two (1 sub-exception)", 1
    ),
    "rich": Case(RICH, "KeyError: 'rich'", 5),
    "no word but a name": Case("raise StopIteration", "StopIteration", 1),
    "a breakpoint": Case("\nbreakpoint()\n", "bdb.BdbQuit", None),
    "of a local class": Case(LOCAL, "f.<locals>.Odd", 4),
    "chained": Case(CHAINED, "OSError: second", 3),
    "before what stdout held back": Case(PIPED, "ValueError: boom", 2),
    "told by who handled it": Case(TOLD, "ZeroDivisionError: division by zero", 3),
    "handled long ago": Case(HANDLED, "", None),
    "words alone": Case("import sys\nsys.exit('fatal: no data here')", "fatal: no data here", None),
    "nothing": Case("import sys\nprint('fine')\nsys.exit(3)", "", None),
    "a bar of progress": Case(BAR, "", None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_found_in_what_the_program_printed(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / "main.py"
    path.write_text(case.program)
    done = subprocess.run(
        [sys.executable, str(path)], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    output = Output()
    output.add(done.stderr, is_stderr=True)
    output.add(done.stdout, is_stderr=False)
    words = explained(output, done.returncode, 0, "")
    assert (words.exception or words.last) == case.words
    if case.line is not None:
        assert words.place == (str(path), case.line)


def test_a_traceback_on_a_terminal_may_begin_amid_a_line() -> None:
    output = Output()
    output.add(b"\rstep 4Traceback (most recent call last):\r\n", is_stderr=False)
    output.add(b'  File "/w/demo/a.py", line 3, in <module>\r\nValueError: x\r\n', is_stderr=False)
    words = explained(output, 1, 0, "demo")
    assert words == ("ValueError: x", ("/w/demo/a.py", 3), "")


def test_a_file_that_cannot_be_opened_is_said() -> None:
    done = subprocess.run([sys.executable, "/no/such.py"], capture_output=True, check=False)
    output = Output()
    output.add(done.stderr, is_stderr=True)
    assert "can't open file '/no/such.py'" in explained(output, done.returncode, 0, "").last


def test_nothing_was_raised_where_nothing_is_said_so() -> None:
    assert last_raised(["ValueError: printed by hand"]) is None
    assert last_raised([]) is None
