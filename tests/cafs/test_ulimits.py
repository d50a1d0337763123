"""Limits of processes in docker's words."""

from __future__ import annotations

import pytest

from devloop.cafs.ulimits import UNLIMITED, BadUlimit, parse_ulimit


@pytest.mark.parametrize(
    ("value", "soft", "hard"),
    [
        (65536, 65536, 65536),
        ("0", 0, 0),
        ("1024:4096", 1024, 4096),
        ("0:unlimited", 0, UNLIMITED),
        ("unlimited", UNLIMITED, UNLIMITED),
        (-1, UNLIMITED, UNLIMITED),
    ],
)
def test_one_number_is_both_limits_and_two_are_soft_and_hard(
    value: object, soft: int, hard: int
) -> None:
    assert parse_ulimit("nofile", value) == ("nofile", soft, hard)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("files", 3, "no limit is called 'files'"),
        ("nofile", True, "must be a number or a string"),
        ("nofile", 1.5, "must be a number or a string"),
        ("nofile", "many", "cannot be 'many'"),
        ("nofile", "1:2:3", "cannot be '2:3'"),
        ("nofile", "", "cannot be ''"),
        ("nofile", -2, "cannot be '-2'"),
        ("nofile", 1 << 63, "cannot be 9223372036854775808"),
        ("nofile", "2:1", "the soft limit of nofile is above its hard one"),
        ("core", "-1:1", "the soft limit of core is above its hard one"),
    ],
)
def test_what_is_no_limit_is_refused(name: str, value: object, words: str) -> None:
    with pytest.raises(BadUlimit, match=words) as caught:
        parse_ulimit(name, value)
    assert "nofile" in caught.value.hint
