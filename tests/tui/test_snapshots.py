"""What the screen looks like, at three sizes in five states: as somebody has approved it.

`DEVLOOP_APPROVE=DIR` writes the texts anew, and the pictures into that folder, to be looked at.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from devloop.tui.app import UpApp

from .fakes import FakeGround
from .pictures import SIZES, STATES, Clock, show, text_of_picture

STORED = Path(__file__).parent / "snapshots"
APPROVE = os.environ.get("DEVLOOP_APPROVE")


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_the_screen_looks_as_it_was_approved(size: tuple[int, int], state: str) -> None:
    clock = Clock()
    app = UpApp(FakeGround(), clock)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        show(app, clock, state)
        await pilot.pause()
        app.draw()
        await pilot.pause()
        svg = app.export_screenshot()
    text = text_of_picture(svg, size[0])
    name = f"{state}-{size[0]}x{size[1]}"
    if APPROVE:
        Path(APPROVE, f"{name}.svg").write_text(svg)
        STORED.mkdir(exist_ok=True)
        (STORED / f"{name}.txt").write_text(text)
    assert text == (STORED / f"{name}.txt").read_text()
