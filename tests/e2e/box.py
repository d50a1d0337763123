"""The installed `devloop`, as a user calls it, with directories of its own.

Owns the processes that it starts: whoever opens a `Box` gets its agent ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.sshd import Sshd

DEVLOOP = str(Path(sys.executable).with_name("devloop"))
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode()

    def assert_error(self, words: str, *, code: int = 255, hint: bool = True) -> None:
        """One `error:` with these words, one `hint:`, no traceback."""
        assert self.code == code, self
        lines = self.stderr.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1, self.stderr
        assert words in self.stderr, self.stderr
        assert len([line for line in lines if line.startswith("hint: ")]) == hint, self.stderr
        assert "Traceback" not in self.stderr, self.stderr


@dataclass(slots=True)
class Box:
    """One user's agent, and the commands that talk to it."""

    base: Path
    env: dict[str, str]
    prefix: tuple[str, ...] = ()  # what runs devloop: `setpriv …`
    sshd: Sshd | None = None  # what leads to the agent; None: the agent is embedded
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        """The agent's."""
        if self.sshd is not None:
            return self.sshd.home / ".local" / "state" / "devloop"
        return Path(self.env["DEVLOOP_STATE_DIR"])

    @property
    def cache_dir(self) -> Path:
        return Path(self.env["DEVLOOP_CACHE_DIR"])

    @property
    def runtime_dir(self) -> Path:
        """The agent's."""
        if self.sshd is not None:
            return self.sshd.runtime_dir
        return Path(self.env["DEVLOOP_RUNTIME_DIR"])

    def project(self, name: str = "project", **files: str) -> Path:
        """A fresh project; `train="…"` makes train.py."""
        directory = Path(tempfile.mkdtemp(prefix="p-", dir=self.base)) / name
        directory.mkdir()
        for stem, text in files.items():
            (directory / f"{stem}.py").write_text(text)
        return directory

    def command(self, *words: str | bytes) -> list[str | bytes]:
        return [*self.prefix, DEVLOOP, *words]

    def run(
        self,
        project: Path,
        *words: str | bytes,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Done:
        done = subprocess.run(
            self.command(*words),
            cwd=project,
            env=self.env | dict(env or {}),
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode(errors="backslashreplace"))

    def exec(self, project: Path, *words: str | bytes, **options: Any) -> Done:
        return self.run(project, "exec", "--", *words, **options)

    def start(self, project: Path, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        options = {"cwd": project, "env": self.env, **options}
        process = subprocess.Popen(self.command(*words), **options)
        self._started.append(process)
        return process

    def agent(self) -> psutil.Process:
        """The agent's process. Raises AssertionError when none runs."""
        facts = self.run(self.base, "doctor").text
        found = re.search(r"agent .*pid (\d+)", facts)
        assert found is not None, facts
        return psutil.Process(int(found[1]))

    def live_runs(self, project: Path) -> str:
        return self.run(project, "ps").text

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        ended = self.run(self.base, "down")
        assert ended.code == 0, ended


@contextlib.contextmanager
def open_box(**env: str) -> Iterator[Box]:
    # A socket's path holds about 100 bytes: pytest's own directories are too long for it.
    base = Path(tempfile.mkdtemp(prefix="dl-")).resolve()
    box = Box(base, clean_environment(base) | env)
    try:
        yield box
    finally:
        try:
            box.close()
        finally:
            shutil.rmtree(base, ignore_errors=True)


@contextlib.contextmanager
def open_ssh_box(shared: Path, **env: str) -> Iterator[Box]:
    """A box whose agent is reached over SSH. `shared`: what the first of all boxes fetches and
    installs, the others find there."""
    from tests.sshd import start_sshd  # most tests need none

    with contextlib.ExitStack() as stack:
        base = Path(tempfile.mkdtemp(prefix="dl-")).resolve()
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        there = {"DEVLOOP_DATA_DIR": str(shared / "data")}
        sshd = stack.enter_context(start_sshd(base / "sshd", environ=there))
        here = {"DEVLOOP_TARGET": sshd.alias, "DEVLOOP_SSH_CONFIG": str(sshd.config)}
        box = Box(base, clean_environment(base) | here | env, sshd=sshd)
        (shared / "wheels").mkdir(parents=True, exist_ok=True)
        box.cache_dir.mkdir()
        (box.cache_dir / "wheels").symlink_to(shared / "wheels")
        stack.callback(box.close)
        yield box


def clean_environment(base: Path) -> dict[str, str]:
    """A user's shell, with devloop's directories below `base`, and a home in which nobody has
    written a .bashrc: what that does, and how long it takes, is no matter of ours."""
    dropped = ("DEVLOOP_", "XDG_", "PYTEST_", "PYTHON", "VIRTUAL_ENV", "CI", "COLUMNS", "LINES")
    home = base / "home"
    home.mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    env |= {f"DEVLOOP_{name.upper()}_DIR": str(base / name) for name in ("state", "cache")}
    return env | {"DEVLOOP_RUNTIME_DIR": str(base / "run"), "TERM": "dumb", "HOME": str(home)}


class Tail:
    """What a process has written so far, read by a thread, to wait for words in it."""

    def __init__(self, stream: Any) -> None:
        self._data = b""
        self._grown = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(stream.fileno(),), daemon=True)
        self._thread.start()

    def _read(self, fd: int) -> None:
        while True:
            try:
                data = os.read(fd, 65536)
            except OSError:
                data = b""
            with self._grown:
                self._data += data
                self._ended = not data
                self._grown.notify_all()
            if not data:
                return

    @property
    def text(self) -> str:
        return self._data.decode(errors="replace")

    def wait_for(self, pattern: str, *, count: int = 1, timeout_s: float = TIMEOUT_S) -> str:
        """Until the pattern was written `count` times; returns the last match."""
        deadline = time.monotonic() + timeout_s
        with self._grown:
            while True:
                found = [match[0] for match in re.finditer(pattern, self.text, re.MULTILINE)]
                if len(found) >= count:
                    return found[count - 1]
                assert not self._ended, f"ended without {pattern!r}:\n{self.text}"
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"no {pattern!r} within {timeout_s} s:\n{self.text}"
                self._grown.wait(left_s)

    def wait_for_end(self, timeout_s: float = TIMEOUT_S) -> str:
        self._thread.join(timeout_s)
        assert self._ended
        return self.text


class Up:
    """A live `devloop up --plain`."""

    def __init__(self, box: Box, project: Path, *words: str, **options: Any) -> None:
        self.project = project
        self.process = box.start(
            project,
            *("up", "--plain", *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        self.out = Tail(self.process.stdout)
        self.talk = Tail(self.process.stderr)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def leave(self) -> str:
        """Ends it, and returns all that it said."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT_S) == 0, self.talk.text
        return self.talk.wait_for_end()


def stops_slowly(stop_s: float) -> str:
    """A program that says "slow runs", and upon SIGINT "stopping", so long before its end.

    The signal is blocked but where it is waited for: one that comes early is not lost.
    """
    return (
        "import signal, time\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "print('slow runs', flush=True)\n"
        "signal.sigwait([signal.SIGINT])\n"
        "print('stopping', flush=True)\n"
        f"time.sleep({stop_s})\n"
    )


def save(path: Path, text: str) -> None:
    """As an editor does: a new file beside it, renamed over it."""
    temporary = path.with_name(f".{path.name}.swp-{time.monotonic_ns()}")
    temporary.write_text(text)
    temporary.replace(path)


def wait_until(condition: Callable[[], object], *, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.01)


def events(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def descendants_with(marker: str) -> list[psutil.Process]:
    """Live processes whose command line holds the marker."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if alive and any(marker in word for word in words):
            found.append(process)
    return found
