"""What the laptop half knows of the agent's world, as plain values. No protocol, no screen.

Named tuples, since every `exec` pays for these classes: a frozen dataclass costs 1 ms to make.
"""

from __future__ import annotations

import signal
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from devloop.cafs.digest import Digest

    from .images import Container

__all__ = [
    "Applied",
    "AttachEvent",
    "HostFacts",
    "LogRecord",
    "LogStream",
    "OnBusy",
    "Output",
    "Run",
    "RunEnd",
    "RunGpu",
    "RunSpec",
    "RunState",
    "SavedAside",
    "StdinAck",
    "Timings",
    "WorkspaceRef",
]


class RunState(IntEnum):
    """Values as in the protocol."""

    STARTING = 1
    RUNNING = 2
    STOPPING = 3
    ENDED = 4


class LogStream(IntEnum):
    """Values as in the protocol."""

    STDOUT = 1
    STDERR = 2
    DEVLOOP = 3
    GAP = 4


class OnBusy(IntEnum):
    """What happens when others' live runs are pinned to another tree; values as in the protocol."""

    FAIL = 0
    WAIT = 1
    UNDER = 2


class HostFacts(NamedTuple):
    """The box, and the agent on it."""

    agent_version: str
    agent_pid: int
    capabilities: frozenset[str]
    live_runs: int
    hostname: str
    os: str
    machine: str
    python: str
    cpus: int
    memory_bytes: int
    isolation: str
    isolation_hint: str
    state_dir: str
    disk_free_bytes: int


class WorkspaceRef(NamedTuple):
    """A project's workspace on the box."""

    id: str
    name: str
    local_root: bytes = b""  # the project, when the box is this machine
    origin: bytes = b""  # the project, for its user to recognise


class RunSpec(NamedTuple):
    """What to run, and how. Durations in seconds; 0 for `lease_s` means no lease."""

    argv: tuple[bytes, ...]
    env: Mapping[str, bytes] = MappingProxyType({})
    env_is_whole: bool = False
    tty: bool = False
    rows: int = 0
    columns: int = 0
    stdin: bool = False
    warm: bool = True
    preload: tuple[str, ...] = ()
    stop_timeout_s: float = 2.0
    lease_s: float = 0.0
    reason: str = ""
    outputs: tuple[str, ...] = ()
    owner: str = ""
    cwd: bytes = b""  # relative to the workspace
    gpus: str = ""  # a wish, see cafs/gpu_wish.py; empty: CUDA_VISIBLE_DEVICES is left alone
    container: Container | None = None  # None: it sees the box's own files

    def __repr__(self) -> str:
        """Without the environment: it may hold secrets."""
        return f"RunSpec({self.argv!r}, reason={self.reason!r})"


class RunEnd(NamedTuple):
    """How a run ended. `start_failed`: the command never ran."""

    exit_code: int
    signal: int
    reason: str
    peak_memory_bytes: int
    user_s: float
    system_s: float
    wall_s: float
    start_failed: bool
    detail: str

    @property
    def status(self) -> int:
        """What a shell would say: the exit code, or 128 + the signal's number."""
        return 128 + self.signal if self.signal else self.exit_code

    @property
    def words(self) -> str:
        """For people: "exit 1", "SIGKILL"."""
        if not self.signal:
            return f"exit {self.exit_code}"
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return f"signal {self.signal}"

    @property
    def is_out_of_memory(self) -> bool:
        """By the kernel's own word, which is `detail`."""
        return self.reason.endswith("(out of memory)")

    @property
    def was_taken_down(self) -> bool:
        """With its container or its agent: neither the command nor anybody else ended it."""
        return self.reason.startswith(("lost: ", "its container has ended"))

    @property
    def cause(self) -> str:
        """What ended it, where that was not the command itself: "", "stopped", "lost: …"."""
        if self.is_out_of_memory:
            return "out of memory"
        by_itself = ("", f"exited {self.exit_code}", f"killed by {self.words}")
        return "" if self.reason in by_itself else self.reason


class RunGpu(NamedTuple):
    """A GPU that was picked for a run. `label`: as nvidia-smi numbers it, "0" or "0:1"."""

    uuid: str
    label: str
    name: str


class Run(NamedTuple):
    """A run as the agent last described it. Times are Unix nanoseconds, 0 = not yet."""

    number: int
    workspace_id: str
    workspace_name: str
    tree: Digest
    argv: tuple[bytes, ...]
    reason: str
    outputs: tuple[str, ...]
    tty: bool
    state: RunState
    started_ns: int
    first_output_ns: int
    ended_ns: int
    end: RunEnd
    start_kind: str
    start_note: str
    pid: int
    is_shell: bool = False  # of `devloop shell`: not pinned to a tree
    owner: str = ""  # the client session that asked for it
    gpus: tuple[RunGpu, ...] = ()

    @property
    def gpu_words(self) -> str:
        """For people: "", "GPU 0", "GPUs 0, 1"."""
        labels = ", ".join(gpu.label for gpu in self.gpus)
        return f"GPU{'s' * (len(self.gpus) > 1)} {labels}" if labels else ""

    @property
    def live(self) -> bool:
        return self.state is not RunState.ENDED


class SavedAside(NamedTuple):
    """A file that had changed on the box, and where it is kept there."""

    path: bytes
    kept_at: bytes


class Timings(NamedTuple):
    """The agent's share of a cycle, in nanoseconds."""

    stage_ns: int
    stop_ns: int
    apply_ns: int
    start_ns: int


class Applied(NamedTuple):
    """What came of a transition.

    With `missing`, `busy` or `gpus_busy`, nothing was changed on the box.
    """

    missing: tuple[Digest, ...]
    busy: tuple[int, ...]
    files_written: int
    files_deleted: int
    bytes_written: int
    saved_aside: tuple[SavedAside, ...]
    run: Run | None
    timings: Timings
    gpus_busy: tuple[str, ...] = ()  # who has the GPUs that the run could have, a line each

    @property
    def gpus_awaited(self) -> str:
        """For people."""
        return "\n  ".join(["waiting for GPUs that are in use:", *self.gpus_busy])


class LogRecord(NamedTuple):
    """A piece of output as it was read. For a GAP, what was dropped there."""

    run: int
    number: int
    time_ns: int
    stream: LogStream
    data: bytes
    dropped_records: int = 0
    dropped_bytes: int = 0


class StdinAck(NamedTuple):
    """How much of stdin the agent has taken; `closed`: the program reads no more."""

    received_bytes: int
    closed: bool
    held: bool = False  # by another client: what this one sends is dropped


AttachEvent: TypeAlias = Run | LogRecord | StdinAck


class Output(NamedTuple):
    """A file that runs made in the workspace."""

    path: bytes
    size_bytes: int
    mtime_ns: int
    mode: int
