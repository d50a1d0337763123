"""Makes the pictures of the screen that the documents show. See `scripts/screenshots`."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cli.config import load_config
from devloop.cli.parser import parse_args
from devloop.cli.screen import ProjectGround
from devloop.tui.app import UpApp

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.pilot import Pilot

SIZES = {"narrow": (80, 24), "wide": (160, 45)}
TIMEOUT_S = 60.0
TRAIN = """\
import time

from model import forward

for step in range(0, 1000, 10):
    loss = forward(step)
    print(f"\\033[2mepoch 0\\033[0m step={step:4} \\033[1mloss\\033[0m={loss:.4f}", flush=True)
    time.sleep(0.05)
"""
MODEL = "def forward(step):\n    return 8 / (step + {})\n"
BROKEN = 'def forward(step):\n    shapes = {{"x": (4, 8)}}\n    return shapes["weight"]\n'


async def main(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        project = folder / name / "demo"
        project.mkdir(parents=True)
        (project / "train.py").write_text(TRAIN)
        (project / "model.py").write_text(MODEL.format(9))
        await _take(project, size, target, name)


async def _take(project: Path, size: tuple[int, int], target: Path, name: str) -> None:
    args = parse_args(["-C", str(project), "up", "--", "python3", "train.py"])
    config = load_config(project, flags={"run.command": ["python3", "train.py"]})
    app = UpApp(ProjectGround(args, config))
    async with app.run_test(size=size) as pilot:
        for number in (1, 2, 3):
            (project / "model.py").write_text(MODEL.format(number + 9))
            await _until(pilot, partial(_runs, app, number))
            await pilot.pause(3.0)
        _keep(app, target / f"running-{name}.svg")
        (project / "model.py").write_text(BROKEN.format())
        await _until(pilot, lambda: app.view.newest and app.view.newest.has_failed)
        await pilot.pause(1.5)
        _keep(app, target / f"failed-{name}.svg")
        await app.action_leave()
        await _until(pilot, lambda: not app.is_running or app.view.leaving)


def _runs(app: UpApp, number: int) -> bool:
    return app.view.live is not None and app.view.live.number >= number


async def _until(pilot: Pilot[None], is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not is_so():
            await pilot.pause(0.05)


def _keep(app: UpApp, path: Path) -> None:
    path.write_text(app.export_screenshot(title="devloop up"))
    print(path)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
