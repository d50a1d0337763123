"""What the first picture does not wait for: whatever has to do with a session comes after it."""

from __future__ import annotations

import subprocess
import sys

LATER = (
    "grpc",
    "watchfiles",
    "paramiko",
    "devloop.sync.session",
    "devloop.sync.loop",
    "devloop.sync.client",
    "devloop.sync.scan",
    "devloop.tui.dialogs",
    "devloop.tui.diffs",
)


def test_a_picture_is_drawn_before_anything_of_a_session_is_loaded() -> None:
    code = (
        "import sys, devloop.cli.main, devloop.cli.up, devloop.tui.app\n"
        f"print(sorted(set({LATER!r}) & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout == "[]\n"
