"""The words that name a forwarded port."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.sync.ports import BadPort, PortSpec, parse_port

PORTS = st.integers(1, 65535)
HOSTS = st.sampled_from(["localhost", "127.0.0.1", "0.0.0.0", "::1", "fe80::1%eth0", "db.local"])


@pytest.mark.parametrize(
    ("words", "spec"),
    [
        ("6006", ("localhost", 6006, "localhost", 6006)),
        ("8888:80", ("localhost", 8888, "localhost", 80)),
        ("8080:localhost:80", ("localhost", 8080, "localhost", 80)),
        ("8080:db:5432", ("localhost", 8080, "db", 5432)),
        ("8080:10.0.0.2:80", ("localhost", 8080, "10.0.0.2", 80)),
        ("8080:[::1]:80", ("localhost", 8080, "::1", 80)),
        ("127.0.0.2:8080:80", ("127.0.0.2", 8080, "localhost", 80)),
        ("[::1]:8080:80", ("::1", 8080, "localhost", 80)),
        ("0.0.0.0:8080:db:80", ("0.0.0.0", 8080, "db", 80)),
        ("[::]:8080:[fe80::1]:80", ("::", 8080, "fe80::1", 80)),
    ],
)
def test_a_port_is_written_as_for_ssh_or_docker(
    words: str, spec: tuple[str, int, str, int]
) -> None:
    assert parse_port(words) == PortSpec(*spec)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", '"" is no port'),
        ("0", '"0" is no port'),
        ("65536", '"65536" is no port'),
        ("-1", '"-1" is no port'),
        ("http", '"http" is no port'),
        ("²", '"²" is no port'),
        ("80:", '"80:" has "" where a port'),
        (":80", '":80" has "" where a port'),
        ("80:http", 'has "http" where a port'),
        ("80::80", 'has "" where a host'),
        ("80:a b:80", 'has "a b" where a host'),
        ("80:/etc:80", 'has "/etc" where a host'),
        ("1:2:3:4:5", "more than four parts"),
        ("::1:80:80", "more than four parts"),
        ("[::1]80:80", "no colon after a bracket"),
        ("[::1:80", 'has "[" where a host'),
    ],
)
def test_what_names_no_port_is_told_with_its_place(words: str, message: str) -> None:
    with pytest.raises(BadPort) as caught:
        parse_port(words)
    assert message in str(caught.value)
    assert caught.value.hint


@given(st.builds(PortSpec, HOSTS, PORTS, HOSTS, PORTS))
def test_every_port_is_read_back_from_how_it_is_written(spec: PortSpec) -> None:
    assert parse_port(str(spec)) == spec


@given(st.text(max_size=30))
def test_no_words_do_more_than_be_refused(words: str) -> None:
    try:
        parse_port(words)
    except BadPort:
        return


def test_only_loopback_addresses_are_private() -> None:
    private = {"6006", "127.0.0.2:1:2", "[::1]:1:2"}
    for words in (*private, "0.0.0.0:1:2", "[::]:1:2", "192.168.0.1:1:2"):
        assert parse_port(words).is_private == (words in private)
