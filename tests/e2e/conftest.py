"""Boxes: one shared by the tests of a worker, and fresh ones for tests that hurt their agent.

A test marked `over_ssh` runs on both targets. With DEVLOOP_SOAK=1 all do, but for those marked
`embedded`: they are about what only an agent on the client's own machine has.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from tests.sshd import find_sshd

from .box import open_box, open_ssh_box

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .box import Box

IS_SOAK = os.environ.get("DEVLOOP_SOAK") == "1"
BOXES = ("box", "own_box")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition
    is_both = IS_SOAK or marks.get_closest_marker("over_ssh")
    if not is_both or marks.get_closest_marker("embedded"):
        return
    for name in BOXES:
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, ["embedded", "ssh"], indirect=True, scope=None)


@pytest.fixture(scope="session")
def ssh_shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What SSH boxes fetch and install once, for all workers."""
    base = tmp_path_factory.getbasetemp()
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    return (base.parent if is_worker else base) / "ssh-shared"


@pytest.fixture(scope="session")
def box(request: pytest.FixtureRequest, ssh_shared: Path) -> Iterator[Box]:
    with _open(request, ssh_shared) as opened:
        yield opened


@pytest.fixture
def own_box(request: pytest.FixtureRequest, ssh_shared: Path) -> Iterator[Box]:
    """Its agent is nobody else's."""
    with _open(request, ssh_shared) as opened:
        yield opened


@pytest.fixture(scope="session")
def ssh_box(ssh_shared: Path) -> Iterator[Box]:
    _need_sshd()
    with open_ssh_box(ssh_shared) as opened:
        yield opened


@pytest.fixture
def own_ssh_box(ssh_shared: Path) -> Iterator[Box]:
    _need_sshd()
    with open_ssh_box(ssh_shared) as opened:
        yield opened


def _open(request: pytest.FixtureRequest, shared: Path) -> contextlib.AbstractContextManager[Box]:
    return open_either(getattr(request, "param", "embedded"), shared)


def open_either(kind: str, shared: Path) -> contextlib.AbstractContextManager[Box]:
    """`kind`: "embedded" or "ssh"."""
    if kind == "embedded":
        return open_box()
    _need_sshd()
    return open_ssh_box(shared)


def _need_sshd() -> None:
    if find_sshd() is None:
        pytest.skip("needs sshd")
