"""Promise 7: a run executes the saved bytes, whatever bytecode is cached.

A module that the entrypoint imports is saved again with the same size within the same second:
what Python itself takes for unchanged.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.e2e.box import Up
from tests.e2e.conftest import open_either

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.box import Box

TRIES = 200 if os.environ.get("DEVLOOP_SOAK") == "1" else 40
MAIN = "import sys, token_module\nprint(token_module.TOKEN, sys.dont_write_bytecode, flush=True)\n"


@pytest.fixture(scope="module", params=["embedded", "ssh"])
def box(request: pytest.FixtureRequest, ssh_shared: Path) -> Iterator[Box]:
    with open_either(request.param, ssh_shared) as opened:
        yield opened


@pytest.mark.promise(7)
def test_saves_of_the_same_size_within_a_second_run_the_new_code(box: Box) -> None:
    project = project_of(box)
    up = Up(box, project, "--", "python3", "main.py")
    up.out.wait_for("^0000 False$")
    for number in range(1, TRIES + 1):
        save_token(project, number)
        up.out.wait_for(r"^\d{4} False$", count=number + 1)
    up.leave()
    printed = [int(line.split()[0]) for line in up.out.text.splitlines()]
    stale = [number for number, token in enumerate(printed) if token != number]
    print(f"{len(stale)} stale in {TRIES} tries")
    assert stale == []


@pytest.mark.promise(7)
def test_an_exec_right_after_a_save_runs_the_new_code(box: Box) -> None:
    project = project_of(box)
    tries = TRIES // 4
    for number in range(tries):
        save_token(project, number)
        done = box.exec(project, "python3", "main.py")
        assert done.text == f"{number:04} False\n"
    print(f"0 stale in {tries} tries")


def project_of(box: Box) -> Path:
    project = box.project(main=MAIN)
    save_token(project, 0)
    return project


def save_token(project: Path, number: int) -> None:
    """One save: all have one size, and an mtime in the second in which they were written."""
    fresh = project / ".token.tmp"
    fresh.write_text(f'TOKEN = "{number:04}"\n')
    second_ns = fresh.stat().st_mtime_ns // 10**9 * 10**9
    os.utime(fresh, ns=(second_ns, second_ns + number))
    fresh.replace(project / "token_module.py")
