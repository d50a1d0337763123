"""`devloop exec`: where a command starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .box import Box

WHERE = "import os; print(os.getcwd().rpartition('/files')[2] or '/', os.environ['DEVLOOP_RUN'])"


@pytest.mark.over_ssh
def test_a_command_starts_where_it_was_typed(box: Box) -> None:
    project = box.project(where=WHERE)
    (project / "devloop.toml").write_text('[run]\ncommand = "python where.py"\n')
    below = project / "deep" / "er"
    below.mkdir(parents=True)
    (below / "here.py").write_text(WHERE)
    assert box.exec(below, "python", "here.py").stdout.startswith(b"/deep/er ")
    assert box.run(project, "exec", "-C", "deep/er", "python", "here.py").stdout.startswith(
        b"/deep/er "
    )
    assert box.exec(project, "python", "where.py").stdout.startswith(b"/ ")


def test_the_configured_command_starts_in_the_projects_root(box: Box) -> None:
    project = box.project(where=WHERE)
    (project / "devloop.toml").write_text('[run]\ncommand = "python where.py"\n')
    (project / "deep").mkdir()
    assert box.run(project / "deep", "exec").stdout.startswith(b"/ ")


def test_a_folder_that_is_not_synced_is_no_place_to_start(box: Box) -> None:
    project = box.project()
    (project / "devloop.toml").touch()
    (project / ".gitignore").write_text("ignored/\n")
    (project / "ignored").mkdir()
    box.exec(project / "ignored", "true").assert_error("No such file or directory", hint=False)
