"""A project for the screen, without an agent: a loop that tells what a test wants told."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from devloop.cafs.digest import Digest
from devloop.cafs.errors import DevloopError
from devloop.sync.events import Connected, Cycle, FirstOutput, RunFinished, RunStarted
from devloop.sync.metrics import GpuSample, GpuState, HostSample, Sample, SampleProcess, Warmth
from devloop.sync.model import (
    HostFacts,
    LogRecord,
    LogStream,
    Run,
    RunEnd,
    RunGpu,
    RunState,
    WorkspaceRef,
)
from devloop.sync.progress import Progress
from devloop.tui.ground import Found, Opened, Screenful

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

START_NS = 1_700_000_000 * 10**9
GB = 10**9
CYCLE = Cycle(0.0021, 0.0004, 0.0, 0.0031, 0.0008, 0.0042, 0.0011, 0.0037)


class FakeLoop:
    """What a front end sees of a loop. `calls`: what it was asked for."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.calls: list[str] = []
        self.live_run: int | None = None
        self.ended_by: DevloopError | None = None
        self._left = asyncio.Event()

    def rerun(self, reason: str = "rerun") -> None:
        self.calls.append(reason)

    def restart_cold(self) -> None:
        self.calls.append("restart cold")

    def stop(self) -> None:
        self.calls.append("stop")

    def interrupt(self) -> None:
        self.calls.append("interrupt")

    def pause(self, paused: bool) -> None:
        self.calls.append(f"pause {paused}")

    def leave(self, *, kill: bool = False, keep: bool = False) -> None:
        self.calls.append("leave" + " kill" * kill + " keep" * keep)
        self._left.set()

    async def run(self) -> None:
        await self._left.wait()
        self.events.put_nowait(None)

    def end(self, error: DevloopError) -> None:
        """As by `devloop down`."""
        self.ended_by = error
        self._left.set()


class FakeClient:
    """Says nothing of its own accord. `blobs`: the agent's store."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}

    async def read_blobs(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        return {digest: self.blobs[digest] for digest in digests if digest in self.blobs}

    async def metrics(self, interval_s: float, workspace_id: str) -> AsyncIterator[Sample]:
        await asyncio.Event().wait()
        yield sample()

    async def hello(self, *, timeout_s: float | None = None) -> HostFacts:
        await asyncio.Event().wait()
        return facts()


class FakeSession:
    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.workspace = WorkspaceRef("demo-1", "demo")


class FakeGround:
    """`error`: what the next opening fails with."""

    def __init__(
        self,
        *,
        command: str = "python train.py",
        root: str = "/nowhere/demo",
        image: str = "",
        theme: str = "default",
        keys: Mapping[str, str] | None = None,
        error: DevloopError | None = None,
        may_be_asked: bool = False,
    ) -> None:
        self.progress = Progress()
        self.command = command
        self.facts = Screenful("h100-a", "demo", root, image, theme, dict(keys or {}))
        self.client = FakeClient()
        self.loops: list[FakeLoop] = []
        self.openings: list[bool] = []  # whether each might ask
        self.error = error
        self.may_be_asked = may_be_asked
        self.verbs: list[tuple[str, ...]] = []

    def look_around(self) -> Found:
        return Found("python main.py", (".venv: its Python runs the program",))

    def set_command(self, command: str) -> None:
        if not command.strip():
            raise DevloopError("a command is needed")
        self.command = command

    @contextlib.asynccontextmanager
    async def opened(self, *, may_ask: bool) -> AsyncIterator[Opened]:
        self.openings.append(may_ask)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        loop = FakeLoop()
        self.loops.append(loop)
        yield Opened(FakeSession(self.client), loop)  # type: ignore[arg-type]

    def wants_to_ask(self, error: DevloopError) -> bool:
        return self.may_be_asked

    def verb(self, *words: str) -> tuple[str, ...]:
        self.verbs.append(words)
        return ("true",)


# -- what a session tells


def facts(pid: int = 4242) -> HostFacts:
    return HostFacts(
        agent_version="0.1.0",
        agent_pid=pid,
        capabilities=frozenset(),
        live_runs=0,
        hostname="h100-a",
        os="Linux",
        machine="x86_64",
        python="3.11",
        cpus=16,
        memory_bytes=128 * GB,
        isolation="pid namespace",
        isolation_hint="",
        state_dir="/state",
        disk_free_bytes=100 * GB,
    )


def run(
    number: int,
    *,
    reason: str = "model.py changed",
    end: RunEnd | None = None,
    tree: Digest = Digest(bytes(32)),  # noqa: B008 - immutable
) -> Run:
    return Run(
        number=number,
        workspace_id="demo-1",
        workspace_name="demo",
        tree=tree,
        argv=(b"python", b"train.py"),
        reason=reason,
        outputs=(),
        tty=False,
        state=RunState.RUNNING if end is None else RunState.ENDED,
        started_ns=START_NS,
        first_output_ns=0,
        ended_ns=0,
        end=end or ended(0),
        start_kind="zygote",
        start_note="",
        pid=1,
        gpus=(RunGpu("GPU-0", "0", "NVIDIA H100"),),
    )


def ended(code: int, *, signal: int = 0, reason: str = "", wall_s: float = 12.4) -> RunEnd:
    words = reason or f"exited {code}"
    return RunEnd(code, signal, words, 3 * GB, 1.0, 0.1, wall_s, start_failed=False, detail="")


def started(
    number: int,
    *,
    paths: tuple[bytes, ...] = (b"model.py",),
    tree: Digest = Digest(bytes(32)),  # noqa: B008 - immutable
) -> RunStarted:
    reason = "model.py changed" if paths else "first run"
    files = len(paths) * 3
    return RunStarted(run(number, reason=reason, tree=tree), CYCLE, paths, files, files * 1000, ())


def first_output(number: int, output_s: float = 0.0123) -> FirstOutput:
    cycle = CYCLE._replace(output_s=output_s)
    return FirstOutput(number, cycle)


def finished(number: int, end: RunEnd) -> RunFinished:
    return RunFinished(run(number, end=end))


def printed(number: int, text: str, *, stderr: bool = False, record: int = 0) -> LogRecord:
    stream = LogStream.STDERR if stderr else LogStream.STDOUT
    return LogRecord(number, record, START_NS, stream, text.encode())


def connected() -> Connected:
    return Connected(facts())


TRACEBACK = """\
Traceback (most recent call last):
  File "/state/workspaces/demo-1/files/train.py", line 12, in <module>
    main()
  File "/state/workspaces/demo-1/files/model.py", line 34, in forward
    return x @ self.weight
RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x8 and 16x2)
"""


# -- samples


def host(at: int = 0) -> HostSample:
    return HostSample(
        cpu_percent=10.0 + at % 30,
        memory_used_bytes=(20 + at % 10) * GB,
        memory_total_bytes=128 * GB,
        disk_used_bytes=400 * GB,
        disk_total_bytes=1000 * GB,
        load_1m=1.5,
        net_received_bytes=at * 2_000_000,
        net_sent_bytes=at * 300_000,
    )


def gpu(at: int = 0, index: int = 0, **changes: Any) -> GpuSample:
    return GpuSample(
        uuid=f"GPU-{index}",
        label=str(index),
        name="NVIDIA H100 80GB HBM3",
        utilization_percent=40.0 + (at * 7) % 60,
        memory_used_bytes=61_200_000_000,
        memory_total_bytes=80 * GB,
        temperature_c=64.0,
        power_w=412.0,
        power_limit_w=700.0,
        throttle_reasons=(),
        processes=(
            SampleProcess(
                4711, 60_900_000_000, "/usr/bin/python train.py", "me", computes=True, run=14
            ),
            SampleProcess(815, 300_000_000, "/usr/bin/jupyter lab", "ada", computes=True),
        ),
    )._replace(**changes)


WARM = Warmth(zygotes=1, loading=0)


def sample(at: int = 0, gpus: int = 1, state: GpuState = GpuState.OK) -> Sample:
    """`at`: seconds since the first one."""
    detail = {GpuState.NONE: "no driver", GpuState.UNAVAILABLE: "no answer within 2.5 s"}
    return Sample(
        time_ns=START_NS + at * 10**9,
        host=host(at),
        gpu_state=state,
        gpu_detail=detail.get(state, ""),
        gpus=tuple(gpu(at, index) for index in range(gpus)) if state is GpuState.OK else (),
        warmth=WARM,
    )
