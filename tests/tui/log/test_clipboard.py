"""The desktop's clipboard tools, played by a script."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from devloop.tui.log import clipboard

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `xclip` that writes what it got, and how it was called."""
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    path = tmp_path / "xclip"
    path.write_text(f'#!/bin/sh\necho "$@" >"{tmp_path}/called"\ncat >"{tmp_path}/got"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(clipboard.sys, "platform", "linux")
    return tmp_path


async def test_the_text_is_on_the_tools_stdin(tool: Path) -> None:
    assert await clipboard.put("日本\nzwei")
    assert (tool / "got").read_text() == "日本\nzwei"
    assert (tool / "called").read_text() == "-selection clipboard\n"


async def test_a_tool_that_fails_is_no_error(tool: Path) -> None:
    (tool / "xclip").write_text("#!/bin/sh\nexit 3\n")
    assert not await clipboard.put("x")


async def test_a_tool_that_hangs_is_ended(tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipboard, "TIMEOUT_S", 0.05)
    (tool / "xclip").write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    assert not await clipboard.put("x")


async def test_without_a_desktop_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(clipboard.sys, "platform", "linux")
    assert clipboard.command() is None
    assert not await clipboard.put("x")


def test_a_mac_has_pbcopy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pbcopy").write_text("#!/bin/sh\n")
    (tmp_path / "pbcopy").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(clipboard.sys, "platform", "darwin")
    assert clipboard.command() == ["pbcopy"]
