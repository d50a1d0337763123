"""Runs of a real agent, by real processes: how they start, end, and what is remembered."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.errors import DevloopError
from devloop.remote_agent.agent import Agent, OnBusy
from devloop.remote_agent.logs import LogStream
from devloop.remote_agent.run import RunSpec, RunState, StartFailure
from devloop.remote_agent.run_lease import lease
from devloop.remote_agent.run_limits import beyond_limit
from devloop.remote_agent.run_stop import stop_run
from devloop.remote_agent.runs import NoSuchRun

from .trees import AFile, flat, look, make_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from devloop.cafs.digest import Digest
    from devloop.remote_agent.agent import Applying, Project
    from devloop.remote_agent.run import Run

ENV = {"PATH": b"/usr/bin:/bin", "LANG": b"C.UTF-8"}
IGNORES_ALL = "trap '' INT TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    async with Agent(tmp_path / "state") as agent:
        yield agent


def sh(script: str, **options: object) -> RunSpec:
    settings: dict[str, object] = {"env": ENV, "env_is_whole": True, "warm": False, **options}
    return RunSpec(argv=(b"sh", b"-c", script.encode()), **settings)  # type: ignore[arg-type]


def tree(agent: Agent, content: bytes = b"1") -> Digest:
    return make_tree(agent.store, {b"a": AFile(content)}).digest


def project(agent: Agent) -> Project:
    return agent.project("p", "p")


async def apply(agent: Agent, content: bytes, spec: RunSpec, **options: object) -> Applying:
    return await agent.apply(project(agent), tree(agent, content), spec=spec, **options)  # type: ignore[arg-type]


async def start(agent: Agent, spec: RunSpec) -> Run:
    run = (await apply(agent, b"1", spec)).run
    assert run is not None
    return run


async def ended(run: Run) -> Run:
    async with asyncio.timeout(20):
        await run.ended.wait()
    return run


async def output(run: Run) -> dict[LogStream, bytes]:
    """Until it ends."""
    found: dict[LogStream, bytes] = {}
    with run.log.reader(0, lossless=True, follow=True) as reader:
        async with asyncio.timeout(20):
            async for batch in reader:
                for record in batch:
                    found[record.stream] = found.get(record.stream, b"") + record.data
    return found


async def said(run: Run, word: bytes) -> None:
    """Returns when the run has written it."""
    heard = b""
    with run.log.reader(0, lossless=False, follow=True) as reader:
        async with asyncio.timeout(20):
            async for batch in reader:
                heard += b"".join(record.data for record in batch)
                if word in heard:
                    return
    raise AssertionError(f"it ended without {word!r}: {heard!r}")


# -- ends


async def test_a_run_has_its_streams_apart_and_its_exit_code(agent: Agent) -> None:
    run = await start(agent, sh("cat a; echo bad >&2; exit 7"))
    assert await output(run) == {LogStream.STDOUT: b"1", LogStream.STDERR: b"bad\n"}
    await ended(run)
    assert (run.end.exit_code, run.end.signal, run.end.reason) == (7, 0, "exited 7")
    assert run.end.wall_s > 0
    assert run.started_ns <= run.first_output_ns <= run.ended_ns


async def test_a_run_that_dies_of_a_signal_says_so(agent: Agent) -> None:
    run = await ended(await start(agent, sh("kill -SEGV $$")))
    assert (run.end.signal, run.end.reason) == (signal.SIGSEGV, "killed by SIGSEGV")


@pytest.mark.parametrize(
    ("argv", "code", "failure"),
    [
        ((b"no-such-command",), 127, StartFailure.NOT_FOUND),
        ((b"./nothing",), 127, StartFailure.NOT_FOUND),
        ((b"./a",), 126, StartFailure.NOT_EXECUTABLE),
    ],
)
async def test_a_command_that_cannot_start_is_a_run_that_has_ended(
    agent: Agent, argv: tuple[bytes, ...], code: int, failure: StartFailure
) -> None:
    run = await start(agent, RunSpec(argv=argv, env=ENV, env_is_whole=True))
    assert (run.state, run.end.exit_code, run.end.start_failure) == (RunState.ENDED, code, failure)
    assert argv[0].decode() in run.end.reason
    assert run.end.detail
    assert await output(run) == {}


async def test_stop_asks_first(agent: Agent) -> None:
    run = await start(
        agent, sh("trap 'echo asked; exit 3' INT; echo up; while :; do sleep 0.02; done")
    )
    await said(run, b"up")
    assert await stop_run(run, reason="stopped") == []
    assert (run.end.exit_code, run.end.reason) == (3, "stopped")
    assert b"asked" in (await output(run))[LogStream.STDOUT]


async def test_stop_kills_what_does_not_listen(agent: Agent) -> None:
    run = await start(agent, sh(IGNORES_ALL, stop_timeout_s=0.1))
    await said(run, b"up")
    assert await stop_run(run) == []
    assert run.end.signal == signal.SIGKILL


async def test_a_kill_asks_nobody(agent: Agent) -> None:
    run = await start(agent, sh(IGNORES_ALL, stop_timeout_s=60))
    await said(run, b"up")
    async with asyncio.timeout(5):
        await stop_run(run, kill=True)
    assert not run.live


async def test_a_run_can_be_stopped_while_it_is_being_started(agent: Agent) -> None:
    target = tree(agent)
    runs = project(agent).runs
    starting = asyncio.create_task(agent.apply(project(agent), target, spec=sh("sleep 60")))
    async with asyncio.timeout(10):
        (run,) = await runs.started_after(0)
        assert run.state is RunState.STARTING
        await stop_run(run)
    assert not run.live
    await starting


async def test_stopping_an_ended_run_is_nothing(agent: Agent) -> None:
    run = await ended(await start(agent, sh("exit 0")))
    assert await stop_run(run) == []
    assert run.end.reason == "exited 0"


# -- input


async def test_standard_input_ends(agent: Agent) -> None:
    run = await start(agent, sh("cat; echo done", stdin=True))
    assert run.stdin is not None
    await run.stdin.write(0, b"typed\n")
    run.stdin.end()
    assert (await output(run))[LogStream.STDOUT] == b"typed\ndone\n"


async def test_without_standard_input_a_read_ends_at_once(agent: Agent) -> None:
    run = await start(agent, sh("cat; echo done"))
    assert (await output(run))[LogStream.STDOUT] == b"done\n"


async def test_a_terminal_has_its_size_and_can_be_resized(agent: Agent) -> None:
    script = "stty size; trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.02; done"
    run = await start(agent, sh(script, tty=True, rows=31, columns=91))
    await said(run, b"up")
    run.resize(17, 40)
    assert (await output(run))[LogStream.STDOUT].split() == [b"31", b"91", b"up", b"17", b"40"]
    await ended(run)
    run.resize(1, 1)


# -- leases


async def test_a_run_that_no_client_attends_is_ended(agent: Agent) -> None:
    run = await ended(await start(agent, sh("sleep 60", lease_s=0.2)))
    assert run.end.reason == "ended: no client was there for 0.2 s"


async def test_a_lease_keeps_a_run_and_counts_anew_when_it_is_given_up(agent: Agent) -> None:
    run = await start(agent, sh("sleep 60", lease_s=0.4))
    loop = asyncio.get_running_loop()
    for _ in range(3):
        with lease(run):
            await asyncio.wait([asyncio.create_task(run.ended.wait())], timeout=0.3)
        await asyncio.wait([asyncio.create_task(run.ended.wait())], timeout=0.2)
        assert run.live
    with lease(run):
        pass
    given_up_s = loop.time()
    await ended(run)
    assert loop.time() - given_up_s >= 0.4


# -- transitions among runs


async def test_another_clients_run_on_another_tree_is_in_the_way(agent: Agent) -> None:
    run = await start(agent, sh("echo up; sleep 60"))
    result = await apply(agent, b"2", sh("cat a"))
    assert (result.busy, result.run) == ([run.number], None)
    assert look(project(agent).workspace.files) == flat({b"a": AFile(b"1")})
    same = await apply(agent, b"1", sh("cat a"))
    assert same.run is not None
    assert (await output(same.run))[LogStream.STDOUT] == b"1"


async def test_a_transition_can_wait_for_the_runs_in_its_way(agent: Agent) -> None:
    run = await start(agent, sh("echo up; while [ ! -e go ]; do sleep 0.02; done; cat a"))
    await said(run, b"up")
    waiting = asyncio.create_task(apply(agent, b"2", sh("cat a"), on_busy=OnBusy.WAIT))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    (project(agent).workspace.files / "go").touch()
    second = (await waiting).run
    assert (await output(run))[LogStream.STDOUT] == b"up\n1"
    assert second is not None
    assert (await output(second))[LogStream.STDOUT] == b"2"


async def test_a_transition_under_a_run_changes_its_files(agent: Agent) -> None:
    run = await start(agent, sh("echo up; while [ $(cat a) = 1 ]; do sleep 0.02; done; echo seen"))
    await said(run, b"up")
    target = tree(agent, b"2")
    result = await agent.apply(project(agent), target, on_busy=OnBusy.UNDER)
    assert (result.busy, result.run) == ([], None)
    assert (await output(run))[LogStream.STDOUT] == b"up\nseen\n"


async def test_the_callers_own_run_is_stopped_only_once_everything_is_staged(agent: Agent) -> None:
    run = await start(agent, sh("echo up; sleep 60"))
    target = tree(agent, b"2")
    agent.store.delete(project_file(agent, target))
    result = await agent.apply(project(agent), target, spec=sh("cat a"), stop_runs=(run.number,))
    assert len(result.missing) == 1
    assert run.live
    second = (await apply(agent, b"2", sh("cat a"), stop_runs=(run.number,))).run
    assert not run.live
    assert run.end.reason == "stopped for a restart"
    assert second is not None
    assert (await output(second))[LogStream.STDOUT] == b"2"


def project_file(agent: Agent, target: Digest) -> Digest:
    from devloop.cafs.tree import decode_node

    return decode_node(agent.store.get(target))[b"a"].digest  # type: ignore[union-attr]


async def test_a_client_that_hangs_up_leaves_a_whole_tree_and_no_run(agent: Agent) -> None:
    """Cancelled at whatever moment, the lock is held until the files are at rest."""
    for number in range(12):
        target = tree(agent, b"content %d" % number)
        call = asyncio.create_task(agent.apply(project(agent), target, spec=sh("cat a; sleep 60")))
        for _ in range(number):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert not project(agent).lock.locked()
        for run in project(agent).runs.live():
            assert run.tree == project(agent).workspace.current
            await stop_run(run, kill=True)
        found = look(project(agent).workspace.files)
        assert found == {} or project(agent).workspace.current is not None


# -- what is remembered


async def test_runs_are_numbered_from_one_and_the_newest_are_kept(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devloop.remote_agent.runs.KEPT_RUNS", 3)
    for number in range(1, 6):
        assert (await ended(await start(agent, sh("echo")))).number == number
    runs = project(agent).runs
    async with asyncio.timeout(20):
        while [run.number for run in runs.newest_first()] != [5, 4, 3]:
            await asyncio.sleep(0.01)
    assert sorted(os.listdir(project(agent).workspace.runs_dir)) == ["3", "4", "5"]
    with pytest.raises(NoSuchRun, match="no run 1 in p"):
        runs.get(1)


async def test_a_number_whose_directory_is_there_is_left_out(agent: Agent) -> None:
    (project(agent).workspace.runs_dir / "1").mkdir()
    assert (await ended(await start(agent, sh("echo")))).number == 2


async def test_logs_beyond_the_limit_go_with_the_oldest_ended_runs(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await start(agent, sh("echo up; sleep 60"))
    await said(live, b"up")
    script = "head -c 100000 /dev/zero"
    for _ in range(3):
        await ended(await start(agent, sh(script)))
    monkeypatch.setattr("devloop.remote_agent.runs.KEPT_BYTES", 250_000)
    await ended(await start(agent, sh(script)))
    async with asyncio.timeout(20):
        while sorted(os.listdir(project(agent).workspace.runs_dir)) != ["1", "4", "5"]:
            await asyncio.sleep(0.01)
    assert [run.number for run in project(agent).runs.newest_first()] == [5, 4, 1]


async def test_a_log_that_is_being_read_stays(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devloop.remote_agent.runs.KEPT_BYTES", 1)
    first = await ended(await start(agent, sh("echo")))
    with first.log.reader(0):
        await ended(await start(agent, sh("echo")))
        await ended(await start(agent, sh("echo")))
        async with asyncio.timeout(20):
            while len(project(agent).runs.newest_first()) > 2:
                await asyncio.sleep(0.01)
    assert [run.number for run in project(agent).runs.newest_first()] == [3, 1]


def test_the_oldest_runs_that_nobody_needs_go_until_the_rest_fits() -> None:
    sizes = {1: 5, 2: 5, 3: 5, 4: 5}
    assert beyond_limit(sizes, set(), 20) == []
    assert beyond_limit(sizes, set(), 11) == [1, 2]
    assert beyond_limit(sizes, {1}, 11) == [2, 3]
    assert beyond_limit(sizes, set(), 0) == [1, 2, 3]
    assert beyond_limit({}, set(), 0) == []


async def test_a_runs_own_folder_is_its_pwd(agent: Agent) -> None:
    env = {**ENV, "PWD": b"/home/user", "OLDPWD": b"/home"}
    run = await start(agent, RunSpec(argv=(b"env",), env=env, env_is_whole=True, warm=False))
    lines = (await output(run))[LogStream.STDOUT].splitlines()
    files = os.fsencode(project(agent).workspace.files)
    assert [line for line in lines if b"PWD=" in line] == [b"PWD=" + files]


async def test_an_agent_that_comes_back_knows_its_runs(tmp_path: Path) -> None:
    async with Agent(tmp_path / "state") as agent:
        first = await ended(await start(agent, sh("echo hello; exit 4", reason="a.py changed")))
        second = await start(agent, sh("echo up; sleep 60"))
        await said(second, b"up")
    async with Agent(tmp_path / "state") as agent:
        runs = project(agent).runs
        again, stopped = runs.get(1), runs.get(2)
        assert (again.tree, again.spec.argv, again.spec.reason) == (
            first.tree,
            first.spec.argv,
            "a.py changed",
        )
        assert (again.end.exit_code, again.end.reason) == (4, "exited 4")
        assert (await output(again))[LogStream.STDOUT] == b"hello\n"
        assert stopped.end.reason == "the agent was ended"
        assert (await start(agent, sh("echo"))).number == 3


async def test_what_a_killed_agent_left_half_done_stands_in_nobodys_way(tmp_path: Path) -> None:
    async with Agent(tmp_path / "state") as agent:
        await ended(await start(agent, sh("echo")))
        runs_dir = project(agent).workspace.runs_dir
    record = runs_dir / "1" / "run.json"
    record.write_text(record.read_text().replace('"state": 4', '"state": 2'))
    (runs_dir / "2").mkdir()
    (runs_dir / "3").mkdir()
    (runs_dir / "3" / "run.json").write_text("[]")
    (runs_dir / "5").mkdir()
    (runs_dir / "5" / "run.json").write_text('{"num')
    broken = tmp_path / "state" / "workspaces" / "broken"
    broken.mkdir()
    (broken / "state.json").write_text('{"version": 99}')
    async with Agent(tmp_path / "state") as agent:
        assert project(agent).runs.get(1).end.reason == "lost: the agent was killed"
        assert (await ended(await start(agent, sh("echo")))).number == 2
        with pytest.raises(DevloopError, match="version 99"):
            agent.project("broken", "broken")


async def test_the_environment_of_a_run_is_nowhere_on_disk(agent: Agent, tmp_path: Path) -> None:
    canary = b"canary-4711"
    run = await start(agent, sh("echo $SECRET | wc -c", env={**ENV, "SECRET": canary}))
    assert (await output(run))[LogStream.STDOUT].strip() == b"12"
    await ended(run)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if canary in path.read_bytes()] == []


# -- the start, seen from the caller


async def warm_python(agent: Agent, script: bytes) -> Run:
    """A run of `script`, born of a zygote that has forked before."""

    def spec(script: bytes) -> RunSpec:
        return RunSpec(argv=(b"python3", b"-c", script), env=ENV, env_is_whole=True)

    await ended(await start(agent, spec(b"pass")))
    return await start(agent, spec(script))


async def test_a_run_without_input_is_announced_while_its_program_is_on_its_way(
    agent: Agent,
) -> None:
    run = await warm_python(agent, b"print('up')")
    assert (run.state, run.start_kind) == (RunState.STARTING, "zygote")
    assert await output(run) == {LogStream.STDOUT: b"up\n"}
    assert (await ended(run)).end.exit_code == 0


async def test_a_signal_that_comes_before_the_program_has_begun_is_not_lost(agent: Agent) -> None:
    run = await warm_python(agent, b"import time; time.sleep(60)")
    run.signal(signal.SIGTERM)
    assert run.state is RunState.STARTING
    assert (await ended(run)).end.signal == signal.SIGTERM


async def test_a_run_that_takes_input_has_started_when_it_is_announced(agent: Agent) -> None:
    spec = RunSpec(
        argv=(b"python3", b"-c", b"print(input())"), env=ENV, env_is_whole=True, stdin=True
    )
    run = await start(agent, spec)
    assert run.state is RunState.RUNNING
    assert run.stdin is not None
    await run.stdin.write(0, b"typed\n")
    run.stdin.end()
    assert await output(run) == {LogStream.STDOUT: b"typed\n"}
