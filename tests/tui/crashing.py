"""A screen with a mistake in it: `r` crashes it. Run in a terminal by a test."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.tui.fakes import FakeGround

from devloop.tui.app import UpApp


class Crashing(UpApp):
    def action_rerun(self) -> None:
        raise RuntimeError("deliberate")


if __name__ == "__main__":
    app = Crashing(FakeGround())
    asyncio.run(app.run_async())
    sys.exit(app.return_code)
