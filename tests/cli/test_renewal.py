"""The configuration of an `up` that goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devloop.cli.config import load_config
from devloop.cli.errors import ConfigError
from devloop.cli.parser import config_flags, parse_args
from devloop.cli.renewal import LiveConfig

if TYPE_CHECKING:
    from pathlib import Path


class Project:
    def __init__(self, root: Path, *words: str) -> None:
        self.file = root / "devloop.toml"
        args = parse_args(["-C", str(root), "up", *words])
        self.live = LiveConfig(args, load_config(root, flags=config_flags(args)))

    def save(self, text: str) -> str:
        """What is said of it, hint included."""
        self.file.with_suffix(".new").write_text(text)
        self.file.with_suffix(".new").replace(self.file)
        told = self.live.renew()
        return "" if told is None else f"{told.text}; {told.hint}".removesuffix("; ")


def test_what_can_change_holds_for_the_next_run(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert project.live.renew() is None
    said = project.save('run.command = "python a.py"\nrun.on_save = "queue"\nscreen.theme = "16"\n')
    assert said == "devloop.toml has changed: the next run is as it says"
    config = project.live.config
    assert config.run.command == ("python", "a.py")
    assert (config.run.on_save, config.screen.theme) == ("queue", "16")
    assert project.live.renew() is None


def test_what_a_session_was_opened_with_needs_a_new_one_and_is_named(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert project.save('target = "gpu1"\nports = [6006]\n') == (
        "target, ports of devloop.toml will hold when `devloop up` is started again"
    )
    assert project.live.config.target == "local"
    said = project.save('target = "gpu1"\nrun.env = { A = "1" }\n')
    assert "the next run is as it says; target of devloop.toml will hold when" in said


def test_a_session_that_is_yet_to_be_opened_takes_all_of_it(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.file.write_text('target = "gpu1"\n')
    project.live.renew_all()
    assert project.live.config.target == "gpu1"
    project.file.write_text("target = \n")
    with pytest.raises(ConfigError):
        project.live.renew_all()


def test_a_file_that_is_wrong_says_so_once_and_changes_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.save('run.command = "python a.py"\n')
    said = project.save('run.comand = "python b.py"\n')
    assert "unknown key run.comand" in said
    assert said.endswith("what was configured before still holds")
    assert project.live.renew() is None
    assert project.live.config.run.command == ("python", "a.py")


def test_a_comment_is_no_change_and_flags_beat_the_file(tmp_path: Path) -> None:
    project = Project(tmp_path, "--", "python", "mine.py")
    assert project.save("# nothing\n") == ""
    assert project.save('run.command = "python a.py"\n') == ""
    assert project.live.config.run.command == ("python", "mine.py")


def test_a_file_that_is_gone_leaves_the_defaults(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    project = Project(tmp_path)
    project.save('run.command = "python a.py"\n')
    project.file.unlink()
    assert project.live.renew() is not None
    assert project.live.config.run.command == ()
