"""The interpreter that scripts run on: a fresh virtual environment, the same for every peer.

Not the one in PATH: where that is a shell wrapper (pyenv's), it alone costs more than the loop.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from .sandbox import Skipped

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["install", "make_environment", "path_with"]


def make_environment(directory: Path) -> Path:
    base = os.path.join(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    subprocess.run([base, "-m", "venv", "--without-pip", directory], check=True)
    return directory


def path_with(environment: Path) -> str:
    return f"{environment / 'bin'}:{os.environ.get('PATH', os.defpath)}"


def install(environment: Path, requirement: str) -> str:
    """Returns name and version. Raises Skipped where it cannot be had."""
    name = requirement.partition("==")[0]
    python = environment / "bin" / "python3"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--python", python, "install", "--only-binary", ":all:", requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Skipped(f"{requirement} cannot be installed: {done.stderr.strip()[-200:]}")
    # The import also writes its bytecode, which no peer should pay for.
    code = f"import {name}; print({name}.__version__)"
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    version = subprocess.run([python, "-c", code], capture_output=True, text=True, env=env)
    if version.returncode:
        raise Skipped(f"{requirement} was installed, and cannot be imported")
    return f"{name} {version.stdout.strip()}"
