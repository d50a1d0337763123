"""An image whose links lead elsewhere redirects no mount: nothing outside its root changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.remote_agent.container.rooms import KINDS, Room, make_root, skip_unless_possible

from devloop.remote_agent.container.spec import FolderRoot
from devloop.remote_agent.spawn import StartFailed

if TYPE_CHECKING:
    from devloop.remote_agent.container.runtime import Kind

PLACES = ("dev", "proc", "sys", "etc", "run", "run/devloop", "workspace", "etc/resolv.conf")


@pytest.mark.promise(13)
@pytest.mark.parametrize("kind", KINDS)
def test_no_link_of_an_image_redirects_a_mount(tmp_path: Path, kind: Kind) -> None:
    skip_unless_possible(kind)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine\n")
    before = _state(victim)
    outcomes = []
    for number, place in enumerate(PLACES):
        for target in (str(victim), "../" * 30 + str(victim)[1:], "/", "/proc/self/root"):
            folder = tmp_path / f"{number}-{len(outcomes)}"
            folder.mkdir()
            outcomes.append(_start(folder, kind, place, target))
            assert _state(victim) == before, (place, target)
    started = sum(outcomes)
    print(f"promise 13: {len(outcomes)} roots, {started} started, 0 changed anything outside")
    assert str(victim) not in Path("/proc/self/mounts").read_text()


def _start(folder: Path, kind: Kind, place: str, target: str) -> bool:
    """Whether it starts; if not, it is said in one line."""
    root = make_root(folder / "root")
    link = root / place
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        for name in os.listdir(link):
            (link / name).unlink()
        link.rmdir()
    link.symlink_to(target)
    room = Room.enter(folder, kind, root=FolderRoot(root))
    try:
        room.run("/bin/sh", "-c", "echo x > /dev/shm/x; echo y > /etc/y; echo z > /workspace/z")
        return True
    except StartFailed as failure:
        return _refused(failure)
    finally:
        room.close()


def _refused(failure: StartFailed) -> bool:
    assert "\n" not in str(failure)
    assert failure.hint
    return False


def _state(folder: Path) -> list[tuple[str, int, int]]:
    paths = [folder, *sorted(folder.rglob("*"))]
    return [(str(p), p.lstat().st_mtime_ns, p.lstat().st_mode) for p in paths]
