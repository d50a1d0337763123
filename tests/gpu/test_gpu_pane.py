"""What only a machine with an NVIDIA GPU can show: the screen's GPU pane is what nvidia-smi says.

`DEVLOOP_GPU_PICTURE=FILE.svg` keeps a picture of it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.gpu.comparing import APPS, GPUS, differences, read_pane
from tests.gpu.test_gpu_metrics import holder, nvidia_smi_text, pytestmark
from tests.tui.fakes import FakeGround, connected, facts
from tests.tui.pictures import Clock

from devloop.sync.local import LocalTarget
from devloop.sync.metrics import GpuState
from devloop.sync.session import Project, Session
from devloop.tui.app import UpApp
from devloop.tui.spans import text_of
from devloop.tui.state import View
from devloop.tui.vitals import gpu_pane

if TYPE_CHECKING:
    from devloop.sync.metrics import Sample

__all__ = ["pytestmark"]

WIDTH, HEIGHT = 100, 1000  # room for every row of every GPU
SAMPLES = 20
INTERVAL_S = 0.5
SIZE = (160, 45)


async def samples_of(project: Path, count: int) -> list[Sample]:
    """By a real agent, over the protocol."""
    session = await Session.open(Project(project), LocalTarget(60))
    try:
        stream = session.client.metrics(INTERVAL_S, session.workspace.id)
        async with contextlib.aclosing(stream) as samples:
            seen = [await anext(samples) for _ in range(count)]
            while seen[-1].gpu_state is not GpuState.OK:
                seen.append(await anext(samples))
            return seen
    finally:
        await session.client.shutdown(stop_runs=True)
        await session.connection.target.wait_until_ended()
        await session.close()


async def test_the_pane_shows_what_nvidia_smi_says_with_somebody_on_the_gpu(
    project: Path,
) -> None:
    with holder() as process:
        samples = await samples_of(project, SAMPLES)
        gpus = nvidia_smi_text(*GPUS)
        apps = nvidia_smi_text(*APPS, query="compute-apps")
        view = View("local", "true")
        for at, sample in enumerate(samples):
            view.sample(sample, float(at))
        lines = text_of(gpu_pane(view, WIDTH, HEIGHT, SAMPLES, zoomed=False)).split("\n")
        print("\n".join(lines))
        print(gpus, apps, sep="\n")
        # A driver may number processes as another namespace does: then there is nothing to compare.
        own = apps if str(process.pid) in apps else ""
        assert differences(read_pane(lines), gpus, own) == []
        await keep_picture(samples)


async def keep_picture(samples: list[Sample]) -> None:
    if wanted := os.environ.get("DEVLOOP_GPU_PICTURE"):
        clock = Clock()
        app = UpApp(FakeGround(command="python train.py"), clock)
        async with app.run_test(size=SIZE) as pilot:
            await pilot.pause()
            app.event(connected()._replace(facts=facts()._replace(hostname="gpu-box")))
            for sample in samples:
                app.sample(sample)
            app.action_pane("gpu")
            app.action_zoom()
            await pilot.pause()
            app.draw()
            await pilot.pause()
            Path(wanted).write_text(app.export_screenshot(title="devloop up"))
