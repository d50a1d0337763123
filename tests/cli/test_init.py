"""`devloop init`."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from devloop.cli import init
from devloop.cli.config import load_config
from devloop.cli.errors import ConfigError
from devloop.cli.parser import parse_args

if TYPE_CHECKING:
    from pathlib import Path


def _init(project: Path) -> str:
    assert init.run(parse_args(["init"])) == 0
    return (project / "devloop.toml").read_text()


def test_what_is_found_becomes_configuration(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("main.py", "train.py", ".env"):
        (project / name).touch()
    for name in ("checkpoints", "wandb", ".venv"):
        (project / name).mkdir()
    (project / ".venv" / "pyvenv.cfg").touch()
    assert ".venv/bin/python" in _init(project)
    config = load_config()
    assert config.run.command == ("python", "train.py")
    assert config.run.env_file == project / ".env"
    assert config.sync.outputs == ("/checkpoints/", "/wandb/")
    told = capsys.readouterr()
    assert told.out == ""
    assert str(project / "devloop.toml") in told.err
    assert "next: `devloop up` runs `python train.py`" in told.err
    assert list(init.found_words(init.look_around(project))) == [
        ".venv: its Python runs the program",
        ".env: its variables are set for runs",
        "checkpoints/: comes back here after each run",
        "wandb/: comes back here after each run",
    ]


def test_an_empty_directory_gets_a_config_of_defaults(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_config()
    _init(project)
    after = load_config()
    assert (after.run, after.sync, after.agent) == (before.run, before.sync, before.agent)
    assert "devloop up -- COMMAND" in capsys.readouterr().err


def test_every_commented_key_is_valid_and_states_its_default(project: Path) -> None:
    text = _init(project)
    examples = {"command": "python train.py", "env_file": ".env"}
    uncommented = re.sub(r"(?m)^# (\[|\w+ = )", r"\1", text)
    (project / "devloop.toml").write_text(uncommented)
    given = load_config()
    (project / "devloop.toml").unlink()
    default = load_config()
    assert given.run.command == tuple(examples["command"].split())
    assert given.run.env_file == project / examples["env_file"]
    assert given.run.on_save == default.run.on_save
    assert given.run.stop_timeout_s == default.run.stop_timeout_s
    assert given.run.gpus == "1"
    assert (given.sync, given.watch, given.agent) == (default.sync, default.watch, default.agent)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_folder_that_git_tracks_is_no_output(project: Path) -> None:
    for name in ("results", "runs"):
        (project / name).mkdir()
        (project / name / "a.csv").touch()
    for words in (("init", "-q"), ("add", "results")):
        subprocess.run(["git", *words], cwd=project, check=True)
    _init(project)
    assert load_config().sync.outputs == ("/runs/",)


def test_every_top_level_key_is_named(project: Path) -> None:
    text = _init(project)
    assert '# target = "local"' in text
    assert '# image = "host"' in text


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({"pyproject.toml": "[project.scripts]\nserve = 'a:b'\n"}, ("serve",)),
        ({"tool/__main__.py": ""}, ("python", "-m", "tool")),
        ({"a/__main__.py": "", "b/__main__.py": ""}, ()),
        ({"pyproject.toml": "[broken", "app.py": ""}, ("python", "app.py")),
        ({"pyproject.toml": "[broken"}, ()),
    ],
)
def test_an_entrypoint_is_recognised(
    project: Path, files: dict[str, str], command: tuple[str, ...]
) -> None:
    for name, text in files.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    _init(project)
    assert load_config().run.command == command


def test_nothing_is_ever_overwritten(project: Path) -> None:
    (project / "devloop.toml").write_text("# mine\n")
    with pytest.raises(ConfigError, match="configures devloop already"):
        init.run(parse_args(["init"]))
    assert (project / "devloop.toml").read_text() == "# mine\n"


def test_a_pyproject_that_configures_is_respected(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.devloop]\ntarget = 'local'\n")
    with pytest.raises(ConfigError, match=r"pyproject\.toml configures devloop already"):
        init.run(parse_args(["init"]))
    assert not (project / "devloop.toml").exists()


def test_a_dangling_link_is_not_written_through(project: Path) -> None:
    (project / "devloop.toml").symlink_to(project / "elsewhere")
    with pytest.raises(ConfigError, match="exists"):
        init.run(parse_args(["init"]))
    assert not (project / "elsewhere").exists()
