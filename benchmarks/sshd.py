"""A throw-away sshd on the loopback interface, with keys of its own. Nobody's settings are read.

Owns the server, the ways to it (plain, over a kept connection, through a wire of our own), and what
is left of it at the end.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .processes import pids_below
from .sandbox import Broken, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable

    from .sandbox import Sandbox

__all__ = [
    "ALIAS",
    "Sshd",
    "Way",
    "accepts",
    "free_port",
    "start_box",
    "start_sshd",
    "start_wire",
    "wait_until",
]

START_TIMEOUT_S = 10.0
ALIAS = "box"
REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Way:
    """A client's configuration, complete: the server is ALIAS in it."""

    config: Path
    counts: Path | None = None  # of a wire of ours: bytes to the server, bytes back

    def words(self, *options: str) -> list[str]:
        """Of an `ssh` command; the remote command may follow."""
        return ["ssh", "-F", str(self.config), *options, ALIAS]

    def env(self) -> dict[str, str]:
        """For devloop, to go this way."""
        return {"DEVLOOP_TARGET": ALIAS, "DEVLOOP_SSH_CONFIG": str(self.config)}

    def carried_bytes(self) -> int:
        """So far, in both directions, as encrypted."""
        assert self.counts is not None, "nobody counts on this way"
        return sum(map(int, self.counts.read_text().split()))


@dataclass(frozen=True, slots=True)
class Sshd:
    """`home` is that of its commands. Everything ends with the sandbox."""

    sandbox: Sandbox
    folder: Path
    home: Path
    port: int

    def way(self) -> Way:
        return Way(self._config("plain", self.port))

    def shared_way(self) -> Way:
        """Over one connection that is open all the time, as with ControlMaster."""
        # A socket's path holds about 100 bytes.
        path = self.sandbox.root / "cm"
        way = Way(self._config("shared", self.port, ControlPath=str(path)))
        self.sandbox.start(way.words("-M", "-N"), cwd=self.folder)
        wait_until(path.exists, "the ControlMaster does not start")
        return way

    def wired_way(self, name: str, delay_s: float, rate: float = 0.0) -> Way:
        """Through a process of ours, which delays each byte in each direction, and counts them."""
        port, counts = start_wire(self.sandbox, name, self.port, delay_s, rate)
        return Way(self._config(name, port), counts)

    def _config(self, name: str, port: int, **more: str) -> Path:
        options = {
            "HostName": "127.0.0.1",
            "Port": str(port),
            "User": getpass.getuser(),
            "HostKeyAlias": "bench",
            "IdentityFile": str(self.folder / "user"),
            "IdentityAgent": "none",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "BatchMode": "yes",
            **more,
        }
        config = self.folder / f"{name}.config"
        lines = [f"    {key} {value}\n" for key, value in options.items()]
        config.write_text("".join([f"Host {ALIAS}\n", *lines]))
        return config


def start_wire(
    sandbox: Sandbox, name: str, target_port: int, delay_s: float, rate: float
) -> tuple[int, Path]:
    """Its port, and where it counts what it carries. See `wire`."""
    folder = sandbox.directory(f"wire-{name}")
    port, counts = free_port(), folder / "counts"
    numbers = (str(port), str(target_port), str(delay_s), str(counts), str(rate))
    env = {**sandbox.env, "PYTHONPATH": str(REPOSITORY)}
    sandbox.start([sys.executable, "-m", "benchmarks.wire", *numbers], cwd=folder, env=env)
    wait_until(lambda: accepts(port), "the wire does not start")
    return port, counts


def start_sshd(sandbox: Sandbox) -> list[str]:
    """The words of an `ssh` command that reaches a new one. Raises Skipped."""
    return start_box(sandbox).way().words()


def start_box(sandbox: Sandbox) -> Sshd:
    """With a home of its own for its commands, and the sandbox's PATH. Raises Skipped."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if sshd is None or shutil.which("ssh") is None:
        raise Skipped("there is no sshd: apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it does not start without
    folder, home, port = sandbox.directory("ssh"), sandbox.directory("home"), free_port()
    _make_keys(folder)
    config = _write_config(sandbox, folder, home, port)
    log = folder / "sshd.log"
    with log.open("wb") as stderr:
        process = sandbox.start([sshd, "-D", "-e", "-f", str(config)], cwd=folder, stderr=stderr)
    sandbox.at_the_end(lambda: _end_connections(process.pid))

    def listens() -> bool:
        if process.poll() is not None:
            raise Skipped(f"sshd does not start: {log.read_text().strip()[-300:]}")
        return accepts(port)

    wait_until(listens, "sshd does not listen")
    return Sshd(sandbox, folder, home, port)


def _end_connections(pid: int) -> None:
    """Those that a client keeps for later are nobody's any more."""
    for connection in pids_below(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(connection, signal.SIGTERM)


def _make_keys(folder: Path) -> None:
    for name in ("host", "user"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    host_key = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"bench {host_key}")


def _write_config(sandbox: Sandbox, folder: Path, home: Path, port: int) -> Path:
    runtime_dir = sandbox.root / "r-box"
    runtime_dir.mkdir(mode=0o700)
    environ = {
        "HOME": str(home),
        "PATH": sandbox.env["PATH"],
        "BENCH_DIR": str(sandbox.root),
        "DEVLOOP_RUNTIME_DIR": str(runtime_dir),
    }
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\n"
        f"HostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\n"
        f"PidFile {folder / 'sshd.pid'}\n"
        # The keys lie in a temporary directory, whose parents anybody may write to.
        "StrictModes no\n"
        "UsePAM no\n"
        "PermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\n"
        # One line: a second one is not read.
        f"SetEnv {' '.join(shlex.quote(f'{key}={value}') for key, value in environ.items())}\n"
    )
    return config


def wait_until(condition: Callable[[], bool], words: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise Broken(words)
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
