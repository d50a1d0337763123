"""Starts this user's agent for a bridge, once however many bridges ask; then becomes the bridge.

    python -I -m devloop.remote_agent.bridge_start start|again [WORDS OF `serve` …]

The agent belongs to no SSH session: it has a session of its own, and its socket does not lie in
$XDG_RUNTIME_DIR, which goes with the user's last session.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs import dirs
from devloop.cafs.errors import DevloopError

from . import bridge

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main"]

START_TIMEOUT_S = 30.0
ENDING_TIMEOUT_S = 15.0
POLL_S = 0.01


class AgentDidNotStart(DevloopError):
    """The agent could not be started; the message holds its last words."""


def main(words: list[str]) -> int:
    mode, *serve_words = words
    try:
        # Also the agent's own; bridges of later sessions find it by the lock of its state.
        os.environ.setdefault("DEVLOOP_RUNTIME_DIR", str(_runtime_dir()))
        dirs.ensure_private(dirs.runtime_dir())
        with _starting():
            if not _is_there():
                if mode == "again" and bridge.has_ended():  # it was on its way out
                    bridge.say("ended")
                    return 0
                _start(serve_words)
    except DevloopError as error:
        bridge.say("error " + json.dumps({"message": str(error), "hint": error.hint}))
        return 1
    except OSError as error:
        bridge.say("error " + json.dumps({"message": f"cannot start: {error}", "hint": ""}))
        return 1
    bridge.main(["find"])
    return 0


def _runtime_dir() -> Path:
    with_session = os.environ.pop("XDG_RUNTIME_DIR", None)
    try:
        return dirs.runtime_dir()
    finally:
        if with_session is not None:
            os.environ["XDG_RUNTIME_DIR"] = with_session


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Two clients must not start two agents; clients on this machine take the same lock."""
    with (dirs.runtime_dir() / "start.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_there() -> bool:
    """Waits for one that is on its way out: until then its locks keep another one from starting."""
    deadline = time.monotonic() + ENDING_TIMEOUT_S
    lock = dirs.socket_path().with_suffix(".lock")
    while True:
        found = bridge.find_agent()
        if found is not None:
            found[0].close()
            return True
        if not _is_locked(lock) or time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _start(words: list[str]) -> None:
    ready_read, ready_write = os.pipe()
    errors_read, errors_write = os.pipe()
    in_use = _mark_in_use()
    command = [sys.executable, "-I", "-m", "devloop.remote_agent", "serve", *words]
    process = subprocess.Popen(
        [*command, "--ready-fd", str(ready_write)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors_write,
        pass_fds=[ready_write, *in_use],
        start_new_session=True,
        cwd="/",
    )
    for fd in (ready_write, errors_write, *in_use):
        os.close(fd)
    with os.fdopen(ready_read, "rb") as ready, os.fdopen(errors_read, "rb") as errors:
        readable, _, _ = select.select([ready], [], [], START_TIMEOUT_S)
        if not readable:
            process.kill()
            raise AgentDidNotStart(f"the agent did not answer within {START_TIMEOUT_S:g} s")
        if not ready.readline():
            process.wait()
            raise _did_not_start(errors.read().decode(errors="replace"))


def _mark_in_use() -> list[int]:
    """A lock on the folder that this runs from, for the agent to inherit and to hold by living.

    An installation that is in use is not removed; one that pip made has no such file.
    """
    try:
        fd = os.open(Path(sys.prefix) / "in-use", os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return []
    return [fd]


def _did_not_start(words: str) -> AgentDidNotStart:
    """From the agent's `error: …` and `hint: …` lines, or the end of its traceback."""
    lines = [line for line in words.splitlines() if line.strip()]
    said = dict(line.split(": ", 1) for line in lines if line.startswith(("error: ", "hint: ")))
    last = f": {lines[-1]}" if lines else ""
    return AgentDidNotStart(
        said.get("error", f"the agent did not start{last}"), hint=said.get("hint", "")
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
