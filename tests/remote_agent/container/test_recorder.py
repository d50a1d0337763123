"""What the recorder sees of a file system, in whatever mount namespace files are opened."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# In a mount namespace of its own: the mount is nobody else's.
RECORD = """
import subprocess, sys
from devloop.remote_agent.container.recorder import OpenRecorder
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
for name in ("a", "b", "c"):
    open(f"{folder}/{name}", "w").close()
recorder = OpenRecorder(folder)
reads = f"cat {folder}/b {folder}/a {folder}/b"
subprocess.run(["unshare", "--mount", "sh", "-c", reads], check=True)
print(recorder.close())
"""


def test_files_are_named_below_the_root_in_the_order_of_their_opening(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    command = ["unshare", "--mount", sys.executable, "-c", RECORD, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[b'/b', b'/a']\n"
