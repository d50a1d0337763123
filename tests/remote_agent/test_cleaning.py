"""What folders take, and their removal."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from devloop.remote_agent.cleaning import delete_removed, delete_tree, measure, taken_by

NOBODY = 65534


def test_a_folder_takes_what_du_says(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    for number in range(20):
        (root / "a" / f"{number}").write_bytes(b"x" * 5000 * number)
    (root / "a" / "b" / "second name").hardlink_to(root / "a" / "7")
    (root / "link").symlink_to("/")
    du = subprocess.run(["du", "-s", "--block-size=1", root / "a"], capture_output=True, check=True)
    folder_bytes = (root / "a").stat().st_blocks * 512
    taken = taken_by(root / "a")
    assert (taken.files, taken.shared_bytes) == (21, 0)
    assert taken.size_bytes + folder_bytes == int(du.stdout.split()[0])


def test_what_has_a_name_elsewhere_too_is_shared(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_bytes(b"x" * 8192)
    (tmp_path / "store").hardlink_to(tmp_path / "here" / "file")
    taken = taken_by(tmp_path / "here")
    assert taken.files == 1
    assert taken.size_bytes == taken.shared_bytes > 0


def test_a_workspace_that_is_not_there_takes_nothing(tmp_path: Path) -> None:
    usage = measure(tmp_path / "nothing")
    assert usage == ((0, 0, 0), (0, 0, 0), (0, 0, 0), 0)


def test_a_removal_follows_no_link_and_enters_locked_folders(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (tmp_path / "kept").write_text("kept")
    root = tmp_path / "root"
    (root / "locked" / "below").mkdir(parents=True)
    (root / "locked" / "below" / "file").touch()
    (root / "link").symlink_to(outside)
    (root / "locked" / "below").chmod(0)
    (root / "locked").chmod(0o300)
    assert delete_tree(root) == []
    assert not root.exists()
    assert outside.stat().st_mode & 0o777 == 0o500
    assert (tmp_path / "kept").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_belongs_to_another_user_is_named_and_the_rest_goes() -> None:
    with tempfile.TemporaryDirectory() as base:
        root = Path(base) / "root"
        (root / "theirs").mkdir(parents=True)
        (root / "theirs" / "file").touch()
        (root / "ours").mkdir()
        for path in (Path(base), root, root / "ours"):
            os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            left = delete_tree(root)
        finally:
            os.seteuid(0)
        assert left == [f"{root}/theirs/file: Permission denied"]
        assert [path.name for path in root.iterdir()] == ["theirs"]


def test_only_what_was_set_aside_for_removal_is_deleted(tmp_path: Path) -> None:
    for name in (".removed-p-1", ".removed-q-2", "p"):
        (tmp_path / name / "files").mkdir(parents=True)
    delete_removed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
