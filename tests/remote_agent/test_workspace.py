"""Transitions of a workspace, case by case; `test_workspace_machine.py` tries random ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import BlobMissing
from devloop.cafs.store import DiskStore
from devloop.cafs.tree import Dir, File, Node, TreeInvalid
from devloop.remote_agent.workspace import Workspace
from devloop.remote_agent.workspace_state import WorkspaceBroken, read_state

from .trees import MTIME_NS, ADir, AFile, ALink, Thing, flat, look, make_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devloop.cafs.digest import Digest
    from devloop.remote_agent.transition import Applied


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(tmp_path / "store") as store:
        yield store


@pytest.fixture
def workspace(tmp_path: Path, store: DiskStore) -> Workspace:
    return Workspace(tmp_path / "w", store, "test")


def follow(workspace: Workspace, project: dict[bytes, Thing], *, repair: bool = False) -> Applied:
    target = make_tree(workspace._store, project).digest
    staged = workspace.stage(target, repair=repair)
    assert staged.missing == []
    return workspace.apply(staged)


def test_a_record_of_before_with_a_local_root_still_loads(workspace: Workspace) -> None:
    follow(workspace, {b"a": AFile(b"1")})
    path = workspace.files.parent / "state.json"
    record = json.loads(path.read_text())
    assert "local_root" not in record
    path.write_text(json.dumps({**record, "local_root": None}))
    again = read_state(path)
    assert again is not None
    assert (again.name, again.current) == ("test", workspace.current)


class _LacksOnce:
    """A store whose blob another client sends again right after it was missed."""

    def __init__(self, store: DiskStore, digest: Digest) -> None:
        self._store, self._digest, self._is_lacking = store, digest, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, digest: Digest) -> bytes:
        if digest == self._digest and self._is_lacking:
            self._is_lacking = False
            raise BlobMissing(digest)
        return self._store.get(digest)


@pytest.mark.parametrize("which", ["file", "node"])
def test_a_blob_that_comes_back_while_it_is_missed_is_named(
    tmp_path: Path, store: DiskStore, which: str
) -> None:
    tree = make_tree(store, {b"a": AFile(b"a"), b"d": ADir({b"b": AFile(b"b")})})
    lacked = digest_of(b"b") if which == "file" else tree.children[b"d"].digest
    lacking: Any = _LacksOnce(store, lacked)
    workspace = Workspace(tmp_path / "lacking", lacking, "lacking")
    staged = workspace.stage(tree.digest)
    assert (staged.missing, staged.records) == ([lacked], None)
    assert workspace.stage(tree.digest).missing == []


def test_outputs_survive_every_transition(workspace: Workspace) -> None:
    follow(workspace, {b"pkg": ADir({b"m.py": AFile(b"1")})})
    (workspace.files / "pkg" / "result.pt").write_bytes(b"weights")
    (workspace.files / "log.txt").write_bytes(b"lines")
    for project in ({b"pkg": ADir({b"m.py": AFile(b"2")})}, {}, {b"x": AFile(b"")}):
        applied = follow(workspace, dict(project))
        assert applied.saved_aside == []
        assert (workspace.files / "pkg" / "result.pt").read_bytes() == b"weights"
        assert (workspace.files / "log.txt").read_bytes() == b"lines"


def test_an_output_in_the_way_of_a_new_file_is_set_aside_and_named(workspace: Workspace) -> None:
    follow(workspace, {})
    (workspace.files / "model.bin").write_bytes(b"of the box")
    applied = follow(workspace, {b"model.bin": AFile(b"of the laptop")})
    (aside,) = applied.saved_aside
    assert aside.path == b"model.bin"
    assert Path(os.fsdecode(aside.kept_at)).read_bytes() == b"of the box"
    assert (workspace.files / "model.bin").read_bytes() == b"of the laptop"


@pytest.mark.parametrize("second", [{b"a.py": AFile(b"3")}, {}, {b"a.py": ALink(b"b")}])
def test_a_file_that_was_edited_on_the_box_is_set_aside(
    workspace: Workspace, second: dict[bytes, Thing]
) -> None:
    follow(workspace, {b"a.py": AFile(b"1")})
    (workspace.files / "a.py").write_bytes(b"edited")
    (aside,) = follow(workspace, second).saved_aside
    assert Path(os.fsdecode(aside.kept_at)).read_bytes() == b"edited"
    assert look(workspace.files) == flat(second)


def test_an_output_that_equals_the_new_file_is_simply_replaced(workspace: Workspace) -> None:
    follow(workspace, {})
    (workspace.files / "a").write_bytes(b"same")
    os.utime(workspace.files / "a", ns=(MTIME_NS, MTIME_NS))
    assert follow(workspace, {b"a": AFile(b"same")}).saved_aside == []


def test_a_directory_of_outputs_becomes_part_of_a_tree_that_names_it(workspace: Workspace) -> None:
    follow(workspace, {})
    (workspace.files / "runs").mkdir()
    (workspace.files / "runs" / "out").write_bytes(b"kept")
    assert follow(workspace, {b"runs": ADir({b"a": AFile(b"1")})}).saved_aside == []
    assert sorted(os.listdir(workspace.files / "runs")) == ["a", "out"]


def test_a_directory_with_outputs_makes_way_for_a_file_and_is_kept(workspace: Workspace) -> None:
    follow(workspace, {b"x": ADir({b"a": AFile(b"1")})})
    (workspace.files / "x" / "out").write_bytes(b"kept")
    (aside,) = follow(workspace, {b"x": AFile(b"now a file")}).saved_aside
    assert (Path(os.fsdecode(aside.kept_at)) / "out").read_bytes() == b"kept"
    assert (workspace.files / "x").read_bytes() == b"now a file"


@pytest.mark.parametrize("how", ["removed", "link", "file", "moved and linked"])
def test_a_directory_that_a_run_removed_or_replaced_is_whole_again(
    workspace: Workspace, tmp_path: Path, how: str
) -> None:
    first: dict[bytes, Thing] = {b"d": ADir({b"x": AFile(b"x"), b"y": AFile(b"1")}, 0o750)}
    follow(workspace, first)
    outside = tmp_path / "outside"
    outside.mkdir()
    directory = workspace.files / "d"
    directory.rename(tmp_path / "moved")
    match how:
        case "link":
            directory.symlink_to(outside)
        case "file":
            directory.write_bytes(b"of the run")
        case "moved and linked":
            directory.symlink_to(tmp_path / "moved")
    second: dict[bytes, Thing] = {b"d": ADir({b"x": AFile(b"x"), b"y": AFile(b"2")}, 0o750)}
    applied = follow(workspace, second)
    assert look(workspace.files) == flat(second)
    assert [aside.path for aside in applied.saved_aside] == ([] if how == "removed" else [b"d"])
    assert list(outside.iterdir()) == []
    assert (tmp_path / "moved" / "y").read_bytes() == b"1"


@pytest.mark.parametrize("how", ["removed", "link", "file"])
def test_a_run_that_removes_or_replaces_its_whole_folder_is_recovered_from(
    workspace: Workspace, tmp_path: Path, how: str
) -> None:
    follow(workspace, {b"a": AFile(b"1"), b"b": AFile(b"b")})
    workspace.files.rename(tmp_path / "moved")
    if how == "link":
        workspace.files.symlink_to(tmp_path / "moved")
    elif how == "file":
        workspace.files.write_bytes(b"")
    second: dict[bytes, Thing] = {b"a": AFile(b"2"), b"b": AFile(b"b")}
    follow(workspace, second)
    assert look(workspace.files) == flat(second)
    assert (tmp_path / "moved" / "a").read_bytes() == b"1"


def test_modes_of_files_and_directories_are_those_of_the_tree_whatever_the_umask(
    workspace: Workspace,
) -> None:
    project: dict[bytes, Thing] = {
        b"open": ADir({b"f": AFile(b"1", 0o666), b"g": AFile(b"2", 0o666)}, 0o777),
        b"empty": ADir({}, 0o700),
        b"closed": ADir({b"r": AFile(b"3", 0o400), b"x": AFile(b"4", 0o711)}, 0o555),
    }
    before = os.umask(0o077)
    try:
        follow(workspace, project)
    finally:
        os.umask(before)
    assert look(workspace.files) == flat(project)
    project[b"open"] = ADir({b"f": AFile(b"1", 0o644), b"g": AFile(b"2", 0o755)}, 0o750)
    follow(workspace, project)
    assert look(workspace.files) == flat(project)


def test_the_longest_names_and_paths_are_written_and_changed(workspace: Workspace) -> None:
    def deep(content: bytes) -> dict[bytes, Thing]:
        entries: dict[bytes, Thing] = {b"leaf": AFile(content)}
        for _ in range(15):
            entries = {b"n" * 255: ADir(entries)}
        return {**entries, b"\xff\xfe not UTF-8 \n": AFile(content), b"-rf": AFile(content)}

    for content in (b"1", b"22", b"333"):
        follow(workspace, deep(content))
        assert look(workspace.files) == flat(deep(content))


def test_a_deep_path_that_changed_on_the_box_is_kept_under_its_last_name(
    workspace: Workspace,
) -> None:
    entries: dict[bytes, Thing] = {b"leaf": AFile(b"1")}
    for _ in range(15):
        entries = {b"n" * 255: ADir(entries)}
    follow(workspace, entries)
    below = workspace.files
    os.chdir(below)
    for _ in range(15):
        os.chdir("n" * 255)
    try:
        Path("leaf").write_bytes(b"edited")
    finally:
        os.chdir("/")
    (aside,) = follow(workspace, {}).saved_aside
    assert Path(os.fsdecode(aside.kept_at)).read_bytes() == b"edited"


def test_names_that_differ_by_case_or_by_unicode_form_only_stay_apart(workspace: Workspace) -> None:
    names = [b"A.py", b"a.py", b"\xc3\xa9", b"e\xcc\x81"]
    project: dict[bytes, Thing] = {name: AFile(b"of " + name) for name in names}
    follow(workspace, project)
    del project[b"A.py"]
    follow(workspace, project)
    assert look(workspace.files) == flat(project)


# -- bytecode


def test_bytecode_of_changed_and_deleted_sources_goes_and_the_rest_stays(
    workspace: Workspace,
) -> None:
    project: dict[bytes, Thing] = {b"m.py": AFile(b"1"), b"n.py": AFile(b"1"), b"k.py": AFile(b"1")}
    follow(workspace, project)
    cache = workspace.files / "__pycache__"
    cache.mkdir()
    for name in ("m", "n", "k", "mm"):
        (cache / f"{name}.cpython-311.pyc").write_bytes(b"old")
    (cache / "m.folder").mkdir()
    follow(workspace, {b"m.py": AFile(b"2"), b"k.py": AFile(b"1")})
    left = ["k.cpython-311.pyc", "m.folder", "mm.cpython-311.pyc"]
    assert sorted(os.listdir(cache)) == left


def test_a_deleted_package_leaves_no_directory_that_shadows_a_module(workspace: Workspace) -> None:
    follow(workspace, {b"pkg": ADir({b"__init__.py": AFile(b"")})})
    cache = workspace.files / "pkg" / "__pycache__"
    cache.mkdir()
    (cache / "__init__.cpython-311.pyc").write_bytes(b"old")
    assert follow(workspace, {b"pkg": AFile(b"a file now")}).saved_aside == []
    assert os.listdir(workspace.files) == ["pkg"]


# -- blobs


def test_missing_blobs_are_all_named_and_nothing_changes(workspace: Workspace) -> None:
    follow(workspace, {b"a": AFile(b"1")})
    store = workspace._store
    target = make_tree(store, {b"a": AFile(b"22"), b"b": AFile(b"33"), b"c": AFile(b"44")})
    gone = [digest_of(b"22"), digest_of(b"44")]
    for digest in gone:
        store.delete(digest)
    staged = workspace.stage(target.digest)
    assert staged.missing == gone
    assert look(workspace.files) == flat({b"a": AFile(b"1")})


def test_corrupt_blobs_and_nodes_are_named_by_level_and_not_one_by_one(
    workspace: Workspace, store: DiskStore
) -> None:
    """A loss of power may tear most of a store."""
    project: dict[bytes, Thing] = {
        b"d%d" % n: ADir({b"f": AFile(b"file %d" % n)}) for n in range(20)
    }
    target = make_tree(store, project)
    whole = {digest: store.get(digest) for digest in store}
    for digest in whole:
        store.path_of(digest).chmod(0o600)
        store.path_of(digest).write_bytes(b"")
    rounds = 0
    while missing := workspace.stage(target.digest).missing:
        rounds += 1
        for digest in missing:
            store.put(digest, whole[digest])
    assert rounds == 3  # the root, its directories, their files
    workspace.apply(workspace.stage(target.digest))
    assert look(workspace.files) == flat(project)


def test_a_tree_that_lies_about_a_size_is_refused(workspace: Workspace) -> None:
    store = workspace._store
    store.put(digest_of(b"1234"), b"1234")
    lying = Node({b"a": File(0o644, 3, 0, digest_of(b"1234"))}, {})
    store.put(lying.digest, lying.encoded)
    with pytest.raises(TreeInvalid, match="4 bytes, not 3"):
        workspace.stage(lying.digest)
    assert list((workspace.files.parent / "staging").iterdir()) == []


def test_a_tree_in_place_of_a_file_is_refused(workspace: Workspace) -> None:
    store = workspace._store
    store.put(digest_of(b"not a node"), b"not a node")
    lying = Node({b"d": Dir(0o755, digest_of(b"not a node"))}, {b"d": Node({}, {})})
    store.put(lying.digest, lying.encoded)
    with pytest.raises(TreeInvalid):
        workspace.stage(lying.digest)


def test_what_was_staged_and_not_applied_is_gone_at_the_next_transition(
    workspace: Workspace,
) -> None:
    target = make_tree(workspace._store, {b"a": AFile(b"1")}).digest
    for _ in range(3):
        workspace.stage(target)
    staged = sorted(os.listdir(workspace.files.parent / "staging"))
    assert staged == ["1", "begun.json", "done.json"]


# -- its own files


def test_a_workspace_remembers_its_name_and_tree(workspace: Workspace, store: DiskStore) -> None:
    follow(workspace, {b"a": AFile(b"1")})
    again = Workspace(workspace.files.parent, store, "ignored")
    assert (again.name, again.current) == ("test", workspace.current)


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"version": 1}'])
def test_a_torn_record_loses_no_file(workspace: Workspace, store: DiskStore, torn: bytes) -> None:
    follow(workspace, {b"a": AFile(b"1"), b"b": AFile(b"2")})
    (workspace.files.parent / "state.json").write_bytes(torn)
    again = Workspace(workspace.files.parent, store, "test")
    assert again.current is None
    applied = follow(again, {b"a": AFile(b"333"), b"b": AFile(b"2")})
    assert [aside.path for aside in applied.saved_aside] == [b"a"]
    assert look(again.files) == flat({b"a": AFile(b"333"), b"b": AFile(b"2")})


def test_a_record_of_another_version_is_an_error_that_names_it(
    workspace: Workspace, store: DiskStore
) -> None:
    path = workspace.files.parent / "state.json"
    path.write_text(json.dumps({"version": 99}))
    with pytest.raises(WorkspaceBroken, match=r"state\.json is of version 99"):
        Workspace(workspace.files.parent, store, "test")


MEDDLING = """
import os, sys
from pathlib import Path
from devloop.cafs.errors import BlobMissing
from devloop.cafs.store import DiskStore
from devloop.remote_agent.workspace import Workspace
from tests.remote_agent.trees import ADir, AFile, flat, look, make_tree

os.setgroups([]), os.setgid(65534), os.setuid(65534)
here = Path(sys.argv[1])
store = DiskStore(here / "store")
workspace = Workspace(here / "w", store, "test")
def follow(content, repair):
    project = {b"d": ADir({b"e": ADir({b"f": AFile(content), b"g": AFile(b"g")})}),
               b"m.py": AFile(content)}
    staged = workspace.stage(make_tree(store, project).digest, repair=repair)
    applied = workspace.apply(staged)
    assert files(look(workspace.files)) == files(flat(project)), look(workspace.files)
    assert applied.saved_aside == []
def files(found):
    return {path: thing for path, thing in found.items() if isinstance(thing, AFile)}
follow(b"1", False)
for mode in (0o000, 0o555, 0o444, 0o300):
    for repair in (False, True):
        for path in ("d/e", "d", "."):
            (workspace.files / path).chmod(mode)
        follow(b"%d %d" % (mode, repair), repair)
print("followed")
"""


def test_directories_that_a_run_closed_to_itself_are_opened_again(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    place = tmp_path / "place"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    for above in [place, *place.parents][:-2]:
        above.chmod(above.stat().st_mode | 0o711)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", MEDDLING, str(place)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("followed\n", "")


def test_thousands_of_files_are_one_transition(workspace: Workspace) -> None:
    project: dict[bytes, Thing] = {
        b"d%02d" % d: ADir({b"f%03d" % f: AFile(b"%d %d" % (d, f)) for f in range(200)})
        for d in range(10)
    }
    applied = follow(workspace, project)
    assert applied.files_written == 2000
    assert look(workspace.files) == flat(project)
    applied = follow(workspace, {**project, b"new": AFile(b"1")})
    assert applied.files_written == 1
