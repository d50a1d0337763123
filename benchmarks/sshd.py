"""A throw-away sshd on the loopback interface, with keys of its own. Nobody's settings are read."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .sandbox import Skipped

if TYPE_CHECKING:
    from .sandbox import Sandbox

__all__ = ["start_sshd"]

START_TIMEOUT_S = 10.0


def start_sshd(sandbox: Sandbox) -> list[str]:
    """The words of an `ssh` command that reaches it. Raises Skipped."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if sshd is None or shutil.which("ssh") is None:
        raise Skipped("there is no sshd: apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it does not start without
    folder, port = sandbox.directory("ssh"), _free_port()
    _make_keys(folder)
    config = _write_config(folder, port)
    log = folder / "sshd.log"
    with log.open("wb") as stderr:
        process = sandbox.start([sshd, "-D", "-e", "-f", str(config)], cwd=folder, stderr=stderr)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _accepts(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Skipped(f"sshd does not start: {log.read_text().strip()[-300:]}")
        time.sleep(0.02)
    return _client_command(folder, port)


def _make_keys(folder: Path) -> None:
    for name in ("host", "user"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    host_key = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"bench {host_key}")


def _write_config(folder: Path, port: int) -> Path:
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
    )
    return config


def _client_command(folder: Path, port: int) -> list[str]:
    options = {
        "BatchMode": "yes",
        "HostKeyAlias": "bench",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(folder / "known_hosts"),
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    target = f"{getpass.getuser()}@127.0.0.1"
    return ["ssh", "-F", "none", "-p", str(port), "-i", str(folder / "user"), *words, target]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
