"""File system calls on a container's writable root, and the same ones on a plain folder."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.images.layout import Dir, File, Hardlink, Image, Symlink, layer, write_layout
from tests.remote_agent.container import file_calls
from tests.remote_agent.container.rooms import Room, skip_unless_possible
from tests.remote_agent.container.test_container import needs_python

from devloop.cafs.images import ImageStore
from devloop.cafs.mount import probe
from devloop.cafs.oci.ingest import ingest
from devloop.cafs.oci.source import open_image
from devloop.remote_agent.container.spec import ExtraMount, ImageRoot

if TYPE_CHECKING:
    from tests.images.layout import Entry

    from devloop.cafs.mount.root import LevelName

# What overlayfs does otherwise (Documentation/filesystems/overlayfs.rst, "Non-standard behavior").
# A call and which of its values: why.
OF_OVERLAYFS = {
    ("a_map_from_before_the_first_write", 1): "a shared map of what was opened for reading is old",
    ("numbers_of_links_of_directories", 0): "a merged folder has one link, as on btrfs",
    ("numbers_of_links_of_directories", 1): "a merged folder has one link, as on btrfs",
    ("unlink_while_open", 0): "what is below cannot lose its link",
    (
        "unlink_while_open",
        4,
    ): "an unlinked file below is not copied up beside a new one of its name",
    (
        "long_names",
        2,
    ): "a renamed file remembers its old path, of 256 bytes at most; mv copies then",
    ("copying", 0): "from one file system to another; cp copies then",
}
# Calls that go another way without root, where overlayfs has neither redirects nor an index, as
# Docker's has not by default: a directory of the image is not renamed but copied (EXDEV), and hard
# links of the image part when one of them is changed.
WITHOUT_ROOT = (
    *("rename_a_directory", "rename_a_directory_that_is_in_use", "rename_over"),
    *("rename_with_flags", "watching", "special_files"),
    *("hard_links", "link_what_is_there", "unlink_while_open", "xattrs"),
)


def entry_of(what: Any) -> Entry:
    if isinstance(what, int):
        return Dir(what)
    if isinstance(what, bytes):
        mode = 0o755 if what.startswith(b"#!") else 0o644
        return File(what, mode, mtime=file_calls.MTIME_S, xattrs=file_calls.XATTR)
    kind, target = what
    return Hardlink(f"opt/tries/{target}") if kind == "link" else Symlink(target)


def image_in(folder: Path, level: LevelName) -> ImageRoot:
    """Of the trees, and what runs programs of the box's /usr."""
    top = {name: Symlink(f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin")}
    folders = {name: Dir() for name in ("usr", "etc", "root", "opt", "opt/tries")}
    trees = {f"opt/tries/{path}": entry_of(what) for path, what in file_calls.trees().items()}
    write_layout(folder / "layout", [Image([layer({**top, **folders, "tmp": Dir(), **trees})])])
    with ImageStore(folder / "images") as store:
        source = open_image(f"oci:{folder}/layout:latest")
        try:
            digest = store.add(ingest(source, store.blobs))
        finally:
            source.close()
        store.ensure_metadata(digest)
        return ImageRoot(level, store.metadata_path(digest), store.root, digest.hex())


@pytest.mark.parametrize("level", ["erofs+overlay", "fuse+overlay"])
def test_calls_on_the_root_give_what_they_give_on_a_plain_folder(
    tmp_path: Path, level: LevelName
) -> None:
    skip_unless_possible("crun")
    needs_python()
    if level == "erofs+overlay" and probe(tmp_path).name != level:
        pytest.skip("needs EROFS")
    usr = ExtraMount(Path("/usr"), "/usr", read_only=True)
    room = Room.enter(tmp_path, "crun", root=image_in(tmp_path, level), mounts=(usr,))
    try:
        shutil.copy(file_calls.__file__, room.workspace / "file_calls.py")
        (room.workspace / "plain").mkdir()
        found = {}
        for folder in ("/workspace/plain", "/opt/tries"):
            words = ("/usr/bin/python3", "file_calls.py")
            if folder.startswith("/workspace"):
                made = room.run(*words, "make", folder, warm=False)
                assert made.code == 0, made
            done = room.run(*words, "try", folder, warm=False)
            assert done.code == 0, done
            found[folder] = json.loads(done.stdout)
    finally:
        room.close()
    plain, root = found.values()
    assert len(plain) == len(file_calls.CALLS) >= 25
    ignored = WITHOUT_ROOT if os.geteuid() != 0 else ()
    unlike = {
        (name, step): f"{there} on a plain folder, {here} on the root"
        for name in plain
        for step, (there, here) in enumerate(itertools.zip_longest(plain[name], root[name]))
        if there != here and name not in ignored
    }
    assert unlike.keys() <= OF_OVERLAYFS.keys(), unlike
