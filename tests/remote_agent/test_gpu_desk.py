"""GPUs handed out by a desk: a real driver process of a made-up box, real locks."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import Digest
from devloop.cafs.gpu_wish import BadWish
from devloop.remote_agent import gpu_desk
from devloop.remote_agent.agent import Agent, OnBusy
from devloop.remote_agent.gpu import GpuReader, GpuState
from devloop.remote_agent.gpu_choice import Busy, NoSuchGpus
from devloop.remote_agent.gpu_desk import GpuDesk, GpuHold, GpusUnavailable
from devloop.remote_agent.gpu_locks import GpuLocks
from devloop.remote_agent.run import RunSpec, StartFailure
from devloop.remote_agent.run_stop import stop_run

from .fake_driver import FakeDriver, gpu_line
from .trees import AFile, make_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from devloop.remote_agent.agent import Applying

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

ENV = {"PATH": b"/usr/bin:/bin"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    return FakeDriver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def driver(library: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """Two free GPUs, and locks of the test's own."""
    for name, value in library.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    locks = tmp_path / "locks"
    locks.mkdir()
    monkeypatch.setenv("DEVLOOP_GPU_LOCKS_DIR", str(locks))
    library.wedged.unlink(missing_ok=True)
    library.says(gpu_line(), gpu_line())
    return library


@pytest.fixture
async def desk(driver: FakeDriver) -> AsyncIterator[GpuDesk]:
    desk = GpuDesk()
    yield desk
    await desk.close()


async def acquire(desk: GpuDesk, wish: str, *kept: GpuHold) -> GpuHold:
    hold = await desk.acquire(wish, visible=None, kept=kept)
    assert isinstance(hold, GpuHold), hold
    return hold


async def busy(desk: GpuDesk, wish: str, *kept: GpuHold) -> tuple[str, ...]:
    answer = await desk.acquire(wish, visible=None, kept=kept)
    assert isinstance(answer, Busy), answer
    return answer.lines


def labels(hold: GpuHold) -> list[str]:
    return [place.label for place in hold.places]


async def test_gpus_are_named_to_a_run_by_uuid(desk: GpuDesk) -> None:
    hold = await acquire(desk, "2")
    assert hold.environment == {"CUDA_VISIBLE_DEVICES": b"GPU-fake-0,GPU-fake-1"}
    hold.release()


async def test_what_is_held_is_given_to_nobody_until_it_is_released(desk: GpuDesk) -> None:
    first, second = await acquire(desk, "1"), await acquire(desk, "1")
    assert (labels(first), labels(second)) == (["0"], ["1"])
    first.note("vision", 3)
    held, noted = await busy(desk, "1"), str(GpuLocks().holder("GPU-fake-0"))
    assert held[0] == f"GPU 0 (NVIDIA A100-SXM4-40GB): {noted}"
    assert noted.startswith("run 3 of vision (")
    first.release()
    first.release()
    assert labels(await acquire(desk, "1")) == ["0"]
    second.release()


async def test_another_agent_of_the_same_user_gets_another_gpu(desk: GpuDesk) -> None:
    other = GpuDesk()
    hold = await acquire(desk, "1")
    assert labels(await acquire(other, "1")) == ["1"]
    assert len(await busy(other, "1")) == 2
    hold.release()
    assert labels(await acquire(other, "1")) == ["0"]
    await other.close()


async def test_a_wish_for_several_takes_all_or_none(desk: GpuDesk) -> None:
    hold = await acquire(desk, "1")
    assert len(await busy(desk, "2")) == 1
    assert GpuLocks().holder("GPU-fake-1") is None
    hold.release()


async def test_a_restart_keeps_its_gpus_without_asking_the_driver(
    desk: GpuDesk, driver: FakeDriver
) -> None:
    old = await acquire(desk, "1")
    driver.wedged.touch()
    new = await acquire(desk, "1", old)
    assert labels(new) == ["0"]
    old.release()
    assert GpuLocks().holder("GPU-fake-0") is not None
    new.release()
    assert GpuLocks().holder("GPU-fake-0") is None


async def test_a_restart_with_another_wish_keeps_what_it_can(
    desk: GpuDesk, driver: FakeDriver
) -> None:
    used = f"process 0 -1 {os.getpid()} 900 C"
    old = await acquire(desk, "1")
    driver.says(gpu_line(used_mib=900), gpu_line(), used)  # the old run's own program
    new = await acquire(desk, "2", old)
    assert labels(new) == ["0", "1"]
    old.release()
    less = await acquire(desk, "A100", new)
    assert labels(less) == ["0"]
    new.release()
    assert GpuLocks().holder("GPU-fake-1") is None
    less.release()
    assert GpuLocks().holder("GPU-fake-0") is None


async def test_two_runs_that_ask_at_once_get_different_gpus(desk: GpuDesk) -> None:
    first, second = await asyncio.gather(acquire(desk, "1"), acquire(desk, "1"))
    assert {*labels(first), *labels(second)} == {"0", "1"}
    first.release()
    second.release()


async def test_none_are_wished_for_and_no_driver_is_asked(
    desk: GpuDesk, driver: FakeDriver
) -> None:
    driver.wedged.touch()
    assert (await acquire(desk, "0")).environment == {"CUDA_VISIBLE_DEVICES": b""}


async def test_only_what_the_environment_leaves_is_given(desk: GpuDesk) -> None:
    hold = await desk.acquire("1", visible="1")
    assert isinstance(hold, GpuHold)
    assert labels(hold) == ["1"]
    hold.release()
    with pytest.raises(NoSuchGpus):
        await desk.acquire("1", visible="")


async def test_a_driver_that_does_not_answer_is_an_error_that_says_so(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_desk, "PATIENCE_S", 0.5)
    driver.wedged.touch()
    desk = GpuDesk(reader=GpuReader(deadline_s=0.2))
    with pytest.raises(GpusUnavailable, match="has not answered for 0") as refused:
        await acquire(desk, "A100")
    assert "nvidia-smi" in refused.value.hint
    await desk.close()


async def test_a_driver_that_is_slow_is_waited_for(driver: FakeDriver) -> None:
    driver.wedged.touch()
    reader = GpuReader(deadline_s=0.05)
    desk = GpuDesk(reader=reader)
    waiting = asyncio.create_task(acquire(desk, "1"))
    while "has not answered" not in reader._last.detail:
        await asyncio.sleep(0.01)
    driver.wedged.unlink()
    assert labels(await waiting) == ["0"]
    await desk.close()


async def test_a_box_without_a_driver_says_so(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    desk = GpuDesk()
    with pytest.raises(NoSuchGpus, match="no driver"):
        await acquire(desk, "1")
    snapshot, holders = await desk.look()
    assert (snapshot.state, holders) == (GpuState.NONE, {})
    await desk.close()


async def test_a_wish_that_makes_no_sense_is_refused_on_the_box_too(desk: GpuDesk) -> None:
    with pytest.raises(BadWish):
        await acquire(desk, "a lot!")


async def test_the_driver_s_process_ends_when_nobody_has_asked_for_a_while(
    desk: GpuDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_desk, "READER_LINGERS_S", 0.05)
    (await acquire(desk, "1")).release()
    async with asyncio.timeout(20):
        while desk._reader._child is not None:
            await asyncio.sleep(0.01)
    (await acquire(desk, "1")).release()


# -- runs of a whole agent


@pytest.fixture
async def agent(driver: FakeDriver, tmp_path: Path) -> AsyncIterator[Agent]:
    async with Agent(tmp_path / "state") as agent:
        yield agent


def sh(script: str, gpus: str = "1", **options: object) -> RunSpec:
    settings: dict[str, object] = {"env": ENV, "env_is_whole": True, "warm": False, **options}
    return RunSpec(argv=(b"sh", b"-c", script.encode()), gpus=gpus, **settings)  # type: ignore[arg-type]


async def apply(agent: Agent, spec: RunSpec, content: bytes = b"1", **options: object) -> Applying:
    tree = make_tree(agent.store, {b"a": AFile(content)}).digest
    return await agent.apply(agent.project("p", "vision"), tree, spec=spec, **options)  # type: ignore[arg-type]


async def test_the_end_of_a_run_frees_its_gpus(agent: Agent) -> None:
    run = (await apply(agent, sh("read line", stdin=True))).run
    assert run is not None
    assert [gpu.label for gpu in run.gpus] == ["0"]
    holder = GpuLocks().holder("GPU-fake-0")
    assert holder is not None
    assert (holder.project, holder.run) == ("vision", run.number)
    await stop_run(run)
    assert GpuLocks().holder("GPU-fake-0") is None
    assert [gpu.label for gpu in run.gpus] == ["0"]


async def test_a_run_that_cannot_start_frees_its_gpus(agent: Agent) -> None:
    spec = RunSpec(argv=(b"no-such-command",), env=ENV, env_is_whole=True, gpus="2")
    run = (await apply(agent, spec)).run
    assert run is not None
    assert run.end.start_failure is StartFailure.NOT_FOUND
    assert len(run.gpus) == 2
    assert GpuLocks().holder("GPU-fake-0") is None


async def test_an_apply_that_lacks_a_blob_holds_nothing(agent: Agent) -> None:
    nowhere = Digest(bytes(32))
    refused = await agent.apply(agent.project("p", "vision"), nowhere, spec=sh("exit 0"))
    assert refused.missing == [nowhere]
    assert GpuLocks().holder("GPU-fake-0") is None


async def test_nothing_changes_while_the_gpus_are_in_use(agent: Agent) -> None:
    first = (await apply(agent, sh("read line", "2", stdin=True))).run
    assert first is not None
    refused = await apply(agent, sh("exit 0"), b"2", stop_runs=())
    assert refused.run is None
    assert len(refused.gpus_busy) == 2
    assert f"run {first.number} of vision" in refused.gpus_busy[0]
    assert (agent.project("p").workspace.files / "a").read_bytes() == b"1"
    await stop_run(first)


async def test_a_run_that_waits_starts_when_the_gpus_are_free(agent: Agent) -> None:
    first = (await apply(agent, sh("read line", "2", stdin=True))).run
    assert first is not None
    waiting = asyncio.create_task(apply(agent, sh("exit 0", "2"), on_busy=OnBusy.WAIT))
    given_up = asyncio.create_task(apply(agent, sh("exit 0", "2"), on_busy=OnBusy.WAIT))
    await asyncio.sleep(0)
    given_up.cancel()
    await stop_run(first)
    async with asyncio.timeout(20):
        second = (await waiting).run
    assert second is not None
    assert second.number == first.number + 1
    await asyncio.wait([given_up])
    async with asyncio.timeout(20):
        await second.ended.wait()
    assert GpuLocks().holder("GPU-fake-0") is None


async def test_a_restart_has_its_predecessor_s_gpu_even_beside_a_wedged_driver(
    agent: Agent, driver: FakeDriver
) -> None:
    first = (await apply(agent, sh("read line", stdin=True))).run
    assert first is not None
    driver.wedged.touch()
    spec = sh("read line", stdin=True)
    second = (await apply(agent, spec, b"2", stop_runs=(first.number,))).run
    assert second is not None
    assert not first.live
    assert [gpu.uuid for gpu in second.gpus] == ["GPU-fake-0"]
    holder = GpuLocks().holder("GPU-fake-0")
    assert holder is not None
    assert holder.run == second.number
    await stop_run(second)
    assert GpuLocks().holder("GPU-fake-0") is None


async def test_what_a_run_had_is_known_after_the_agent_was_ended(
    driver: FakeDriver, tmp_path: Path
) -> None:
    async with Agent(tmp_path / "state") as agent:
        run = (await apply(agent, sh("exit 0"))).run
        assert run is not None
        await run.ended.wait()
    async with Agent(tmp_path / "state") as agent:
        (again,) = agent.project("p").runs.newest_first()
        assert again.gpus == run.gpus
