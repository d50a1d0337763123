"""Who is let in, and what is asked on the way, with real servers, keys and agents."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.conftest import MISSING
from tests.sshd import find_sshd, start_sshd

from devloop.sync.ssh.connect import SshOptions, connect
from devloop.sync.ssh.errors import AuthenticationFailed, HostKeyUnknown

from .prompters import Answers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sshd import Sshd

CLIENTS = ["openssh", "paramiko"]
PASSWORD = "correct horse"
# As `openssl passwd -6` makes it.
HASHED = (
    "$6$devloop$X6dvG8aMggB3WhlZ970W5HIhZP8n8WgsneIMJXp"
    "CiPtR.fPNqtF69b0btyYOGp9DZooyZrwWKXOhRKtlWuGP20"
)


async def _lets_in(sshd: Sshd, client: str, prompter: Answers | None = None) -> None:
    link = await connect(sshd.alias, SshOptions(client, sshd.config), prompter)
    assert (await link.run("echo in")).stdout == b"in\n"
    await link.close()


def _new_key(path: Path, passphrase: str = "", key_type: str = "ed25519") -> Path:
    argv = ["ssh-keygen", "-q", "-t", key_type, "-N", passphrase, "-f", str(path)]
    subprocess.run(argv, check=True)
    return path


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _authorize(sshd: Sshd, *keys: Path) -> None:
    lines = [key.with_name(f"{key.name}.pub").read_text() for key in keys]
    (sshd.folder / "authorized_keys").write_text("".join(lines))


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_key_that_is_not_authorized_is_refused(client: str, sshd: Sshd) -> None:
    (sshd.folder / "authorized_keys").write_text("")
    with pytest.raises(AuthenticationFailed, match=r"box.*publickey"):
        await _lets_in(sshd, client)


@pytest.mark.parametrize("key_type", ["rsa", "ecdsa"])
async def test_keys_of_other_types_are_taken(key_type: str, sshd: Sshd, tmp_path: Path) -> None:
    key = _new_key(tmp_path / "key", key_type=key_type)
    _authorize(sshd, key)
    sshd.config.write_text(sshd.client_config(IdentityFile=str(key)))
    await _lets_in(sshd, "paramiko")


async def test_an_encrypted_key_is_asked_for_three_times(sshd: Sshd, tmp_path: Path) -> None:
    key = _new_key(tmp_path / "key", "sesame")
    _authorize(sshd, key)
    sshd.config.write_text(sshd.client_config(IdentityFile=str(key)))
    asked = Answers("wrong", "worse", "sesame")
    await _lets_in(sshd, "paramiko", asked)
    assert asked.asked == [f"Enter passphrase for key '{key}': "] * 3
    asked = Answers("wrong", "worse", "worst", "sesame")
    with pytest.raises(AuthenticationFailed):
        await _lets_in(sshd, "paramiko", asked)
    assert len(asked.asked) == 3


async def test_an_open_key_comes_before_a_question(sshd: Sshd, tmp_path: Path) -> None:
    key = _new_key(tmp_path / "key", "sesame")
    _authorize(sshd, key, sshd.user_key)
    files = f"{key}\n    IdentityFile {sshd.user_key}"
    sshd.config.write_text(sshd.client_config(IdentityFile=files))
    asked = Answers("sesame")
    await _lets_in(sshd, "paramiko", asked)
    assert not asked.asked


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real ssh-agent; its socket is $SSH_AUTH_SOCK."""
    path = Path(os.environ["DEVLOOP_RUNTIME_DIR"]) / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    while not path.exists():
        assert process.poll() is None
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield path
    process.terminate()
    process.wait()


def _add_to_agent(key: Path) -> None:
    subprocess.run(["ssh-add", "-q", str(key)], check=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_key_of_the_agent_is_taken(
    client: str, sshd: Sshd, agent: Path, tmp_path: Path
) -> None:
    key = _new_key(tmp_path / "key")
    _authorize(sshd, key)
    _add_to_agent(key)
    key.unlink()
    options = {"IdentityFile": "/nowhere", "IdentityAgent": str(agent), "IdentitiesOnly": "no"}
    sshd.config.write_text(sshd.client_config(**options))
    await _lets_in(sshd, client)


@pytest.mark.parametrize("client", CLIENTS)
async def test_identities_only_leaves_the_agents_other_keys_alone(
    client: str, sshd: Sshd, agent: Path, tmp_path: Path
) -> None:
    key = _new_key(tmp_path / "key")
    _authorize(sshd, key)
    _add_to_agent(key)
    options = {"IdentityFile": "/nowhere", "IdentityAgent": "SSH_AUTH_SOCK"}
    sshd.config.write_text(sshd.client_config(**options))
    with pytest.raises(AuthenticationFailed):
        await _lets_in(sshd, client)
    key.unlink()  # the agent has it, and the .pub file names it
    sshd.config.write_text(sshd.client_config(**{**options, "IdentityFile": str(key)}))
    await _lets_in(sshd, client)


@pytest.fixture
def asking_sshd(tmp_path: Path) -> Iterator[Sshd]:
    """It takes a password: that of a user database which only this server sees."""
    if MISSING["needs root"]() or MISSING["needs tmpfs"]():
        pytest.skip("needs root" if MISSING["needs root"]() else "needs tmpfs")
    if find_sshd() is None:
        pytest.skip("needs sshd")
    lines = Path("/etc/shadow").read_text().splitlines()
    changed = [line for line in lines if not line.startswith("root:")]
    (tmp_path / "shadow").write_text("\n".join([*changed, f"root:{HASHED}:1::::::", ""]))
    rules = "auth required pam_unix.so nodelay\naccount required pam_permit.so\n"
    (tmp_path / "pam").write_text(rules)
    mounts = (
        f"mount --bind '{tmp_path}/shadow' /etc/shadow && "
        f"mount --bind '{tmp_path}/pam' /etc/pam.d/sshd && exec \"$@\""
    )
    with start_sshd(
        tmp_path / "asking",
        wrapper=["unshare", "--mount", "sh", "-c", mounts, "sh"],
        settings={
            "UsePAM": "yes",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "yes",
            "KbdInteractiveAuthentication": "yes",
        },
    ) as started:
        yield started


async def test_a_password_is_asked_for(asking_sshd: Sshd) -> None:
    asking_sshd.config.write_text(asking_sshd.client_config(IdentityFile="/nowhere"))
    _only(asking_sshd, "password")
    asked = Answers("wrong", PASSWORD)
    await _lets_in(asking_sshd, "paramiko", asked)
    assert asked.asked == [f"{asking_sshd.user}@127.0.0.1's password: "] * 2


async def test_the_far_sides_questions_are_asked_after_the_key(asking_sshd: Sshd) -> None:
    """Two factors: a key, then what the far side asks."""
    _only(asking_sshd, "publickey,keyboard-interactive")
    asked = Answers("wrong", PASSWORD)
    await _lets_in(asking_sshd, "paramiko", asked)
    assert len(asked.asked) == 2
    assert "Password: " in asked.asked[0]


async def test_nobody_to_ask_is_a_refusal_that_says_what_was_tried(asking_sshd: Sshd) -> None:
    _only(asking_sshd, "publickey,keyboard-interactive")
    with pytest.raises(AuthenticationFailed, match=r"takes keyboard-interactive"):
        await _lets_in(asking_sshd, "paramiko")
    with pytest.raises(AuthenticationFailed, match=r"Permission denied"):
        await _lets_in(asking_sshd, "openssh")


def _only(sshd: Sshd, methods: str) -> None:
    with (sshd.folder / "sshd_config").open("a") as file:
        file.write(f"AuthenticationMethods {methods}\n")
    sshd.reload()


async def test_a_password_that_is_refused_is_asked_for_three_times(asking_sshd: Sshd) -> None:
    asking_sshd.config.write_text(asking_sshd.client_config(IdentityFile="/nowhere"))
    _only(asking_sshd, "password")
    asked = Answers("a", "b", "c", "d")
    with pytest.raises(AuthenticationFailed, match="tried password"):
        await _lets_in(asking_sshd, "paramiko", asked)
    assert len(asked.asked) == 3


@pytest.mark.parametrize("said", ["yes", "fingerprint"])
@pytest.mark.parametrize("hashed", ["yes", "no"])
async def test_a_host_key_that_is_accepted_is_appended(said: str, hashed: str, sshd: Sshd) -> None:
    line = sshd.known_hosts.read_text()
    before = "# mine\n@broken line\nelsewhere ssh-ed25519 AAAA"  # and no newline at the end
    sshd.known_hosts.write_text(before)
    sshd.config.write_text(sshd.client_config(HashKnownHosts=hashed))
    asked = Answers(hosts=said)
    await _lets_in(sshd, "paramiko", asked)
    after = sshd.known_hosts.read_text()
    assert after.startswith(f"{before}\n")
    assert after.count("\n") == 4
    if hashed == "no":
        assert after.splitlines()[-1] == " ".join(line.split()[:3])
    shown = _run("ssh-keygen", "-l", "-f", str(sshd.host_key)).split()[1]
    assert asked.fingerprints == [f"[127.0.0.1]:{sshd.port} ssh-ed25519 {shown}"]
    await _lets_in(sshd, "openssh")
    await _lets_in(sshd, "paramiko")
    assert sshd.known_hosts.read_text() == after


@pytest.mark.parametrize("said", ["no", "SHA256:nonsense", "y", "", None])
async def test_a_host_key_that_is_not_accepted_is_not_written(said: str | None, sshd: Sshd) -> None:
    sshd.known_hosts.write_text("")
    with pytest.raises(HostKeyUnknown, match="SHA256:"):
        await _lets_in(sshd, "paramiko", Answers(hosts=said))
    assert sshd.known_hosts.read_text() == ""


async def test_strict_checking_does_not_even_ask(sshd: Sshd) -> None:
    sshd.known_hosts.write_text("")
    sshd.config.write_text(sshd.client_config(StrictHostKeyChecking="yes"))
    asked = Answers(hosts="yes")
    with pytest.raises(HostKeyUnknown):
        await _lets_in(sshd, "paramiko", asked)
    assert not asked.fingerprints
