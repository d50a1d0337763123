"""What runs in an image when nobody says what: its own Entrypoint and Cmd."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.images.layout import Image, layer, write_layout
from tests.images.possible import skip_unless_containers
from tests.images.programs import small_root

from .box import Tail, Up, events, save

if TYPE_CHECKING:
    from .box import Box

SHOWS = ["/bin/sh", "-c", 'echo "$0 of $PWD:" "$@"', "entrypoint"]
WAITS = 'trap "echo told; exit 5" USR1; trap "" INT TERM; echo on; while :; do sleep 0.02; done'


@pytest.fixture(autouse=True)
def _possible() -> None:
    skip_unless_containers()


def project_of(box: Box, folder: Path, **config: Any) -> Path:
    """Its image has this configuration."""
    write_layout(folder / "layout", [Image([layer(small_root("sh", "sleep"))], config=config)])
    project = box.project()
    (project / "devloop.toml").write_text(f'image = "oci:{folder}/layout:latest"\n')
    return project


def test_the_entrypoint_and_the_cmd_run_in_the_project_s_root(box: Box, tmp_path: Path) -> None:
    project = project_of(box, tmp_path, Entrypoint=SHOWS, Cmd=["a", "b c"], WorkingDir="/app")
    (project / "below").mkdir()
    done = box.run(project / "below", "exec")
    assert done.text == "entrypoint of /app: a b c\n", done
    assert " entrypoint a 'b c'" in box.run(project, "ps", "-a").text
    started = events(box.run(project, "exec", "--json"))[0]
    assert started["command"] == [*SHOWS, "a", "b c"]


def test_a_command_takes_the_place_of_both(box: Box, tmp_path: Path) -> None:
    project = project_of(box, tmp_path, Entrypoint=SHOWS, Cmd=["a"])
    assert box.exec(project, "sh", "-c", "echo $0 $#").text == "sh 0\n"
    config = project / "devloop.toml"
    config.write_text(config.read_text() + "[run]\ncommand = \"sh -c 'echo mine'\"\n")
    assert box.run(project, "exec").text == "mine\n"


def test_an_image_that_names_none_is_one_clear_error(box: Box, tmp_path: Path) -> None:
    project = project_of(box, tmp_path)
    done = box.run(project, "exec")
    done.assert_error(f"oci:{tmp_path}/layout:latest has neither an Entrypoint nor a Cmd")
    assert "run.command" in done.stderr
    assert box.exec(project, "sh", "-c", "echo all the same").text == "all the same\n"
    box.run(project, "exec", "--image", "host").assert_error("devloop exec: no command", code=2)


def test_up_runs_it_again_on_each_save(box: Box, tmp_path: Path) -> None:
    project = project_of(box, tmp_path, Cmd=["/bin/sh", "./main.sh"])
    save(project / "main.sh", "echo one\n")
    up = Up(box, project)
    up.out.wait_for("^one$")
    save(project / "main.sh", "echo two\n")
    up.out.wait_for("^two$")
    assert "running the image's own command on " in up.leave()


def test_stop_begins_with_the_signal_that_the_image_names(box: Box, tmp_path: Path) -> None:
    project = project_of(box, tmp_path, Cmd=["/bin/sh", "-c", WAITS], StopSignal="SIGUSR1")
    process = box.start(project, "exec", stdout=subprocess.PIPE)
    out = Tail(process.stdout)
    out.wait_for("^on$")
    assert box.run(project, "stop").code == 0
    out.wait_for("^told$")
    assert process.wait(10) == 5
