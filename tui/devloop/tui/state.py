"""What the screen shows, as plain values: a session's events and samples in, nothing out.

Owns every decision about what is true now (which run is meant, whether a value is stale, when the
next try is). Draws nothing, waits for nothing, and has no clock: each call is told the time, in
monotonic seconds.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from signal import SIGINT, SIGKILL
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, assert_never

from devloop.sync.events import (
    Connected,
    Cycle,
    FirstOutput,
    Notice,
    Paused,
    Pulled,
    Reconfigured,
    Reconnecting,
    RunFinished,
    RunLost,
    RunStarted,
    Skipped,
    Waiting,
)
from devloop.sync.metrics import GpuState
from devloop.sync.model import LogRecord, LogStream

from .failure import Output, explained, says_out_of_memory
from .series import Series, percentile

if TYPE_CHECKING:
    from devloop.cafs.digest import Digest
    from devloop.cafs.errors import DevloopError
    from devloop.sync.events import SessionEvent
    from devloop.sync.metrics import GpuSample, HostSample, Sample, SampleProcess, Warmth
    from devloop.sync.model import HostFacts, Run, RunEnd

    from .failure import Place

__all__ = [
    "Failure",
    "GpuHistory",
    "HostHistory",
    "Link",
    "MemoryPast",
    "RunRow",
    "Stage",
    "View",
    "stages_of",
]

RUNS_KEPT = 500
CYCLES_KEPT = 2000
NOTICES_KEPT = 200
STALE_AFTER_S = 3.0  # samples come every second
MEMORY_PAST_S = 300
MEMORIES_KEPT = 2  # of GPUs
RESTART_TOLD_S = 10.0  # of an agent, where it took no run along


class Link(Enum):
    OPENING = "connecting"
    UP = "connected"
    LOST = "link lost"
    OVER = "ended"  # the session: nothing goes on until the user asks for it


# What the user has asked of a live run, the hardest of it.
Asked: TypeAlias = Literal["", "interrupt", "stop", "kill"]
_HARDER: tuple[Asked, ...] = ("", "interrupt", "stop", "kill")


class Stage(NamedTuple):
    """Of the way from a save to the first output."""

    name: str
    spent_s: float


class MemoryPast(NamedTuple):
    """How full a memory was until a run's end, and who was in it then."""

    name: str
    values: list[float]  # oldest first
    highest_bytes: float
    total_bytes: int
    processes: tuple[SampleProcess, ...] = ()  # the largest first


class Failure(NamedTuple):
    """How a run failed, in words for its card."""

    exception: str  # the line of its traceback that names it; empty: there is none
    last_words: str  # without an exception: what else says why; may be empty
    place: Place | None
    is_oom: bool  # for sure
    is_killed: bool  # by a signal that nobody sent who would say so: memory is a usual cause
    memories: tuple[MemoryPast, ...] = ()  # of either of the two: as they were at its end

    @property
    def words(self) -> str:
        return self.exception or self.last_words


@dataclass(slots=True)
class RunRow:
    """One run, as the history lists it."""

    number: int
    tree: Digest  # of the code that it runs
    reason: str
    gpu_words: str
    started_ns: int  # Unix time of the box
    began_s: float
    cycle: Cycle
    files_sent: int
    bytes_sent: int
    is_from_save: bool
    start_kind: str
    start_note: str
    end: RunEnd | None = None
    ended_s: float = 0.0
    is_lost: bool = False  # with its agent: how it ended is not known
    failure: Failure | None = None
    output: Output = field(default_factory=Output)
    asked: Asked = ""

    @property
    def is_live(self) -> bool:
        return self.end is None and not self.is_lost

    @property
    def has_failed(self) -> bool:
        """By itself, rather than stopped on purpose."""
        return self.end is not None and bool(self.end.status) and not self.was_stopped

    @property
    def was_stopped(self) -> bool:
        end = self.end
        if end is None or end.start_failed or end.was_taken_down:
            return False
        return self.was_interrupted or (bool(end.cause) and not end.is_out_of_memory)

    @property
    def was_interrupted(self) -> bool:
        """By the user, whose wish it was, and no failure."""
        is_by_signal = self.end is not None and self.end.status == 128 + SIGINT
        return is_by_signal and self.asked == "interrupt"

    @property
    def was_taken_down(self) -> bool:
        """With its agent or its container."""
        return self.is_lost or (self.end is not None and self.end.was_taken_down)

    def duration_s(self, now_s: float) -> float:
        if self.end is not None and not self.end.was_taken_down:
            return self.end.wall_s
        return (now_s if self.is_live else self.ended_s) - self.began_s


def stages_of(cycle: Cycle) -> list[Stage]:
    """save → detect → sync → stop → apply → start → output; what took no time is 0."""
    sync_s = cycle.scan_s + cycle.upload_s + cycle.link_s + cycle.stage_s
    return [
        Stage("detect", cycle.detect_s),
        Stage("sync", sync_s),
        Stage("stop", cycle.stop_s),
        Stage("apply", cycle.apply_s),
        Stage("start", cycle.start_s),
        Stage("output", cycle.output_s),
    ]


@dataclass(slots=True)
class GpuHistory:
    now: GpuSample
    utilization: Series = field(default_factory=Series)
    memory: Series = field(default_factory=Series)
    temperature: Series = field(default_factory=Series)
    power: Series = field(default_factory=Series)

    @property
    def memory_share(self) -> float:
        return self.now.memory_used_bytes / max(self.now.memory_total_bytes, 1)

    def memory_past(self) -> MemoryPast:
        slices = (process for part in self.now.slices for process in part.processes)
        processes = sorted((*self.now.processes, *slices), key=lambda p: -p.memory_bytes)
        values, total_bytes = self.memory.newest(MEMORY_PAST_S), self.now.memory_total_bytes
        name = f"GPU {self.now.label} memory"
        return MemoryPast(name, values, max(values, default=0.0), total_bytes, tuple(processes))

    def add(self, sample: GpuSample) -> None:
        self.now = sample
        self.utilization.add(sample.utilization_percent)
        self.memory.add(sample.memory_used_bytes)
        self.temperature.add(sample.temperature_c)
        self.power.add(sample.power_w)


@dataclass(slots=True)
class HostHistory:
    now: HostSample
    cpu: Series = field(default_factory=Series)
    memory: Series = field(default_factory=Series)
    received: Series = field(default_factory=Series)  # bytes a second
    sent: Series = field(default_factory=Series)

    def memory_past(self) -> MemoryPast:
        values = self.memory.newest(MEMORY_PAST_S)
        total_bytes = self.now.memory_total_bytes
        return MemoryPast("host memory", values, max(values, default=0.0), total_bytes)

    def add(self, sample: HostSample, passed_s: float) -> None:
        before, self.now = self.now, sample
        self.cpu.add(sample.cpu_percent)
        self.memory.add(sample.memory_used_bytes)
        if passed_s > 0:
            received = sample.net_received_bytes - before.net_received_bytes
            sent = sample.net_sent_bytes - before.net_sent_bytes
            self.received.add(max(received, 0) / passed_s)
            self.sent.add(max(sent, 0) / passed_s)


class Told(NamedTuple):
    """A notice, when it came."""

    at_s: float
    text: str
    hint: str


@dataclass(slots=True)
class View:
    """The state of one `up`. `target` and `command` as the user wrote them."""

    target: str
    command: str
    project: str = ""  # the project's name, which is a part of its files' paths on the box
    image: str = ""  # that runs see; empty: the box's own files
    link: Link = Link.OPENING
    link_words: str = ""  # what is in the way
    link_hint: str = ""
    link_lost_s: float = 0.0
    next_try_s: float = 0.0  # 0: one is under way
    facts: HostFacts | None = None
    agents: int = 0  # that were talked to, one after another
    restarted_s: float = 0.0  # when another agent was found; 0: a run was started since, or never
    rtt_s: float = 0.0  # 0: not measured yet
    is_paused: bool = False
    waits_for: tuple[int, ...] = ()
    leaving: str = ""  # in words; empty: nobody leaves
    runs: dict[int, RunRow] = field(default_factory=dict)
    notices: deque[Told] = field(default_factory=lambda: deque(maxlen=NOTICES_KEPT))
    cycles_s: deque[float] = field(default_factory=lambda: deque(maxlen=CYCLES_KEPT))
    last_change: tuple[bytes, ...] = ()
    last_change_s: float = 0.0
    pulled: Pulled | None = None
    warmth: Warmth | None = None  # None: not known
    sampled_s: float = 0.0  # 0: no sample yet
    sampled_ns: int = 0
    gpu_state: GpuState | None = None  # None: not said yet
    gpu_detail: str = ""
    gpus: dict[str, GpuHistory] = field(default_factory=dict)
    host: HostHistory | None = None

    # -- events in

    def handle(self, event: SessionEvent, now_s: float) -> None:
        match event:
            case LogRecord():
                self._record(event)
            case RunStarted():
                self._started(event, now_s)
            case FirstOutput(number, cycle):
                self._first_output(number, cycle)
            case RunFinished(run):
                self._finished(run, now_s)
            case RunLost(number):
                if number in self.runs:
                    self._lose(self.runs[number], now_s)
            case Connected(facts):
                self._connected(facts, now_s)
            case Reconnecting(reason, delay_s):
                self._lost_link(reason, delay_s, now_s)
            case Waiting(runs):
                self.waits_for = runs
            case Skipped(problems):
                for problem in problems:
                    path = os.fsdecode(problem.path)
                    self.tell(f"skipped {path!r}: {problem.reason}", "", now_s)
            case Pulled():
                self.pulled = event
            case Notice(text, hint) | Reconfigured(text, hint):
                self.tell(text, hint, now_s)
            case Paused(paused):
                self.is_paused = paused
            case _:
                assert_never(event)

    def tell(self, text: str, hint: str, now_s: float) -> None:
        self.notices.append(Told(now_s, text, hint))

    def ask(self, asked: Asked) -> None:
        """Of the live run; a second stop kills."""
        row = self.live
        if row is not None:
            again: Asked = "kill" if asked == row.asked == "stop" else asked
            row.asked = max(row.asked, again, key=_HARDER.index)

    def opening(self) -> None:
        """A session is being opened, for the first time or once more."""
        self.link, self.link_words, self.link_hint = Link.OPENING, "", ""

    def session_over(self, error: DevloopError | None, now_s: float) -> None:
        """The loop has ended, or never began; `error` says why."""
        self.link = Link.OVER
        self.link_lost_s, self.next_try_s = now_s, 0.0
        self.waits_for = ()
        for row in self.runs.values():
            self._lose(row, now_s)
        if error is not None:
            self.link_words, self.link_hint = str(error), error.hint

    def _lose(self, row: RunRow, now_s: float) -> None:
        if row.is_live:
            row.is_lost, row.ended_s = True, now_s

    def _connected(self, facts: HostFacts, now_s: float) -> None:
        if self.facts is None or self.facts.agent_pid != facts.agent_pid:
            self.agents += 1
            self.restarted_s = now_s if self.agents > 1 else 0.0
        self.facts = facts
        self.link, self.link_words, self.link_hint, self.next_try_s = Link.UP, "", "", 0.0

    def _lost_link(self, reason: str, delay_s: float, now_s: float) -> None:
        if self.link is not Link.LOST:
            self.link_lost_s = now_s
        self.link, self.link_words = Link.LOST, reason
        self.next_try_s = now_s + delay_s if delay_s else 0.0

    def _started(self, event: RunStarted, now_s: float) -> None:
        run = event.run
        self.waits_for = ()
        self.restarted_s = 0.0
        for row in self.runs.values():  # a workspace has one run of ours at a time
            self._lose(row, now_s)
        self.runs[run.number] = RunRow(
            number=run.number,
            tree=run.tree,
            reason=run.reason,
            gpu_words=run.gpu_words,
            started_ns=run.started_ns,
            began_s=now_s,
            cycle=event.cycle,
            files_sent=event.files_sent,
            bytes_sent=event.bytes_sent,
            is_from_save=bool(event.paths),
            start_kind=run.start_kind,
            start_note=run.start_note,
        )
        if event.paths:
            self.last_change, self.last_change_s = event.paths, now_s
        while len(self.runs) > RUNS_KEPT:
            del self.runs[next(iter(self.runs))]

    def _first_output(self, number: int, cycle: Cycle) -> None:
        row = self.runs.get(number)
        if row is None:
            return
        row.cycle = cycle
        if row.is_from_save:
            self.cycles_s.append(cycle.total_s)

    def _record(self, record: LogRecord) -> None:
        row = self.runs.get(record.run)
        if row is not None and record.stream in (LogStream.STDOUT, LogStream.STDERR):
            row.output.add(record.data, is_stderr=record.stream is LogStream.STDERR)

    def _finished(self, run: Run, now_s: float) -> None:
        row = self.runs.get(run.number)
        if row is None:
            return
        row.end, row.ended_s, row.is_lost = run.end, now_s, False
        row.start_kind, row.start_note = run.start_kind, run.start_note
        if row.has_failed:
            row.failure = failure_of(row.output, run.end, self.project)
            if row.failure.is_oom or row.failure.is_killed:
                row.failure = row.failure._replace(memories=self._memories(run))
        row.output = Output()

    def _memories(self, run: Run) -> tuple[MemoryPast, ...]:
        """Of the run's GPUs, else of the fullest ones; then of the host."""
        own = {gpu.uuid for gpu in run.gpus}
        gpus = sorted(self.gpus.values(), key=lambda gpu: -gpu.memory_share)
        chosen = [gpu for gpu in gpus if gpu.now.uuid in own] or gpus
        pasts = [gpu.memory_past() for gpu in chosen[:MEMORIES_KEPT]]
        return (*pasts, *([self.host.memory_past()] if self.host is not None else ()))

    # -- samples in

    def sample(self, sample: Sample, now_s: float) -> None:
        passed_s = (sample.time_ns - self.sampled_ns) / 1e9 if self.sampled_ns else 0.0
        self.sampled_s, self.sampled_ns = now_s, sample.time_ns
        if self.host is None:
            self.host = HostHistory(sample.host)
        self.host.add(sample.host, passed_s)
        self.gpu_state, self.gpu_detail = sample.gpu_state, sample.gpu_detail
        if sample.gpu_state is GpuState.OK:
            self._sample_gpus(sample.gpus)
        self.warmth = sample.warmth

    def _sample_gpus(self, gpus: tuple[GpuSample, ...]) -> None:
        for gone in self.gpus.keys() - {gpu.uuid for gpu in gpus}:
            del self.gpus[gone]
        for gpu in gpus:
            self.gpus.setdefault(gpu.uuid, GpuHistory(gpu)).add(gpu)

    # -- what is true now

    @property
    def newest(self) -> RunRow | None:
        return self.runs[next(reversed(self.runs))] if self.runs else None

    @property
    def live(self) -> RunRow | None:
        newest = self.newest
        return newest if newest is not None and newest.is_live else None

    @property
    def last_cycle(self) -> RunRow | None:
        """The newest run that came of a save, or else the newest."""
        from_saves = (row for row in reversed(self.runs.values()) if row.is_from_save)
        return next(from_saves, self.newest)

    @property
    def p50_s(self) -> float:
        return percentile(self.cycles_s, 50)

    @property
    def p99_s(self) -> float:
        return percentile(self.cycles_s, 99)

    @property
    def host_name(self) -> str:
        """Where runs run, in a word."""
        if self.facts is None:
            return self.target
        return self.facts.hostname or self.target

    @property
    def is_local(self) -> bool:
        """No link is between us and the agent: what is lost then is the agent itself."""
        return self.target == "local"

    def has_restarted(self, now_s: float) -> bool:
        """Another agent than before answers, and that is news still: until the next run where it
        took one along."""
        if not self.restarted_s:
            return False
        newest = self.newest
        took_one = newest is not None and newest.was_taken_down
        return took_one or now_s - self.restarted_s < RESTART_TOLD_S

    def stale_s(self, now_s: float) -> float:
        """How old the newest sample is, once that is worth a word; 0: it is fresh."""
        if not self.sampled_s:
            return 0.0
        age_s = now_s - self.sampled_s
        return age_s if age_s > STALE_AFTER_S or self.link is not Link.UP else 0.0


def failure_of(output: Output, end: RunEnd, project: str) -> Failure:
    words = explained(output, end.exit_code, end.signal, project)
    is_oom = end.is_out_of_memory or says_out_of_memory(words.exception)
    return Failure(
        exception=words.exception,
        last_words=end.reason if end.start_failed else words.last,
        place=words.place,
        is_oom=is_oom,
        is_killed=not is_oom and end.status == 128 + SIGKILL,
    )
