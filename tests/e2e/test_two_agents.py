"""Two agents that would share what only one may have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .box import Box

pytestmark = pytest.mark.embedded


def test_a_second_agent_on_one_state_directory_is_refused_and_told_of_the_first(
    own_box: Box,
) -> None:
    project = own_box.project()
    assert own_box.exec(project, "echo", "one").text == "one\n"
    other = {"DEVLOOP_RUNTIME_DIR": str(own_box.base / "other-login")}
    done = own_box.exec(project, "echo", "two", env=other)
    done.assert_error(f"is in use by the agent at {own_box.runtime_dir / 'agent.sock'}")
    assert f"DEVLOOP_RUNTIME_DIR={own_box.runtime_dir} devloop down" in done.stderr
    assert own_box.exec(project, "echo", "three").text == "three\n"


def test_when_the_first_has_gone_the_second_may(own_box: Box) -> None:
    project = own_box.project()
    own_box.exec(project, "echo", "one")
    own_box.agent().kill()
    other = {"DEVLOOP_RUNTIME_DIR": str(own_box.base / "other-login")}
    assert own_box.exec(project, "echo", "two", env=other).text == "two\n"
    assert own_box.run(project, "logs", "1", env=other).text == "one\n"
    assert own_box.run(project, "down", env=other).code == 0


def test_what_is_made_in_a_state_directory_open_to_others_is_the_users_alone(own_box: Box) -> None:
    own_box.state_dir.mkdir()
    own_box.state_dir.chmod(0o755)
    own_box.exec(own_box.project(), "true")
    assert own_box.state_dir.stat().st_mode & 0o777 == 0o755
    with os.scandir(own_box.state_dir) as entries:
        assert [entry.name for entry in entries if entry.stat().st_mode & 0o077] == []
