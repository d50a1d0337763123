"""Real OpenSSH servers on loopback ports, with keys, configurations and homes of their own.

    with start_sshd(folder) as box:
        subprocess.run([*box.ssh(), "true"])

Nothing of the machine's own SSH settings is read or changed, on either side. It serves the user
who started it; as root, `as_user` starts it for another one.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Sshd", "SshdDoesNotStart", "find_sshd", "free_port", "start_sshd"]

START_TIMEOUT_S = 10.0
END_TIMEOUT_S = 5.0


class SshdDoesNotStart(Exception):
    """This machine has no sshd, or it said why it does not run."""


@dataclass(frozen=True, slots=True)
class Sshd:
    """One server. `alias` is its name in `config`, a client's configuration that is complete."""

    folder: Path
    alias: str
    port: int
    user: str
    home: Path
    runtime_dir: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def user_key(self) -> Path:
        return self.folder / "user"

    @property
    def host_key(self) -> Path:
        return self.folder / "host"

    @property
    def target(self) -> str:
        """As `user@host:port`, for clients that need no alias."""
        return f"{self.user}@127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "sshd.log").read_text(errors="replace")

    def ssh(self, *options: str) -> list[str]:
        """The words of an `ssh` command that reaches it; the remote command may follow."""
        return ["ssh", "-F", str(self.config), *options, self.alias]

    def client_config(self, **changed: str) -> str:
        """The Host entry of `config`, with options changed or added; "" leaves one out."""
        options = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": self.user,
            "IdentityFile": str(self.user_key),
            "IdentityAgent": "none",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            **changed,
        }
        lines = [f"    {name} {value}\n" for name, value in options.items() if value]
        return "".join([f"Host {self.alias}\n", *lines])

    def connections(self) -> list[int]:
        """The processes that serve one connection each."""
        return _descendants(self.process.pid)

    def drop_connections(self) -> None:
        """As a crash of the far side: every connection ends, the server goes on listening.

        What they have started is left alone: an agent is to outlive the connection.
        """
        self.signal_connections(signal.SIGKILL)

    def signal_connections(self, number: int) -> None:
        """Stopped, they are links that do not answer."""
        for pid in self.connections():
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    os.kill(pid, number)

    def reload(self) -> None:
        """It reads its configuration and keys again; returns when it listens."""
        before = self.log.count("Server listening")
        os.kill(self.process.pid, signal.SIGHUP)
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.log.count("Server listening") == before:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SshdDoesNotStart(f"exit status {self.process.poll()}: {self.log[-300:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Idempotent; ends the connections too."""
        left = self.connections()
        for pid in (self.process.pid, *left):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGTERM)
        try:
            self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def start_sshd(
    folder: Path,
    *,
    alias: str = "box",
    settings: Mapping[str, str | Sequence[str]] = {},
    environ: Mapping[str, str] = {},
    as_user: str | None = None,
    shell: str | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[Sshd]:
    """`folder` is made. Its commands have a HOME of their own, `home` in it, empty at first.

    `settings`: lines of sshd_config that replace ours, a list for several lines of a name.
    `environ`: what the commands get. `as_user`: needs root. `shell`: runs what the client asks
    for, as if it were the login shell. `wrapper`: words before `sshd`, such as `unshare --mount`.
    Raises SshdDoesNotStart.
    """
    sshd = find_sshd()
    if sshd is None:
        raise SshdDoesNotStart("there is no sshd: apt-get install openssh-server")
    user = as_user or pwd.getpwuid(os.geteuid()).pw_name
    home, port = folder / "home", free_port()
    home.mkdir(parents=True)
    _make_keys(folder)
    # A socket's path holds about 100 bytes.
    runtime_dir = Path(tempfile.mkdtemp(prefix="dl-", dir="/tmp"))
    env = {"HOME": str(home), "DEVLOOP_RUNTIME_DIR": str(runtime_dir), **environ}
    config = _write_config(folder, port, env, shell, settings)
    if as_user is not None:
        _give_to(as_user, folder, runtime_dir)
        wrapper = [*wrapper, "setpriv", f"--reuid={as_user}", "--init-groups", f"--regid={as_user}"]
    if os.geteuid() == 0 and as_user is None:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it does not start without
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [*wrapper, sshd, "-D", "-e", "-f", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd="/",
            process_group=0,
        )
    box = Sshd(folder, alias, port, user, home, runtime_dir, process)
    box.known_hosts.write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    box.config.write_text(box.client_config())
    try:
        _wait_until_it_listens(box)
        yield box
    finally:
        box.stop()
        shutil.rmtree(runtime_dir, ignore_errors=True)


def find_sshd() -> str | None:
    """None when this machine lacks the server, or the client."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return found if shutil.which("ssh") else None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _make_keys(folder: Path) -> None:
    for name in ("host", "user"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name]
        subprocess.run([*keygen, "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")


def _write_config(
    folder: Path,
    port: int,
    env: Mapping[str, str],
    shell: str | None,
    settings: Mapping[str, str | Sequence[str]],
) -> Path:
    lines: dict[str, str | Sequence[str]] = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": str(folder / "host"),
        "AuthorizedKeysFile": str(folder / "authorized_keys"),
        "PidFile": "none",
        # The keys lie in a temporary directory, whose parents anybody may write to.
        "StrictModes": "no",
        "UsePAM": "no",
        "UseDNS": "no",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PrintMotd": "no",
        "MaxStartups": "100",
        # One line: a second one is not read.
        "SetEnv": " ".join(shlex.quote(f"{name}={value}") for name, value in env.items()),
    }
    if shell is not None:
        lines["ForceCommand"] = f'exec {shell} -c "$SSH_ORIGINAL_COMMAND"'
    lines.update(settings)
    config = folder / "sshd_config"
    with config.open("w") as file:
        for name, values in lines.items():
            for value in [values] if isinstance(values, str) else values:
                file.write(f"{name} {value}\n")
    return config


def _give_to(user: str, *folders: Path) -> None:
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, user)


def _wait_until_it_listens(box: Sshd) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _greets(box.port):
        if box.process.poll() is not None or time.monotonic() > deadline:
            raise SshdDoesNotStart(f"sshd does not start: {box.log.strip()[-300:]}")
        time.sleep(0.01)


def _greets(port: int) -> bool:
    """It listens before it handles signals: one that arrives between would end it."""
    with contextlib.suppress(OSError), socket.socket() as client:
        client.settimeout(START_TIMEOUT_S)
        client.connect(("127.0.0.1", port))
        return client.recv(4) == b"SSH-"
    return False


def _descendants(pid: int) -> list[int]:
    found = []
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    for child in map(int, listed.stdout.split()):
        found += [child, *_descendants(child)]
    return found
