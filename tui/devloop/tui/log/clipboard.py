"""The desktop's clipboard, through the tool that the machine has for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys

__all__ = ["command", "put"]

TIMEOUT_S = 3.0


def command() -> list[str] | None:
    """What takes the clipboard's text on its stdin; None where there is nothing."""
    if sys.platform == "darwin":
        candidates = [["pbcopy"]]
    else:
        candidates = []
        if os.environ.get("WAYLAND_DISPLAY"):
            candidates.append(["wl-copy"])
        if os.environ.get("DISPLAY"):
            candidates.append(["xclip", "-selection", "clipboard"])
    return next((words for words in candidates if shutil.which(words[0])), None)


async def put(text: str) -> bool:
    """Whether a tool took it. Without a terminal or an output of ours: some of them stay."""
    words = command()
    if words is None:
        return False
    nowhere = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=nowhere, stderr=nowhere
        )
    except OSError:
        return False
    try:
        await asyncio.wait_for(process.communicate(text.encode()), TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
    return process.returncode == 0
