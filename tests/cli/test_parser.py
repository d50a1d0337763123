"""The words of the command line."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.cafs.errors import DevloopError
from devloop.cli.errors import UsageError, report_error
from devloop.cli.parser import VERBS, config_flags, parse_args


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["exec", "python", "x.py", "--lr", "1"], ["python", "x.py", "--lr", "1"]),
        (["exec", "--", "python", "-h"], ["python", "-h"]),
        (["exec", "-tq", "python", "-h", "--", "-q"], ["python", "-h", "--", "-q"]),
        (["exec", "--env", "A=1", "-e", "B=2", "-eC=3", "make"], ["make"]),
        (["exec", "--env=A=1", "--", "--env"], ["--env"]),
        (["exec", "-qC", "/tmp", "make", "-C", "x"], ["make", "-C", "x"]),
        (["exec", "-C/tmp", "-", "x"], ["-", "x"]),
        (["up", "--plain", "python", "--plain"], ["python", "--plain"]),
        (["up"], []),
        (["exec", "--"], []),
    ],
)
def test_the_first_word_that_is_no_flag_begins_the_command(
    argv: list[str], command: list[str]
) -> None:
    assert parse_args(argv).command == command


def test_flags_of_exec_are_read() -> None:
    args = parse_args(["exec", "-T", "--json", "-dq", "--no-warm", "-e", "A=b=c", "true"])
    assert (args.verb, args.tty, args.json, args.detach, args.quiet) == (
        *("exec", False, True, True),
        True,
    )
    assert (args.warm, args.env) == (False, [("A", "b=c")])
    assert parse_args(["exec", "-t", "true"]).tty is True
    assert parse_args(["exec", "true"]).tty is None


def test_common_flags_stand_before_or_after_the_verb() -> None:
    assert parse_args(["-C", "here", "ps"]).directory == "here"
    assert parse_args(["ps", "-C", "here"]).directory == "here"
    assert parse_args(["-C", "here", "ps", "-C", "there"]).directory == "there"
    args = parse_args(["--no-color", "ps"])
    assert (args.color, args.directory, args.target) == (False, None, None)
    assert parse_args(["ps"]).color is None


def test_a_run_is_named_by_its_number() -> None:
    assert [parse_args(["logs", *words]).run for words in ([], ["3"], ["-f", "#12"])] == [
        *(None, 3, 12)
    ]


def test_flags_become_config_values() -> None:
    args = parse_args(["exec", "--target", "local", "-e", "A=1", "-e", "A=2", "make", "all"])
    assert config_flags(args) == {
        "target": "local",
        "run.env": {"A": "2"},
        "run.command": ["make", "all"],
    }
    assert config_flags(parse_args(["ps"])) == {}


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        ([], "no verb", "init, up, exec"),
        (["exce"], "unknown verb exce", "did you mean `devloop exec`?"),
        (["xyzzy"], "unknown verb xyzzy", "`devloop --help`"),
        (["--taget", "x", "ps"], "devloop: unknown flag --taget", "--target?"),
        (["exec", "--josn", "true"], "devloop exec: unknown flag --josn", "did you mean --json?"),
        (["exec", "-tT", "true"], "devloop exec: argument -T/--no-tty: not allowed with", "--help"),
        (["exec", "-e", "A", "true"], "devloop exec: argument -e/--env: a variable is", "--help"),
        (["exec", "--js", "true"], "devloop exec: unknown flag --js", ""),
        (["logs", "last"], "devloop logs: argument RUN: last is not the number", "logs --help"),
        (["logs", "0"], "devloop logs: argument RUN: 0 is not the number", "logs --help"),
        (["ps", "x"], "devloop ps: x is one word too many", "see `devloop ps --help`"),
        (["ps", "-C"], "devloop ps: argument -C/--directory: expected one", "ps --help"),
        (["completion", "tcsh"], "devloop completion: argument SHELL: invalid choice", ""),
    ],
)
def test_a_command_line_without_sense_is_a_usage_error(
    argv: list[str], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_args(argv)
    assert str(caught.value).startswith(message)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse_args([verb, "--help"])
    assert left.value.code == 0
    help_text = capsys.readouterr().out
    assert f"usage: devloop {verb}" in help_text
    assert VERBS[verb].example in help_text


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_parses(verb: str) -> None:
    words = VERBS[verb].example.removeprefix('eval "$(').removesuffix(')"').split()
    assert parse_args(words[1:]).verb == verb


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    help_text = capsys.readouterr().out
    assert all(f"  {name} " in help_text and v.summary in help_text for name, v in VERBS.items())


def test_errors_are_told_as_error_and_hint_without_control_codes() -> None:
    stream = io.StringIO()
    report_error(DevloopError("bad \x1b[31mname\udcff", hint="look"), stream)
    assert stream.getvalue() == "error: bad \\x1b[31mname\\udcff\nhint: look\n"
    stream = io.StringIO()
    report_error(DevloopError("two\nlines"), stream, color=True)
    assert stream.getvalue() == "\x1b[1;31merror:\x1b[0m two\n       lines\n"


def test_parsing_imports_neither_grpc_nor_dataclasses() -> None:
    code = (
        "import sys; from devloop.cli.parser import parse_args; parse_args(['exec', 'true']);"
        "print(sorted({'grpc', 'asyncio', 'dataclasses', 'tomllib', 'blake3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


OWN_WORDS = ["-C", "-h", "-t", "-tT", "--", "-", "-e", "A=1", "--json", "-x", "", "--help"]


@given(st.lists(st.sampled_from([*VERBS, *OWN_WORDS]) | st.text(max_size=4), max_size=5))
def test_any_command_line_parses_or_helps_or_is_a_usage_error(argv: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        outcome = _outcome(argv)
    assert outcome in VERBS or outcome == "usage error" or printed.getvalue().startswith("usage: ")


def _outcome(argv: list[str]) -> str:
    try:
        return str(parse_args(argv).verb)
    except UsageError:
        return "usage error"
    except SystemExit as left:
        return f"left with {left.code}"
