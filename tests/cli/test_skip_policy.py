"""A test that this machine could have run must not be skipped in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

Completed = subprocess.CompletedProcess[str]

SUITE = """
import pytest

def test_runs(): pass

def test_is_skipped(): pytest.skip({reason!r})
"""


def _pytest(directory: Path, reason: str, *arguments: str, **environ: str) -> Completed:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", directory)
    (directory / "test_it.py").write_text(SUITE.format(reason=reason))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments, directory],
        cwd=directory,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", [(), ("-n", "1")])
def test_a_skip_without_a_true_reason_fails_in_ci(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = _pytest(tmp_path, "flaky", *arguments, CI="1")
    assert done.returncode == 1
    assert "test_is_skipped: skipped here, though: flaky" in done.stdout


def test_a_skip_is_no_failure_outside_ci(tmp_path: Path) -> None:
    assert _pytest(tmp_path, "flaky", CI="").returncode == 0


def test_a_skip_for_what_the_machine_lacks_is_no_failure_in_ci(tmp_path: Path) -> None:
    assert _pytest(tmp_path, "needs entr to compare with", CI="1", PATH="").returncode == 0
