"""What the screen looks like, at three sizes in each state and in each theme: as somebody has
approved it, every character with its colours.

`DEVLOOP_APPROVE=DIR` writes the files anew, and the pictures into that folder, to be looked at.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devloop.tui.app import UpApp

from .pictures import SIZES, STATES, Clock, approved_form, ground_of, show

if TYPE_CHECKING:
    from textual.pilot import Pilot

STORED = Path(__file__).parent / "snapshots"
APPROVE = os.environ.get("DEVLOOP_APPROVE")
SIZE = SIZES[1]


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_the_screen_looks_as_it_was_approved(size: tuple[int, int], state: str) -> None:
    clock = Clock()
    app = UpApp(ground_of(state), clock)
    await check(app, clock, state, size, f"{state}-{size[0]}x{size[1]}")


@pytest.mark.parametrize("theme", ["colour-blind", "16"])
@pytest.mark.parametrize("state", ["running", "failed"])
async def test_the_other_themes_look_as_they_were_approved(theme: str, state: str) -> None:
    clock = Clock()
    app = UpApp(ground_of(state, theme), clock)
    await check(app, clock, state, SIZE, f"{state}-{theme}")


async def check(app: UpApp, clock: Clock, state: str, size: tuple[int, int], name: str) -> None:
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        show(app, clock, state)
        await settled(pilot)
        if state != "asked":
            app.draw()
        await settled(pilot)
        svg = await still(pilot)
    picture = approved_form(svg, size[0])
    if APPROVE:
        Path(APPROVE, f"{name}.svg").write_text(svg)
        STORED.mkdir(exist_ok=True)
        (STORED / f"{name}.txt").write_text(picture)
    assert picture == (STORED / f"{name}.txt").read_text()


async def still(pilot: Pilot[None]) -> str:
    """The picture once it is the same twice: a scrollbar is drawn after what it scrolls."""
    columns = pilot.app.size.width
    svg = before = ""
    while not svg or approved_form(svg, columns) != approved_form(before, columns):
        before = svg or pilot.app.export_screenshot()
        await pilot.pause(0.02)
        svg = pilot.app.export_screenshot()
    return svg


async def settled(pilot: Pilot[None]) -> None:
    """Drawn, and drawn again where that has changed a pane's size."""
    assert isinstance(pilot.app, UpApp)
    await pilot.pause()
    await pilot.pause()
    while not pilot.app.is_drawn:
        await pilot.pause(0.01)
    await pilot.pause()
