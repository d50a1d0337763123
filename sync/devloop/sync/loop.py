"""`up`: watch, sync and run again on each save, until told to leave.

Performs what the planner decides, and tells a front end what happened. Front ends call `rerun`,
`stop`, `interrupt`, `pause` and `leave`, and read `events`; they open no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, assert_never

from devloop.cafs.errors import DevloopError
from devloop.cafs.tree import File

from . import plan
from .agent_errors import AgentGone
from .events import (
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
from .model import LogRecord, OnBusy, Run
from .scan import RootGone
from .session import ScanTimes
from .target import AgentEnded, backoff_s
from .watch import DirsChanged, ScanAll, WatchLimited, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .client import Attachment
    from .events import SessionEvent
    from .model import Applied, RunSpec
    from .push import Pushed
    from .scan import Scan
    from .session import Session
    from .watch import Hint

__all__ = ["Loop", "LoopConfig", "Renewed"]

EVENT_QUEUE = 1000  # a front end that lags slows the reading of logs
KILL_ANSWER_S = 2.0
LAST_NEWS_S = 1.0  # the end of a run is told over another call than the one that ended it
TELL_LOST_S = 1.5  # longer than an agent takes to end
FRESH_SAVE_S = 10.0  # an older mtime says nothing about when the file was saved


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """What `up` was asked to do. `spec` makes the next run's specification from its reason.

    `renew` is asked after each scan, before anything is done about it; None: all is as before.
    """

    spec: Callable[[str], RunSpec]
    on_save: plan.OnSave
    save_signal: int
    debounce_s: float
    renew: Callable[[], Renewed | None] = lambda: None


class Renewed(NamedTuple):
    """What `up` is asked to do from now on, and what there is to say of that."""

    config: LoopConfig
    ignore: tuple[str, ...]
    outputs: tuple[str, ...]
    text: str
    hint: str = ""


@dataclass(slots=True)
class _Saved:
    """Since the last transition: when the first hint came, and how long scans took."""

    hinted_ns: int = 0
    newest_mtime_ns: int = 0
    times: ScanTimes = field(default_factory=ScanTimes)


class Loop:
    """One `up`. `run` returns after `leave`, or once its agent was ended: `ended_by` says so then.
    `events` is then drained and ends with None."""

    def __init__(self, session: Session, config: LoopConfig) -> None:
        self.events: asyncio.Queue[SessionEvent | None] = asyncio.Queue(EVENT_QUEUE)
        self.live_run: int | None = None
        self.ended_by: AgentEnded | None = None
        self._session = session
        self._config = config
        self._planner = plan.Planner(config.on_save)
        self._inbox: asyncio.Queue[plan.Event] = asyncio.Queue()
        self._attachment: Attachment | None = None
        self._announced: dict[int, asyncio.Event] = {}
        self._was_connected = False
        self._last_announced = 0
        self._next_records: dict[int, int] = {}  # of each run that was announced and goes on
        self._last_finished = 0  # runs are numbered upwards, and finish in that order
        self._cycles: dict[int, Cycle] = {}
        self._replied_ns: dict[int, int] = {}
        self._start_notes: dict[int, str] = {}  # as they were told
        self._saved = _Saved()
        self._root_gone = False
        self._is_told = asyncio.Event()  # how the last run ended
        self._leaving = asyncio.Event()
        self._keeps_run = False
        self._killing = asyncio.Event()
        self._tasks: asyncio.TaskGroup

    # -- what a front end asks for

    def rerun(self, reason: str = "rerun") -> None:
        self._inbox.put_nowait(plan.RerunAsked(reason))

    def restart_cold(self) -> None:
        """Ends the live run, and runs again with nothing warm: new zygotes, a new container."""
        self._spawn(self._tell(self._restart_cold()))

    def stop(self) -> None:
        """Ends the live run; a second call kills it."""
        self._inbox.put_nowait(plan.StopAsked())

    def pause(self, paused: bool) -> None:
        self._inbox.put_nowait(plan.PauseSet(paused))
        self.events.put_nowait(Paused(paused))

    def tell(self, text: str, hint: str = "") -> None:
        """A notice of whoever works beside the loop; dropped when nobody listens."""
        with contextlib.suppress(asyncio.QueueFull):
            self.events.put_nowait(Notice(text, hint))

    def interrupt(self) -> None:
        """SIGINT to the live run."""
        if self.live_run is not None and self._attachment is not None:
            self._spawn(self._tell(self._attachment.signal(signal.SIGINT, run=self.live_run)))

    def leave(self, *, kill: bool = False, keep: bool = False) -> None:
        """Ends the live run and the loop; with `kill`, without asking the program.

        With `keep` the run goes on, for as long as it takes.
        """
        self._keeps_run = keep
        self._leaving.set()
        if kill:
            self._killing.set()

    # -- the loop

    async def run(self) -> None:
        """Until `leave`; the live run is stopped then."""
        # What is known of 50,000 files stays for good: no collection amid a save goes through it.
        gc.freeze()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._spawn(self._watch())
                self._spawn(self._stay_connected())
                await self._leaving.wait()
                await self._stop_live_run()
                raise _Left
        except* _Left:
            pass
        finally:
            self._end_events()

    def _end_events(self) -> None:
        """A front end that reads no more must not keep us: the oldest event makes room."""
        if self.events.full():
            self.events.get_nowait()
        self.events.put_nowait(None)

    def _spawn(self, work: Coroutine[object, object, object]) -> None:
        self._tasks.create_task(work)

    async def _stop_live_run(self) -> None:
        number = self.live_run
        if number is None:
            return
        if self._keeps_run:
            await self._keep_run(number)
            return
        stopping = asyncio.create_task(self._stop_run(number, kill=False))
        killing = asyncio.create_task(self._killing.wait())
        await asyncio.wait([stopping, killing], return_when=asyncio.FIRST_COMPLETED)
        is_stopped = stopping.result() if stopping.done() else await self._kill_run(number)
        for task in (stopping, killing):
            task.cancel()
        if is_stopped:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_NEWS_S):
                    await self._is_told.wait()
        elif not self._session.connection.target.is_local:
            await self.events.put(_left_behind(number, self._session.connection.target.name))

    async def _keep_run(self, number: int) -> None:
        session = self._session
        try:
            async with asyncio.timeout(KILL_ANSWER_S):
                await session.client.keep_run(session.workspace.id, number)
        except (DevloopError, TimeoutError):
            await self.events.put(_left_behind(number, session.connection.target.name))

    async def _kill_run(self, number: int) -> bool:
        """Whether it is gone. Who wants to leave is not kept by a link that does not answer."""
        is_local = self._session.connection.target.is_local
        try:
            async with asyncio.timeout(None if is_local else KILL_ANSWER_S):
                return await self._stop_run(number, kill=True)
        except TimeoutError:
            return False

    async def _stop_run(self, number: int, *, kill: bool) -> bool:
        """False when it cannot be asked for."""
        try:
            await self._session.client.stop_run(self._session.workspace.id, number, kill=kill)
        except DevloopError:
            return False
        return True

    async def _restart_cold(self) -> None:
        client, workspace_id = self._session.client, self._session.workspace.id
        if self.live_run is not None:
            await client.stop_run(workspace_id, self.live_run)
        await client.cool(workspace_id)
        self.rerun("cold restart")

    async def _tell(self, work: Coroutine[object, object, object]) -> None:
        """A failure is told, and ends nothing."""
        try:
            await work
        except DevloopError as error:
            await self.events.put(Notice(str(error), error.hint))

    async def _watch(self) -> None:
        root, scanner = self._session.project.root, self._session.scanner
        hints = watch(root, scanner, quiet_s=self._config.debounce_s)
        async with contextlib.aclosing(hints):
            async for hint in hints:
                await self._on_hint(hint)

    async def _on_hint(self, hint: Hint) -> None:
        if not self._saved.hinted_ns:
            self._saved.hinted_ns = time.time_ns()
        match hint:
            case DirsChanged(changed):
                self._inbox.put_nowait(plan.DirsChanged(changed))
            case ScanAll():
                self._inbox.put_nowait(plan.DirsChanged(None))
            case WatchLimited(text, advice):
                await self.events.put(Notice(text, advice))
            case _:
                assert_never(hint)

    async def _stay_connected(self) -> None:
        while True:
            await self.events.put(Connected(self._session.facts))
            for note in self._session.progress.take_notes():
                await self.events.put(Notice(note))
            try:
                await self._work_attached()
            except* AgentGone as group:
                reason = _first_words(group)
            try:
                await self._reconnect(reason)
            except AgentEnded as error:
                self.ended_by, self.live_run = error, None
                self._leaving.set()
                return
            self._was_connected = True
            self._inbox.put_nowait(plan.DirsChanged(None))

    async def _work_attached(self) -> None:
        """Until the agent is gone."""
        session = self._session
        attaching = session.client.attach_to_owner(
            session.workspace,
            session.owner,
            after_run=self._last_announced,
            resume=self._next_records,
        )
        async with attaching as self._attachment, asyncio.TaskGroup() as tasks:
            # The agent takes calls in their order: after this answer it knows of the
            # attachment, and no run starts unheard.
            await session.client.hello()
            if self._was_connected:
                await self._learn_what_became()
            else:
                tasks.create_task(self._tell_of_others())
            tasks.create_task(self._follow_runs(self._attachment))
            tasks.create_task(self._carry_out_plan(tasks))

    async def _tell_of_others(self) -> None:
        """Another `up`, and runs that are live: the same user's, whose workspace this is."""
        session = self._session
        with contextlib.suppress(DevloopError):  # whatever stands in the way is told elsewhere
            followers = await session.client.count_followers(session.workspace.id)
            runs = await session.client.list_runs(session.workspace.id)
            live = [run for run in runs if run.live and not run.is_shell]
            others = [run for run in live if run.owner != session.owner]
            if followers > 1:
                await self.events.put(_another_up(others))
            elif others:
                await self.events.put(_already_live(others))

    async def _reconnect(self, reason: str) -> None:
        """Tries until it succeeds, the first time at once. Raises AgentEnded.

        An agent that was ended has closed its connections first: that is no lost link.
        """
        told = asyncio.create_task(self._tell_lost(reason))
        try:
            failure = await self._try_to_reconnect()
        except BaseException:
            told.cancel()
            raise
        if not told.done():
            told.cancel()
            await self.events.put(Reconnecting(reason, 0.0))
        for delay_s in () if failure is None else backoff_s():
            await self.events.put(Reconnecting(str(failure), delay_s))
            await asyncio.sleep(delay_s)
            failure = await self._try_to_reconnect()
            if failure is None:
                return

    async def _tell_lost(self, reason: str) -> None:
        await asyncio.sleep(TELL_LOST_S)
        await self.events.put(Reconnecting(reason, 0.0))

    async def _try_to_reconnect(self) -> DevloopError | None:
        """What stood in the way. Raises AgentEnded."""
        try:
            await self._session.reconnect()
        except AgentEnded:
            raise
        except DevloopError as error:
            return error
        return None

    async def _learn_what_became(self) -> None:
        """Of what was under way when the link was lost.

        A run may have started although nobody heard so; one may be gone with the agent's memory.
        """
        session = self._session
        runs = {run.number: run for run in await session.client.list_runs(session.workspace.id)}
        for number in sorted(runs):
            if number > self._last_announced and runs[number].owner == session.owner:
                await self._adopt(runs[number])
        for number in self._next_records.keys() - runs.keys():
            await self.events.put(RunLost(number))
            self._forget_run(number)

    async def _adopt(self, run: Run) -> None:
        self._planner.handle(plan.ApplyFinished(run.tree, run.number))
        await self._announce(run, RunStarted(run, Cycle(), (), 0, 0, ()))

    # -- runs

    async def _follow_runs(self, attachment: Attachment) -> None:
        async for event in attachment:
            match event:
                case LogRecord():
                    await self._on_record(event)
                case Run():
                    await self._on_run(event)
        raise AgentGone("the agent has ended")

    async def _on_record(self, record: LogRecord) -> None:
        if record.run > self._last_finished:
            await self._announcement(record.run).wait()
        cycle = self._cycles.get(record.run)
        if cycle is not None and cycle.output_s == 0.0:
            since_s = (time.time_ns() - self._replied_ns[record.run]) / 1e9
            self._cycles[record.run] = cycle._replace(output_s=max(since_s, 1e-6))
            await self.events.put(FirstOutput(record.run, self._cycles[record.run]))
        await self.events.put(record)
        if record.run in self._next_records:
            self._next_records[record.run] = record.number + (record.dropped_records or 1)

    async def _on_run(self, run: Run) -> None:
        if run.number <= self._last_finished:
            return
        if run.live:
            await self._tell_how_it_started(run)
            return
        await self._announcement(run.number).wait()
        self._last_finished = run.number
        await self.events.put(RunFinished(run))
        self._forget_run(run.number)
        if self._session.project.outputs:
            self._spawn(self._tell(self._pull()))

    def _forget_run(self, number: int) -> None:
        self._last_finished = number
        if self.live_run == number:
            self.live_run = None
            self._is_told.set()
        self._next_records.pop(number, None)
        self._announced.pop(number, None)
        self._cycles.pop(number, None)
        self._start_notes.pop(number, None)
        self._replied_ns.pop(number, None)
        self._inbox.put_nowait(plan.RunEnded(number))

    async def _tell_how_it_started(self, run: Run) -> None:
        """A run is announced while its program is on its way: it may have become a cold start."""
        await self._announcement(run.number).wait()
        if run.start_note != self._start_notes.get(run.number):
            self._start_notes[run.number] = run.start_note
            await self.events.put(Notice(f"{run.start_kind} start: {run.start_note}"))

    def _announcement(self, number: int) -> asyncio.Event:
        """Set when the front end has heard that the run started: its output comes after that."""
        return self._announced.setdefault(number, asyncio.Event())

    async def _pull(self) -> None:
        result = await self._session.pull()
        if result.files or result.kept:
            await self.events.put(Pulled(result.files, result.size_bytes, tuple(result.kept)))

    # -- the plan

    async def _carry_out_plan(self, tasks: asyncio.TaskGroup) -> None:
        actions = self._planner.start()
        while True:
            for action in actions:
                tasks.create_task(self._try(action))
            actions = self._planner.handle(await self._inbox.get())

    async def _try(self, action: plan.Action) -> None:
        """A failure is told, and waits for the next save; only a lost agent goes further up."""
        try:
            await self._perform(action)
        except AgentGone:
            raise
        except DevloopError as error:
            await self.events.put(Notice(str(error), error.hint))
            if isinstance(action, plan.Apply):
                self._inbox.put_nowait(plan.ApplyFailed())

    async def _perform(self, action: plan.Action) -> None:
        match action:
            case plan.Scan(changed):
                await self._scan(changed)
            case plan.Apply():
                await self._apply(action)
            case plan.StopRun(number, kill):
                await self._session.client.stop_run(self._session.workspace.id, number, kill=kill)
            case plan.SignalRun(number):
                assert self._attachment is not None
                await self._attachment.signal(self._config.save_signal, run=number)
            case _:
                assert_never(action)

    async def _scan(self, changed: frozenset[bytes] | None) -> None:
        session = self._session
        before = session.last_scan
        began = time.perf_counter()
        try:
            scan = await session.scan(changed)
        except RootGone as error:
            await self._tell_root(error)
            tree = before.tree.digest if before is not None else None
            if tree is not None:
                self._inbox.put_nowait(plan.ScanFinished(tree, suspicious=True))
            return
        self._saved.times.scan_s += time.perf_counter() - began
        await self._tell_root(None)
        await self._renew()
        if scan.problems:
            await self.events.put(Skipped(scan.problems))
        suspicious = await self._is_suspicious(scan)
        self._note_saved(scan)
        self._inbox.put_nowait(
            plan.ScanFinished(
                scan.tree.digest, tuple(change.path for change in scan.changed), suspicious
            )
        )

    async def _renew(self) -> None:
        renewed = self._config.renew()
        if renewed is None:
            return
        self._config, self._planner.on_save = renewed.config, renewed.config.on_save
        if self._session.sort_out(renewed.ignore, renewed.outputs):
            self._inbox.put_nowait(plan.DirsChanged(None))  # no run starts before that scan
        await self.events.put(Reconfigured(renewed.text, renewed.hint))

    async def _tell_root(self, gone: RootGone | None) -> None:
        """The project's folder goes, and comes back: each is told once."""
        was_gone, self._root_gone = self._root_gone, gone is not None
        if gone is not None and not was_gone:
            await self.events.put(Notice(str(gone), gone.hint))
        elif gone is None and was_gone:
            await self.events.put(Notice(f"project folder {self._session.project.root} is back"))

    async def _is_suspicious(self, scan: Scan) -> bool:
        """An unmounted disk looks like a deletion of everything."""
        known = self._session.pusher.known
        if scan.tree.entries or known is None or not known.entries:
            return False
        if scan.emptied:
            notice = Notice(
                "the project folder is empty now; nothing is deleted on the box",
                "is its disk mounted? To follow an emptied folder, start `devloop up` again",
            )
            await self.events.put(notice)
        return True

    def _note_saved(self, scan: Scan) -> None:
        saved = self._saved
        if not scan.changed:
            if self._planner.is_idle:
                self._saved = _Saved()
            return
        for change in scan.changed:
            if isinstance(change.new, File):
                saved.newest_mtime_ns = max(saved.newest_mtime_ns, change.new.mtime_ns)

    async def _apply(self, action: plan.Apply) -> None:
        saved, self._saved = self._saved, _Saved()
        pushed = await self._push(action, saved)
        run = pushed.applied.run
        if run is not None:
            applied = pushed.applied
            started = RunStarted(
                run,
                _cycle(pushed, saved),
                action.paths,
                applied.files_written,
                pushed.bytes_sent,
                applied.saved_aside,
            )
            await self._announce(run, started)
        self._inbox.put_nowait(
            plan.ApplyFinished(pushed.tree, run.number if run is not None else None)
        )

    async def _push(self, action: plan.Apply, saved: _Saved) -> Pushed:
        spec = self._config.spec(action.reason) if action.start else None
        on_busy = OnBusy.UNDER if action.under else OnBusy.FAIL
        pushed = await self._session.push(
            run=spec, stop_runs=action.stop_runs, on_busy=on_busy, times=saved.times
        )
        if pushed.applied.busy or pushed.applied.gpus_busy:
            await self.events.put(_waiting(pushed.applied))
            pushed = await self._session.push(
                run=spec, stop_runs=action.stop_runs, on_busy=OnBusy.WAIT, times=saved.times
            )
        return pushed

    async def _announce(self, run: Run, started: RunStarted) -> None:
        self.live_run = run.number if run.live else None
        self._last_announced = run.number
        self._is_told.clear()
        self._next_records[run.number] = 0
        self._replied_ns[run.number] = time.time_ns()
        self._start_notes[run.number] = run.start_note
        self._cycles[run.number] = started.cycle
        await self.events.put(started)
        self._announcement(run.number).set()


def _waiting(applied: Applied) -> Waiting | Notice:
    return Waiting(applied.busy) if applied.busy else Notice(applied.gpus_awaited)


def _another_up(runs: list[Run]) -> Notice:
    """`runs`: live, and not ours; the newest first."""
    text = "another `devloop up` of this project is open, in another terminal: each runs on a save"
    if not runs:
        return Notice(text, "leave one of them, unless they run different things")
    number = runs[0].number
    return Notice(
        f"{text}; run {number} is its", f"`devloop attach {number}` shows that run here instead"
    )


def _already_live(runs: list[Run]) -> Notice:
    """Kept, or left by a client that has died."""
    number = runs[0].number
    numbers = ", ".join(str(run.number) for run in reversed(runs))
    are = f"run {number} is live already, and goes" if len(runs) == 1 else f"runs {numbers} go"
    return Notice(
        f"{are} on beside this `up`",
        f"`devloop attach {number}` shows it, `devloop stop {number}` ends it",
    )


def _left_behind(number: int, where: str) -> Notice:
    return Notice(
        f"{where} cannot be reached: run {number} was not stopped, and may go on there",
        f"once it is back, `devloop attach {number}` shows it, `devloop stop {number}` ends it",
    )


def _first_words(error: BaseException) -> str:
    """What went wrong first, however deep the groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


class _Left(Exception):
    """The user leaves."""


def _cycle(pushed: Pushed, saved: _Saved) -> Cycle:
    timings = pushed.applied.timings
    agent_ns = timings.stage_ns + timings.stop_ns + timings.apply_ns + timings.start_ns
    detect_ns = saved.hinted_ns - saved.newest_mtime_ns if saved.hinted_ns else 0
    return Cycle(
        detect_s=detect_ns / 1e9 if 0 <= detect_ns < FRESH_SAVE_S * 1e9 else 0.0,
        scan_s=saved.times.scan_s,
        upload_s=pushed.upload_ns / 1e9,
        link_s=max(pushed.call_ns - agent_ns, 0) / 1e9,
        stage_s=timings.stage_ns / 1e9,
        stop_s=timings.stop_ns / 1e9,
        apply_s=timings.apply_ns / 1e9,
        start_s=timings.start_ns / 1e9,
    )
