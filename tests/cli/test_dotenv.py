"""`.env` files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devloop.cli.dotenv import parse_dotenv, read_dotenv
from devloop.cli.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

FILE = """\
# a comment
PLAIN=value
export EXPORTED = spaced out  # and a comment

EMPTY=
HASH=a#b
URL="https://example.invalid/?a=b#c" # after
SINGLE='as $it \\n is'
DOUBLE="line\\none \\"two\\" \\$three \\\\ \\x"
KEY="-----BEGIN-----
abc
-----END-----"
PLAIN=again
"""


def test_every_form_of_a_line_is_read() -> None:
    assert parse_dotenv(FILE, ".env") == {
        "PLAIN": "again",
        "EXPORTED": "spaced out",
        "EMPTY": "",
        "HASH": "a#b",
        "URL": "https://example.invalid/?a=b#c",
        "SINGLE": "as $it \\n is",
        "DOUBLE": 'line\none "two" $three \\ \\x',
        "KEY": "-----BEGIN-----\nabc\n-----END-----",
    }


def test_windows_line_ends_and_a_missing_last_one_change_nothing() -> None:
    assert parse_dotenv("A=1\r\n\r\nB=2", ".env") == {"A": "1", "B": "2"}


@pytest.mark.parametrize("bad", ["1X=s3cret", "s3cret", "=s3cret", "A='s3cret", 'A="s3cret" x'])
def test_an_error_names_the_line_and_keeps_the_secret(bad: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_dotenv(f"\n# x\n{bad}\n", ".env")
    assert str(caught.value).startswith(".env:3: ")
    assert "s3cret" not in str(caught.value) + caught.value.hint


def test_a_missing_file_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.env: No such file") as caught:
        read_dotenv(tmp_path / ".env")
    assert "run.env_file" in caught.value.hint
