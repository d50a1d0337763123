"""The screen of a project in an image that comes as it is touched: what the panes say of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.box import open_box, wait_until
from tests.images.layout import Image, layer, write_layout
from tests.images.possible import skip_unless_lazy_containers
from tests.images.programs import small_root

from .terminal import open_terminal

if TYPE_CHECKING:
    from tests.e2e.box import Box

FILES = {f"opt/data/{n}": b"%d\n" % n * 64 for n in range(40)}
COMMAND = ("sh", "-c", "cat /opt/data/1? && sleep 600")


@pytest.fixture(autouse=True)
def _possible() -> None:
    skip_unless_lazy_containers()


def pushed_tier(folder: Path) -> str:
    """The text of a configuration whose image a folder has, with what its start touches."""
    write_layout(folder / "layout", [Image([layer({**FILES, **small_root("sh", "cat", "sleep")})])])
    image = f'image = "oci:{folder}/layout:latest"\n'
    with open_box() as box:
        project = box.project()
        (project / "devloop.toml").write_text(image)
        assert box.exec(project, "sh", "-c", "cat /opt/data/1?").code == 0
        wait_until(lambda: profiles(box))
        done = box.run(project, "image", "push", "--to", f"file://{folder}/tier")
        assert done.code == 0, done
    return f'{image}store = ["file://{folder}/tier"]\n'


def profiles(box: Box) -> list[Path]:
    return list((box.state_dir / "images" / "profiles").glob("*"))


def test_a_container_its_files_and_its_end_are_told(tmp_path: Path) -> None:
    configuration = pushed_tier(tmp_path)
    with open_box() as box:
        project = box.project()
        (project / "devloop.toml").write_text(configuration)
        with open_terminal(box, project, "up", "--", *COMMAND, rows=45, columns=190) as terminal:
            terminal.wait_for("RUN 1")
            terminal.wait_for("container warm")
            terminal.wait_for("prefetched")
            killed = [p for p in box.agent().children(recursive=True) if "pause" in p.name()]
            assert killed
            killed[0].kill()
            terminal.wait_for("run 1 was lost")
            terminal.wait_for("its container has ended")
            terminal.type("r")
            terminal.wait_for("▶ RUN 2")
            terminal.wait_for("restarted 1×")
            terminal.type("q")
            terminal.wait_for("is live")
            terminal.type("s")
            assert terminal.wait_for_end() == 0
            terminal.assert_given_back()
