"""Where a benchmark works: one temporary directory, and the agents and processes started for it.

Owns their end: whatever was started is ended, by pid, when the `with` block is left in any way.
Directories go only then: creating files is slow on ext4 for a while after many were deleted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .processes import command_line, pids_with

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import IO

__all__ = ["Agent", "Broken", "Sandbox", "Skipped"]

END_TIMEOUT_S = 10.0


class Broken(Exception):
    """The benchmark itself could not be carried out."""


class Skipped(Exception):
    """This machine lacks what the benchmark needs; the message names it."""


class Agent:
    """devloop with directories of its own: its commands start and use an agent of its own."""

    def __init__(self, directory: Path, runtime_dir: Path, base_env: Mapping[str, str]) -> None:
        runtime_dir.mkdir(mode=0o700)  # what others may look into, devloop refuses
        self.env = {
            **base_env,
            "DEVLOOP_STATE_DIR": str(directory / "state"),
            "DEVLOOP_CACHE_DIR": str(directory / "cache"),
            "DEVLOOP_RUNTIME_DIR": str(runtime_dir),
        }
        self.command = str(Path(sys.executable).with_name("devloop"))
        self.log = directory / "state" / "agent.log"

    def exec(
        self, project: Path, *argv: str, stdout: IO[bytes] | int = subprocess.DEVNULL
    ) -> float:
        """Seconds that `devloop exec -- ARGV` took. Raises Broken."""
        return timed(
            [self.command, "exec", "-q", "--", *argv], cwd=project, env=self.env, stdout=stdout
        )

    def down(self) -> None:
        """Idempotent."""
        subprocess.run([self.command, "down"], env=self.env, capture_output=True, check=False)

    def pid(self) -> int:
        """Of the agent's own process."""
        pids = pids_with(self.env["DEVLOOP_RUNTIME_DIR"])
        serving = [pid for pid in pids if "devloop.remote_agent serve" in command_line(pid)]
        if not serving:
            raise Broken("the agent is gone")
        return min(serving)


class Sandbox:
    """Use as a context manager."""

    def __init__(self, path: str) -> None:
        """`path` is what programs that are measured find their commands with."""
        self.root = Path(tempfile.mkdtemp(prefix="devloop-bench-")).resolve()
        ours = ("DEVLOOP_", "VIRTUAL_ENV", "CONDA_", "PYTHON", "XDG_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        self.env = {**inherited, "PATH": path, "BENCH_DIR": str(self.root)}
        # The last that came goes first: a box outlives what is connected to it.
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.close()
        self._end_what_is_left()
        shutil.rmtree(self.root, ignore_errors=True)

    def directory(self, name: str) -> Path:
        """A new directory."""
        path = self.root / name
        path.mkdir(parents=True)
        return path

    def agent(self, name: str, **env: str) -> Agent:
        """A new one, without a running agent; `name` must be short: sockets' paths are."""
        agent = Agent(self.directory(name), self.root / f"r-{name}", {**self.env, **env})
        self._ends.callback(agent.down)
        return agent

    def at_the_end(self, action: Callable[[], object]) -> None:
        """Before what is there already ends, and after what comes later."""
        self._ends.callback(action)

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: IO[bytes] | int = subprocess.DEVNULL,
        stderr: IO[bytes] | int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """In a process group of its own; ended with the sandbox."""
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env if env is not None else self.env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            process_group=0,
        )
        self._ends.callback(end, process)
        return process

    def _end_what_is_left(self) -> None:
        """Nothing should be: say so, and end it."""
        deadline = time.monotonic() + END_TIMEOUT_S
        while (left := pids_with(str(self.root))) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            sys.stderr.write(f"bench: still there, killed: {pid} {command_line(pid)}\n")
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to its group, then SIGKILL; returns when it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(END_TIMEOUT_S)
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue


def timed(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdout: IO[bytes] | int = subprocess.DEVNULL,
) -> float:
    """Seconds from before its start to after its end. Raises Broken unless it exits with 0."""
    began = time.perf_counter()
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )
    took = time.perf_counter() - began
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()[-800:]
        raise Broken(f"{' '.join(argv)} exited with {done.returncode}: {words}")
    return took
