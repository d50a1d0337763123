"""Ways to a box: jump hosts, proxies, shared connections; and what is said where there is none."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.sshd import free_port, start_sshd

import devloop.sync.ssh.connect as connect_module
from devloop.sync.ssh.connect import SshOptions, connect
from devloop.sync.ssh.errors import (
    AuthenticationFailed,
    ClosedEarly,
    CommandTimedOut,
    ConfigInvalid,
    ConnectFailed,
    ConnectTimedOut,
    HostKeyChanged,
    HostKeyUnknown,
    HostUnknown,
    PortRefused,
    SshError,
)
from devloop.sync.ssh.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.sshd import Sshd

pytestmark = pytest.mark.usefixtures("sshd")
CLIENTS = ["openssh", "paramiko"]
ROOT = Path(__file__).parents[3]


async def _lets_in(config: Path, client: str, alias: str = "box", timeout_s: float = 10.0) -> None:
    link = await connect(alias, SshOptions(client, config, timeout_s))
    try:
        assert (await link.run("echo in")).stdout == b"in\n"
    finally:
        await link.close()


@pytest.fixture
def jump(tmp_path: Path) -> Iterator[Sshd]:
    with start_sshd(tmp_path / "jump", alias="jump") as started:
        yield started


@pytest.fixture
def jump2(tmp_path: Path) -> Iterator[Sshd]:
    with start_sshd(tmp_path / "jump2", alias="jump2") as started:
        yield started


def _all_in(folder: Path, *entries: str) -> Path:
    config = folder / "all"
    config.write_text("".join(entries))
    return config


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_chain_of_jump_hosts_leads_to_the_box(
    client: str, sshd: Sshd, jump: Sshd, jump2: Sshd, tmp_path: Path
) -> None:
    config = _all_in(
        tmp_path,
        sshd.client_config(ProxyJump="jump,jump2"),
        jump.client_config(),
        jump2.client_config(),
    )
    await _lets_in(config, client)
    for hop in (jump, jump2):
        assert "Accepted publickey" in hop.log


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_jump_host_may_need_another_one(
    client: str, sshd: Sshd, jump: Sshd, jump2: Sshd, tmp_path: Path
) -> None:
    config = _all_in(
        tmp_path,
        sshd.client_config(ProxyJump="jump"),
        jump.client_config(ProxyJump="jump2"),
        jump2.client_config(),
    )
    await _lets_in(config, client)
    assert "Accepted publickey" in jump2.log


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_jump_hosts_key_is_checked_too(
    client: str, sshd: Sshd, jump: Sshd, tmp_path: Path
) -> None:
    jump.known_hosts.write_text(f"[127.0.0.1]:{jump.port} {(sshd.folder / 'host.pub').read_text()}")
    config = _all_in(tmp_path, sshd.client_config(ProxyJump="jump"), jump.client_config())
    with pytest.raises(HostKeyChanged, match=r"jump|has changed"):
        await _lets_in(config, client)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_proxy_command_carries_the_connection(
    client: str, sshd: Sshd, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.py"
    pipe.write_text(PIPE)
    command = f"{sys.executable} {pipe} %h %p"
    sshd.config.write_text(sshd.client_config(ProxyCommand=command))
    await _lets_in(sshd.config, client)
    children = psutil.Process().children(recursive=True)
    living = [p for p in children if p.status() != psutil.STATUS_ZOMBIE]
    assert not [p for p in living if str(pipe) in p.cmdline()]


PIPE = """
import os, socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536): sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := sock.recv(65536): os.write(1, data)
"""


async def _failure(config: Path, client: str, alias: str = "box") -> SshError:
    with pytest.raises(SshError) as caught:
        await _lets_in(config, client, alias, timeout_s=1.0)
    assert alias in str(caught.value)
    assert caught.value.hint
    assert "HOST" not in caught.value.hint or "Host entries" in caught.value.hint
    return caught.value


@pytest.mark.parametrize("client", CLIENTS)
async def test_each_cause_has_an_error_of_its_own(client: str, sshd: Sshd) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    rude = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_hang_up, args=(rude,), daemon=True).start()
    causes: list[tuple[type[SshError], dict[str, str]]] = [
        (HostUnknown, {"HostName": "no-such-host.invalid"}),
        (PortRefused, {"Port": str(free_port())}),
        (ConnectTimedOut, {"Port": str(silent.getsockname()[1])}),
        (ClosedEarly, {"Port": str(rude.getsockname()[1])}),
        (AuthenticationFailed, {"IdentityFile": "/nowhere"}),
        (HostKeyUnknown, {"UserKnownHostsFile": "/dev/null"}),
        (ConnectFailed, {"ProxyCommand": "false"}),
        (ConfigInvalid, {"NoSuchOption": "yes"}),
    ]
    for expected, options in causes:
        sshd.config.write_text(sshd.client_config(**options))
        error = await _failure(sshd.config, client)
        assert isinstance(error, expected), (options, error)
    silent.close()
    rude.close()


def _hang_up(listener: socket.socket) -> None:
    with listener:
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_connection_that_is_given_up_leaves_nothing(client: str, sshd: Sshd) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    sshd.config.write_text(sshd.client_config(Port=str(silent.getsockname()[1])))
    connecting = asyncio.create_task(connect("box", SshOptions(client, sshd.config)))
    accepted = await asyncio.to_thread(silent.accept)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert await asyncio.to_thread(_reads_to_the_end, accepted[0])
    accepted[0].close()
    silent.close()


def _reads_to_the_end(sock: socket.socket) -> bool:
    sock.settimeout(10)
    while sock.recv(4096):
        pass
    return True


async def test_the_users_own_master_is_used_and_left_alone(sshd: Sshd, tmp_path: Path) -> None:
    path = Path(os.environ["DEVLOOP_RUNTIME_DIR"]) / "users"
    options = {"ControlPath": str(path), "ControlMaster": "auto", "ControlPersist": "60"}
    sshd.config.write_text(sshd.client_config(**options))
    await _lets_in(sshd.config, "auto")
    assert sshd.log.count("Accepted publickey") == 1
    await _lets_in(sshd.config, "auto")
    _run(*sshd.ssh(), "true")
    assert sshd.log.count("Accepted publickey") == 1
    _run(*sshd.ssh("-O", "exit"))


async def test_a_connection_can_stay_for_the_next_command(sshd: Sshd) -> None:
    options = SshOptions("auto", sshd.config, persist_s=30)
    for _ in range(3):
        link = await connect("box", options)
        assert (await link.run("echo in")).stdout == b"in\n"
        await link.close()
    assert sshd.log.count("Accepted publickey") == 1
    sshd.drop_connections()
    link = await connect("box", options)
    assert (await link.run("echo in")).stdout == b"in\n"
    await link.close()
    assert sshd.log.count("Accepted publickey") == 2


# -- again, after a connection was lost


@pytest.fixture
def master(sshd: Sshd) -> Iterator[Sshd]:
    """A box that the user has a ControlMaster to."""
    path = Path(os.environ["DEVLOOP_RUNTIME_DIR"]) / "users"
    options = {"ControlPath": str(path), "ControlMaster": "auto", "ControlPersist": "60"}
    sshd.config.write_text(sshd.client_config(**options))
    _run(*sshd.ssh(), "true")
    yield sshd
    sshd.signal_connections(signal.SIGCONT)
    _run(*sshd.ssh("-O", "exit"))


async def _says(sshd: Sshd, word: str) -> bytes:
    link = await connect("box", SshOptions("openssh", sshd.config), again=True)
    try:
        return (await link.run(f"echo {word}")).stdout
    finally:
        await link.close()


async def test_after_a_loss_the_users_dead_master_is_left_aside(master: Sshd) -> None:
    master.signal_connections(signal.SIGSTOP)
    async with asyncio.timeout(10):
        assert await _says(master, "in") == b"in\n"
    assert master.log.count("Accepted publickey") == 2


async def test_after_a_loss_the_users_master_serves_where_the_user_is_needed(master: Sshd) -> None:
    (master.folder / "authorized_keys").write_text("")
    assert await _says(master, "in") == b"in\n"
    assert master.log.count("Accepted publickey") == 1


async def test_a_dead_master_is_given_up_in_time_where_the_user_is_needed(
    master: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "ANSWER_TIMEOUT_S", 0.5)
    (master.folder / "authorized_keys").write_text("")
    master.signal_connections(signal.SIGSTOP)
    async with asyncio.timeout(10):
        with pytest.raises(CommandTimedOut):
            await _says(master, "in")


# -- a runtime directory whose path is too long for a socket


@pytest.mark.parametrize("persist_s", [0, 30])
async def test_a_long_runtime_directory_is_no_hindrance_and_leaves_nothing_elsewhere(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, persist_s: int
) -> None:
    monkeypatch.setenv("DEVLOOP_RUNTIME_DIR", str(tmp_path / ("long" * 30)))
    monkeypatch.setattr(tempfile, "mkdtemp", made := Made(tempfile.mkdtemp))
    link = await connect("box", SshOptions("openssh", sshd.config, persist_s=persist_s))
    try:
        assert (await link.run("echo in")).stdout == b"in\n"
        with Gateway() as gateway, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(gateway.path))
            (await gateway.accept()).close()
    finally:
        await link.close()
    assert len(made.folders) == 2
    assert not [folder for folder in made.folders if folder.exists()]


class Made:
    """Makes folders as before, and knows them."""

    def __init__(self, make: Callable[..., str]) -> None:
        self.folders: list[Path] = []
        self._make = make

    def __call__(self, *args: object, **options: object) -> str:
        made = self._make(*args, **options)
        self.folders.append(Path(made))
        return made


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


CLIENT = """
import asyncio, sys
from pathlib import Path
from devloop.sync.ssh.connect import SshOptions, connect

async def main():
    link = await connect("box", SshOptions("openssh", Path(sys.argv[1])))
    stream = await link.open("cat")
    print("up", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_client_leaves_no_connection(sshd: Sshd) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(sshd.config)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    assert sshd.connections()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    async with asyncio.timeout(10):
        while sshd.connections():
            await asyncio.sleep(0.02)


ASKS = """
import asyncio, signal, sys
from pathlib import Path
from devloop.sync.ssh.connect import SshOptions, connect
from tests.sync.ssh.prompters import Answers

class Terminal(Answers):
    owns_terminal = True

async def main():
    link = await connect("box", SshOptions("openssh", Path(sys.argv[1])), Terminal())
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    print((await link.run("echo in")).stdout, flush=True)
    await interrupted.wait()
    print((await link.run("echo still")).stdout, flush=True)
    await link.close()

asyncio.run(main())
"""


def test_in_a_terminal_ssh_itself_asks(sshd: Sshd, tmp_path: Path) -> None:
    """An unknown host key, then the passphrase of a key."""
    key = tmp_path / "key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "sesame", "-f", str(key))
    (sshd.folder / "authorized_keys").write_text(key.with_name("key.pub").read_text())
    sshd.known_hosts.write_text("")
    sshd.config.write_text(sshd.client_config(IdentityFile=str(key)))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", ASKS, str(sshd.config)])
    try:
        _read_until(terminal, b"(yes/no/[fingerprint])?")
        os.write(terminal, b"yes\n")
        _read_until(terminal, b"Enter passphrase")
        os.write(terminal, b"sesame\n")
        _read_until(terminal, b"b'in\\n'")
        os.write(terminal, b"\x03")  # meant for a run: the connection stays
        _read_until(terminal, b"b'still\\n'")
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        os.close(terminal)
    assert sshd.known_hosts.read_text()


def _read_until(terminal: int, words: bytes) -> None:
    read = b""
    while words not in read:
        assert select.select([terminal], [], [], 20)[0], read
        read += os.read(terminal, 4096)
