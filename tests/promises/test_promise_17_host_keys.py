"""A wrong, changed or revoked host key is refused: on each form of known_hosts, as `ssh` does."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import pytest
from tests.sshd import find_sshd, start_sshd

from devloop.sync.ssh.connect import SshOptions, connect
from devloop.sync.ssh.errors import (
    HostKeyChanged,
    HostKeyError,
    HostKeyRevoked,
    HostKeyUnknown,
)
from devloop.sync.ssh.host import parse_host
from devloop.sync.ssh.host_keys import verdict_on
from devloop.sync.ssh.known_hosts import HostKey, line_for
from devloop.sync.ssh.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.sshd import Sshd

pytestmark = [pytest.mark.promise(17), pytest.mark.timeout(300)]

Expected = type[HostKeyError] | None


class Form(NamedTuple):
    """`lines`: of the known_hosts file, from the server's key, another key, and the port."""

    lines: Callable[[str, str, int], list[str]]
    expected: Expected
    options: Mapping[str, str] = MappingProxyType({})
    second_file: Callable[[str, str, int], list[str]] = lambda key, other, port: []


def _hashed(name: str, key: str) -> str:
    key_type, blob = key.split()[:2]
    return line_for(name, HostKey(key_type, base64.b64decode(blob)), hashed=True)


MALFORMED = [
    "",
    "# [127.0.0.1]:22 ssh-ed25519 AAAA",
    "just-a-host",
    "host ssh-ed25519",
    "host ssh-ed25519 not!base64",
    "@revokd [127.0.0.1]:22 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
    "@revoked",
    "host 1024 35 12345678901234567890",
    "|1|broken|hash ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
    "\x00\x01\x02 \xff",
]

FORMS = {
    "plain": Form(lambda k, o, p: [f"[127.0.0.1]:{p} {k}"], None),
    "plain, spaces": Form(lambda k, o, p: [f"  [127.0.0.1]:{p}   {k.replace(' ', '  ')}"], None),
    "tabs": Form(lambda k, o, p: [f"[127.0.0.1]:{p}\t" + k.replace(" ", "\t")], None),
    "without a newline at the end": Form(lambda k, o, p: [f"[127.0.0.1]:{p} {k}"], None),
    "hashed": Form(lambda k, o, p: [_hashed(f"[127.0.0.1]:{p}", k)], None),
    "hashed, another": Form(lambda k, o, p: [_hashed(f"[127.0.0.1]:{p}", o)], HostKeyChanged),
    "hashed, another host": Form(lambda k, o, p: [_hashed("elsewhere", k)], HostKeyUnknown),
    "the host without its port": Form(lambda k, o, p: [f"127.0.0.1 {k}"], None),
    "the host without its port, another": Form(lambda k, o, p: [f"127.0.0.1 {o}"], HostKeyUnknown),
    "another port": Form(lambda k, o, p: [f"[127.0.0.1]:1 {k}"], HostKeyUnknown),
    "several hosts": Form(lambda k, o, p: [f"a,[127.0.0.1]:{p},b {k}"], None),
    "wildcard": Form(lambda k, o, p: [f"[127.0.0.*]:{p} {k}"], None),
    "wildcard for all": Form(lambda k, o, p: [f"* {k}"], None),
    "question marks": Form(lambda k, o, p: [f"[127.?.?.1]:{p} {k}"], None),
    "wildcard, excluded": Form(
        lambda k, o, p: [f"*,![127.0.0.1]:{p},!127.0.0.1 {k}", f"!127.0.0.1,x {k}"], HostKeyUnknown
    ),
    "wildcard, excluded with its port only": Form(
        lambda k, o, p: [f"*,![127.0.0.1]:{p} {k}"], None
    ),
    "wildcard, another": Form(lambda k, o, p: [f"[127.*]:{p} {o}"], HostKeyChanged),
    "changed": Form(lambda k, o, p: [f"[127.0.0.1]:{p} {o}"], HostKeyChanged),
    "changed, and known": Form(
        lambda k, o, p: [f"[127.0.0.1]:{p} {o}", f"[127.0.0.1]:{p} {k}"], None
    ),
    "unknown": Form(lambda k, o, p: [f"elsewhere {k}"], HostKeyUnknown),
    "empty": Form(lambda k, o, p: [], HostKeyUnknown),
    "revoked": Form(lambda k, o, p: [f"@revoked * {k}"], HostKeyRevoked),
    "revoked, and known": Form(
        lambda k, o, p: [f"[127.0.0.1]:{p} {k}", f"@revoked [127.0.0.1]:{p} {k}"], HostKeyRevoked
    ),
    "revoked, hashed": Form(
        lambda k, o, p: [f"@revoked {_hashed(f'[127.0.0.1]:{p}', k)}", f"* {k}"], HostKeyRevoked
    ),
    "another is revoked": Form(lambda k, o, p: [f"@revoked * {o}", f"[127.0.0.1]:{p} {k}"], None),
    "revoked elsewhere": Form(
        lambda k, o, p: [f"@revoked elsewhere {k}", f"[127.0.0.1]:{p} {k}"], None
    ),
    "authority, no certificate": Form(lambda k, o, p: [f"@cert-authority * {o}"], HostKeyUnknown),
    "authority is the key itself": Form(lambda k, o, p: [f"@cert-authority * {k}"], HostKeyUnknown),
    "authority, and known": Form(
        lambda k, o, p: [f"@cert-authority * {o}", f"[127.0.0.1]:{p} {k}"], None
    ),
    "malformed lines before": Form(lambda k, o, p: [*MALFORMED, f"[127.0.0.1]:{p} {k}"], None),
    "malformed lines before a change": Form(
        lambda k, o, p: [*MALFORMED, f"[127.0.0.1]:{p} {o}"], HostKeyChanged
    ),
    "malformed lines before a revocation": Form(
        lambda k, o, p: [*MALFORMED, f"@revoked * {k}", f"[127.0.0.1]:{p} {k}"], HostKeyRevoked
    ),
    "alias": Form(lambda k, o, p: [f"box {k}"], None, {"HostKeyAlias": "box"}),
    "alias, the address does not count": Form(
        lambda k, o, p: [f"[127.0.0.1]:{p} {k}"], HostKeyUnknown, {"HostKeyAlias": "box"}
    ),
    "alias, changed": Form(lambda k, o, p: [f"box {o}"], HostKeyChanged, {"HostKeyAlias": "box"}),
    "in the second file": Form(
        lambda k, o, p: [], None, second_file=lambda k, o, p: [f"[127.0.0.1]:{p} {k}"]
    ),
    "changed in the second file": Form(
        lambda k, o, p: [],
        HostKeyChanged,
        second_file=lambda k, o, p: [f"[127.0.0.1]:{p} {o}"],
    ),
    "revoked in the second file": Form(
        lambda k, o, p: [f"[127.0.0.1]:{p} {k}"],
        HostKeyRevoked,
        second_file=lambda k, o, p: [f"@revoked * {k}"],
    ),
    "changed, and nothing is checked": Form(
        lambda k, o, p: [f"[127.0.0.1]:{p} {o}"], HostKeyChanged, {"StrictHostKeyChecking": "no"}
    ),
    "revoked, and nothing is checked": Form(
        lambda k, o, p: [f"@revoked * {k}"], HostKeyRevoked, {"StrictHostKeyChecking": "no"}
    ),
    "unknown, and new ones are accepted": Form(
        lambda k, o, p: [], None, {"StrictHostKeyChecking": "accept-new"}
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if find_sshd() is None:
        pytest.skip("needs sshd")
    with start_sshd(tmp_path_factory.mktemp("ssh") / "sshd") as started:
        yield started


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("key") / "other"
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(keygen, check=True)
    return " ".join((path.with_name("other.pub")).read_text().split()[:2])


def _set_up(form: Form, name: str, server: Sshd, other: str, folder: Path) -> Path:
    """The client's configuration for it."""
    key = " ".join((server.folder / "host.pub").read_text().split()[:2])
    files = [folder / "first", folder / "second"]
    end = "" if name.startswith("without a newline") else "\n"
    for file, lines in zip(files, (form.lines, form.second_file), strict=True):
        text = "\n".join(lines(key, other, server.port))
        file.write_text(text + end, errors="surrogateescape", encoding="latin-1")
    config = folder / "config"
    known = " ".join(map(str, files))
    config.write_text(server.client_config(**{"UserKnownHostsFile": known, **form.options}))
    return config


async def _verdict(client: str, server: Sshd, config: Path) -> Expected:
    options = SshOptions(client, config)  # type: ignore[arg-type] # one of its words
    try:
        link = await connect(server.alias, options)
    except HostKeyError as error:
        return type(error)
    assert (await link.run("echo in")).stdout == b"in\n"
    await link.close()
    return None


def _ssh_lets_in(server: Sshd, config: Path) -> bool:
    """What the system's `ssh` does, asked by hand and nobody there to answer."""
    argv = ["ssh", "-F", str(config), "-o", "BatchMode=yes", server.alias, "true"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", FORMS)
def test_each_client_judges_a_host_key_as_ssh_does(
    name: str, server: Sshd, other_key: str, tmp_path: Path
) -> None:
    form = FORMS[name]
    config = _set_up(form, name, server, other_key, tmp_path)
    # Where nothing is checked `ssh` lets pass what we refuse; where it accepts, it also writes.
    if "StrictHostKeyChecking" not in form.options:
        assert _ssh_lets_in(server, config) == (form.expected is None)
    before = (tmp_path / "first").read_bytes()
    for client in ("openssh", "paramiko"):
        assert asyncio.run(_verdict(client, server, config)) is form.expected, client
        (tmp_path / "first").write_bytes(before)


@pytest.mark.parametrize("name", FORMS)
def test_without_ssh_keygen_the_verdict_is_the_same(
    name: str, server: Sshd, other_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _set_up(FORMS[name], name, server, other_key, tmp_path)
    resolved = asyncio.run(resolve(parse_host(server.alias), config))
    key_type, blob = (server.folder / "host.pub").read_text().split()[:2]
    key = HostKey(key_type, base64.b64decode(blob))
    with_keygen = verdict_on(resolved, key)
    monkeypatch.setenv("PATH", "")
    assert verdict_on(resolved, key) is with_keygen


def test_how_many_forms_were_tried() -> None:
    print(f"promise 17: {len(FORMS)} forms of known_hosts, by ssh and both clients of ours")
    assert len(FORMS) >= 30


@pytest.mark.parametrize("client", ["openssh", "paramiko"])
def test_nothing_is_sent_to_a_host_whose_key_is_refused(
    client: str, server: Sshd, other_key: str, tmp_path: Path
) -> None:
    config = _set_up(FORMS["changed"], "changed", server, other_key, tmp_path)
    before = len(server.log)
    assert asyncio.run(_verdict(client, server, config)) is HostKeyChanged
    assert "publickey" not in server.log[before:]


@pytest.mark.usefixtures("server")
def test_a_key_signed_by_the_authority_is_accepted(tmp_path: Path, other_key: str) -> None:
    """A certificate: by `ssh`; paramiko, which reads none, refuses."""
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "ca")]
    subprocess.run(keygen, check=True)
    certificate = str(tmp_path / "sshd" / "host-cert.pub")
    with start_sshd(tmp_path / "sshd", settings={"HostCertificate": certificate}) as server:
        ca = " ".join((tmp_path / "ca.pub").read_text().split()[:2])
        sign = [
            "ssh-keygen",
            "-q",
            "-s",
            str(tmp_path / "ca"),
            "-I",
            "box",
            "-h",
            "-n",
            "127.0.0.1",
        ]
        subprocess.run([*sign, str(tmp_path / "sshd" / "host.pub")], check=True)
        server.reload()
        for authority, expected in ((ca, None), (other_key, HostKeyUnknown)):
            server.known_hosts.write_text(f"@cert-authority * {authority}\n")
            assert asyncio.run(_verdict("openssh", server, server.config)) is expected
            assert asyncio.run(_verdict("paramiko", server, server.config)) is HostKeyUnknown
        server.known_hosts.write_text(f"@cert-authority * {ca}\n@revoked * {ca}\n")
        assert asyncio.run(_verdict("openssh", server, server.config)) is HostKeyRevoked
