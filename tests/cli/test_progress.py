"""The words and the line of a long sync."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from devloop.cli.progress import describe_progress
from devloop.cli.statusline import StatusLine
from devloop.sync.progress import Progress

if TYPE_CHECKING:
    import pytest


def test_each_step_has_its_words() -> None:
    progress = Progress()
    progress.scanned_files = 12_300
    with progress.during("scan"):
        assert describe_progress(progress, 0) == "scanning… 12,300 files"
    with progress.uploading(10_000, 10**9):
        progress.sent_files, progress.sent_bytes = 412, 120 * 10**6
        assert describe_progress(progress, progress.upload_began_s + 2) == (
            "uploading 412 of 10,000 files, 120 MB of 1 GB, 60 MB/s"
        )
    with progress.uploading(1, 10**9):
        words = describe_progress(progress, progress.upload_began_s)
        assert words == "uploading 1 file, 0 B of 1 GB"
    with progress.during("apply"):
        assert describe_progress(progress, progress.began_s + 3) == "applying… 3 s"


def test_a_line_is_cleared_before_output_and_not_drawn_over_a_programs_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    size = os.terminal_size((12, 24))
    monkeypatch.setattr(os, "get_terminal_size", lambda _: size)
    line = StatusLine()
    line.draw("uploading much")
    line.make_way(b"no newline yet")
    line.draw("uploading more")
    line.make_way(b"here\n")
    line.draw("end")
    line.clear()
    line.clear()
    assert terminal.getvalue() == "\r\x1b[Kuploading m\r\x1b[K\r\x1b[Kend\r\x1b[K"


def test_an_installation_is_told_even_while_somebody_may_be_asked() -> None:
    progress = Progress()
    with progress.held(), progress.during("scan"):
        assert progress.step is None
        progress.installing("fetching")
        told = f"{progress.step} {describe_progress(progress, 0)}"
        assert told == "install installing the agent on the box: fetching what it needs"
        progress.installing("sending", 3 * 10**6, 12 * 10**6)
        words = describe_progress(progress, 0)
        assert words == "installing the agent on the box: sending 3 MB of 12 MB"
        progress.installing(None)
        assert progress.step is None
