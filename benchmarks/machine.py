"""What has to be known of a machine to read figures that were taken on it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["facts"]


def facts() -> dict[str, str]:
    versions = {
        "devloop": [str(Path(sys.executable).with_name("devloop")), "version"],
        "entr": ["entr"],
        "rsync": ["rsync", "--version"],
        "ssh": ["ssh", "-V"],
    }
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "commit": _commit(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB",
        "python": platform.python_version(),
        "load average": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        **{name: _version(argv) for name, argv in versions.items()},
    }


def _commit() -> str:
    here = Path(__file__).parent
    found = _words(["git", "-C", str(here), "rev-parse", "--short", "HEAD"])
    changed = _words(["git", "-C", str(here), "status", "--porcelain"])
    return (found.strip() or "unknown") + (" with changes" if changed.strip() else "")


def _version(argv: list[str]) -> str:
    found = re.search(r"\d+\.\d+[\w.]*", _words(argv))
    return found[0] if found else "not installed"


def _words(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown"
    found = re.search(r"model name\s*:\s*(.*)", text)
    return found[1] if found else platform.machine()
