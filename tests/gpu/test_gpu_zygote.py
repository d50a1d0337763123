"""torch with CUDA, started by `devloop exec` from a zygote that has imported torch already.

DEVLOOP_GPU_PYTHON names the interpreter that has torch; without it, the one that runs the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Read before the tests' own environment is made, which has no DEVLOOP_ variables.
PYTHON = os.environ.get("DEVLOOP_GPU_PYTHON", sys.executable)

SCRIPT = """\
import torch

ones = torch.ones(1024, 1024, device="cuda")
print("sum", int((ones @ ones).sum().item()))
print("on", torch.cuda.current_device())
"""


def sees_a_gpu() -> bool:
    code = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    try:
        tried = subprocess.run([PYTHON, "-c", code], capture_output=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not sees_a_gpu(), reason="needs torch that sees an NVIDIA GPU"),
    pytest.mark.timeout(300),
]


def devloop(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "devloop.cli.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_torch_computes_on_the_gpu_in_a_child_of_the_zygote(project: Path) -> None:
    (project / "train.py").write_text(SCRIPT)
    (project / "devloop.toml").write_text('[run]\npreload = ["torch"]\n')
    try:
        for _ in range(2):
            run = devloop("exec", "--", PYTHON, "train.py")
            assert run.returncode == 0, run.stderr
            assert run.stdout.splitlines() == [f"sum {1024**3}", "on 0"]
        events = devloop("exec", "--json", "--", PYTHON, "train.py").stdout.splitlines()
        assert '"zygote"' in json.dumps([json.loads(event) for event in events])
    finally:
        devloop("down")
