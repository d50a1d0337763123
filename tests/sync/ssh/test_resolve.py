"""What the configuration says of a host: by `ssh -G`, and the same without OpenSSH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devloop.cafs import ssh_ciphers
from devloop.sync.ssh import resolve as resolving
from devloop.sync.ssh.connect import choose_client
from devloop.sync.ssh.errors import ClientMissing, ConfigInvalid, TargetInvalid
from devloop.sync.ssh.host import HostSpec, parse_host
from devloop.sync.ssh.resolve import Resolved, resolve, resolved_from
from devloop.sync.ssh.ssh_config import included


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("gpu1", HostSpec("gpu1")),
        ("bob@gpu1", HostSpec("gpu1", "bob")),
        ("bob@gpu1:2222", HostSpec("gpu1", "bob", 2222)),
        ("bob@corp@gpu1", HostSpec("gpu1", "bob@corp")),
        ("[::1]:22", HostSpec("::1", None, 22)),
        ("bob@[fe80::1%eth0]", HostSpec("fe80::1%eth0", "bob")),
        ("2001:db8::1", HostSpec("2001:db8::1")),
        ("ssh://bob@gpu1:2222", HostSpec("gpu1", "bob", 2222)),
        ("ssh://gpu1/", HostSpec("gpu1")),
    ],
)
def test_a_target_is_read_as_ssh_reads_it(words: str, expected: HostSpec) -> None:
    assert parse_host(words) == expected


@pytest.mark.parametrize(
    "words",
    [
        "-oProxyCommand=touch x",
        "bob@-oProxyCommand=x",
        "-lroot@gpu",
        "gpu1 ls",
        "gpu1;ls",
        "$(ls)@gpu1",
        "gpu`x`",
        "gpu1:",
        "gpu1:0",
        "gpu1:65536",
        "gpu1:ssh",
        "[::1",
        "[::1]x22",
        "",
        "@gpu1",
        "ssh://gpu1/path",
        "a\nb",
    ],
)
def test_what_could_be_an_option_or_a_command_is_no_target(words: str) -> None:
    with pytest.raises(TargetInvalid):
        parse_host(words)


CONFIG = """
Include {folder}/more/*.conf
Host gpu
    HostName real.example.com
    IdentityFile {folder}/%n-%h-key
    Port 2200
    ProxyJump j1,j2
Host *.example.com other
    Include {folder}/inner
    User late
Match host other
    Compression yes
Host *
    User anyone
    UserKnownHostsFile {folder}/known1 {folder}/known2
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking accept-new
    HashKnownHosts yes
    IdentitiesOnly yes
    HostKeyAlias %n.alias
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.conf").write_text("Host gpu\n    User first\n")
    (tmp_path / "more" / "b.conf").write_text("Host gpu\n    User second\n    AddressFamily inet\n")
    (tmp_path / "inner").write_text(f"IdentityFile {tmp_path}/inner-key\nPort 99\n")
    path = tmp_path / "config"
    path.write_text(CONFIG.format(folder=tmp_path).replace("    HostKeyAlias %n.alias\n", ""))
    return path


@pytest.mark.parametrize("name", ["gpu", "other", "a.example.com", "bob@gpu:7", "nobody"])
async def test_without_openssh_the_configuration_says_the_same(
    name: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse_host(name)
    by_ssh = await resolve(spec, config)
    monkeypatch.setattr(resolving, "has_openssh", lambda: False)
    assert _compared(await resolve(spec, config)) == _compared(by_ssh)
    if name == "gpu":
        assert by_ssh.user == "first"
        assert by_ssh.proxy_jump == "j1,j2"
        assert by_ssh.unknown_hosts == "accept"


def _compared(resolved: Resolved) -> Resolved:
    """Without the ciphers, and the key files that ssh names when the configuration names none."""
    named = [path for path in resolved.identity_files if path.parent.name != ".ssh"]
    return resolved._replace(ciphers="", identity_files=tuple(named))


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").write_text(f"Include {tmp_path}/loop\n")
    with pytest.raises(ConfigInvalid, match="too deeply"):
        list(included(tmp_path / "loop"))


def test_tokens_and_variables_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS", "/keys")
    monkeypatch.setenv("MY_AGENT", "/agent")
    resolved = resolved_from(
        HostSpec("gpu"),
        {
            "hostname": ["real"],
            "user": ["bob"],
            "port": ["7"],
            "identityfile": ["~/%n", "${KEYS}/%r@%h:%p-%%"],
            "identityagent": ["$MY_AGENT"],
            "proxycommand": ["nc %h %p"],
        },
    )
    assert resolved.identity_files == (Path.home() / "gpu", Path("/keys/bob@real:7-%"))
    assert resolved.identity_agent == "/agent"
    assert resolved.proxy_command == "nc real 7"


def test_the_agent_is_the_environments_unless_it_is_none() -> None:
    os.environ.pop("SSH_AUTH_SOCK", None)
    assert resolved_from(HostSpec("x"), {}).identity_agent is None
    assert resolved_from(HostSpec("x"), {"identityagent": ["none"]}).identity_agent is None


def test_which_client_carries_the_connection() -> None:
    plain = Resolved("gpu", "gpu", "bob")
    hardware = plain._replace(needs_openssh=("pkcs11provider",))
    assert choose_client("auto", plain, True) == "openssh"
    assert choose_client("auto", plain, False) == "paramiko"
    assert choose_client("auto", plain, True, asks_elsewhere=True) == "paramiko"
    assert choose_client("auto", hardware, True, asks_elsewhere=True) == "openssh"
    assert choose_client("paramiko", plain, True) == "paramiko"
    assert choose_client("openssh", plain, True) == "openssh"
    with pytest.raises(ClientMissing, match="pkcs11provider"):
        choose_client("auto", hardware, False)
    with pytest.raises(ConfigInvalid, match="pkcs11provider"):
        choose_client("paramiko", hardware, True)


def test_fast_ciphers_come_first_unless_the_configuration_has_an_order_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow, gcm = "chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com,aes256-gcm@openssh.com"
    monkeypatch.setattr(ssh_ciphers, "has_aes", lambda: True)
    assert ssh_ciphers.fast_first(f"{slow},aes128-ctr,{gcm}") == f"{gcm},{slow},aes128-ctr"
    assert ssh_ciphers.fast_first(f"aes256-ctr,{gcm}") is None
    assert ssh_ciphers.fast_first(f"{slow},aes128-ctr") is None
    assert ssh_ciphers.fast_first("") is None
    monkeypatch.setattr(ssh_ciphers, "has_aes", lambda: False)
    assert ssh_ciphers.fast_first(f"{slow},{gcm}") is None
