"""The comparison that `scripts/gpu-check` makes on a GPU, with a driver that is made up."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from tests.gpu.comparing import GPUS, Shown, differences, read_pane
from tests.remote_agent.fake_driver import FakeDriver, gpu_line

from devloop.sync.local import LocalTarget
from devloop.sync.metrics import GpuState
from devloop.sync.session import Project, Session
from devloop.tui.spans import text_of
from devloop.tui.state import View
from devloop.tui.vitals import gpu_pane

from .fakes import sample

if TYPE_CHECKING:
    from pathlib import Path

THEIRS = """\
0, NVIDIA A100-SXM4-40GB, 87, 31000, 40536, 61, 250.50, 300.00
1, NVIDIA A100-SXM4-40GB, [N/A], 5, 40536, [N/A], [N/A], [N/A]
"""


@pytest.fixture
async def shown(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Shown]:
    """What the pane has of it: through driver, agent, protocol, client and view."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    driver = FakeDriver(tmp_path)
    for name, value in driver.env.items():
        monkeypatch.setenv(name, value)
    process = f"process 0 -1 {os.getpid()} 30500 C"
    driver.says(gpu_line(used_mib=31000), gpu_line(), process)
    session = await Session.open(Project(project), LocalTarget(60))
    view = View("local", "true")
    try:
        async with contextlib.aclosing(session.client.metrics(0.1)) as samples:
            while view.gpu_state is not GpuState.OK:
                view.sample(await anext(samples), 1.0)
    finally:
        await session.client.shutdown(stop_runs=True)
        await session.connection.target.wait_until_ended()
        await session.close()
    return read_pane(text_of(gpu_pane(view, 100, 1000, 1.0, zoomed=False)).split("\n"))


async def test_what_is_the_same_has_no_difference_and_what_is_not_is_named(
    shown: list[Shown],
) -> None:
    apps = f"NVIDIA A100-SXM4-40GB, {os.getpid()}, 30500\n"
    assert differences(shown, THEIRS, apps) == []
    for field, wrong in zip(GPUS, ("3", "Other", "9", "99", "99", "9", "9", "9"), strict=True):
        first, rest = THEIRS.split("\n", 1)
        values = dict(zip(GPUS, first.split(", "), strict=True)) | {field: wrong}
        (words,) = differences(shown, ", ".join(values.values()) + "\n" + rest)
        assert words.startswith(f"GPU 0 {field}: ")
    assert differences(shown, THEIRS, apps.replace("30500", "9")) == [
        f"process {os.getpid()}: 30518 MiB are shown, it holds 9"
    ]
    assert differences(shown, THEIRS, "NVIDIA, 1, 5\n") == ["process 1 is not shown"]
    assert differences(shown, "") == ["2 GPUs are shown, nvidia-smi lists 0"]


def test_a_pane_is_read_up_to_the_host_s_part() -> None:
    view = View("local", "true")
    for at in range(5):
        view.sample(sample(at, gpus=2), float(at))
    lines = text_of(gpu_pane(view, 100, 1000, 1.0, zoomed=False)).split("\n")
    first, second = read_pane(lines)
    assert (first.index, second.index, first.name) == ("0", "1", "H100 80GB HBM3")
    assert first.values["power.draw"] == 412
    assert set(first.processes) == {"4711", "815"}
