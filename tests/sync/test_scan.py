"""The scanner sees what is there, and a look at a few directories equals a look at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devloop.cafs.digest import digest_of
from devloop.cafs.tree import Dir, Entry, File, Symlink, walk_tree
from devloop.sync import hashing
from devloop.sync.ignore import Ignore
from devloop.sync.scan import RootGone, Scanner, TooMuch
from devloop.sync.statcache import StatCache

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def scanner(root: Path) -> Scanner:
    return Scanner(root, Ignore(root), StatCache(root.parent / "cache" / "stat"))


def entries(scanner: Scanner) -> dict[bytes, Entry]:
    return dict(walk_tree(scanner.scan().tree))


def settle(*paths: Path) -> None:
    """Waits until the clock has left the granule in which these files were written."""
    newest = max(os.lstat(path).st_ctime_ns for path in paths)
    while hashing.is_racy(newest, time.time_ns()):
        threading.Event().wait(0.002)


def test_a_scan_lists_files_folders_and_links_with_their_modes_and_times(root: Path) -> None:
    (root / "a").mkdir(mode=0o750)
    (root / "a" / "x.py").write_bytes(b"print()\n")
    (root / "a" / "x.py").chmod(0o4755)
    os.utime(root / "a" / "x.py", ns=(1, 1_234_567_890_123_456_789))
    (root / "link").symlink_to("/etc/passwd")
    found = entries(scanner(root))
    assert found == {
        b"a": Dir(0o750, found[b"a"].digest),  # type: ignore[union-attr]
        b"a/x.py": File(0o755, 8, 1_234_567_890_123_456_789, digest_of(b"print()\n")),
        b"link": Symlink(b"/etc/passwd"),
    }


def test_a_link_to_a_folder_is_never_followed(root: Path) -> None:
    (root / "loop").symlink_to(".")
    assert entries(scanner(root)) == {b"loop": Symlink(b".")}


def test_names_that_are_not_utf8_are_kept_as_bytes(root: Path) -> None:
    name = b"\xff\xfe.py"
    os.close(os.open(os.fsencode(root) + b"/" + name, os.O_CREAT))
    assert list(entries(scanner(root))) == [name]


def test_what_is_not_a_file_is_skipped_and_named_once(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "s"))
        (root / "x").write_text("x")
        looking = scanner(root)
        first = looking.scan()
        assert [str(problem.path) for problem in first.problems] == ["pipe", "s"]
        assert list(dict(walk_tree(first.tree))) == [b"x"]
        assert looking.scan().problems == ()
        assert looking.rescan([b""]).problems == ()


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder, and a user id, that permission bits count for."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(was)


def test_what_cannot_be_read_is_a_problem_and_no_reason_to_stop() -> None:
    with unprivileged() as folder:
        root = folder / "project"
        (root / "closed").mkdir(parents=True)
        (root / "closed" / "x").write_text("x")
        (root / "secret").write_text("x")
        (root / "open").write_text("x")
        looking = scanner(root)
        assert looking.scan().problems == ()
        (root / "secret").chmod(0)
        (root / "closed").chmod(0)
        scan = looking.rescan([b"", b"closed"])
        assert [str(problem.path) for problem in scan.problems] == ["closed", "secret"]
        assert {problem.reason for problem in scan.problems} == {"Permission denied"}
        assert list(dict(walk_tree(scan.tree))) == [b"open"]
        (root / "closed").chmod(0o755)
        assert b"closed/x" in dict(walk_tree(looking.rescan([b""]).tree))


def test_a_root_that_is_gone_or_a_file_is_an_error(root: Path) -> None:
    looking = scanner(root)
    looking.scan()
    root.rmdir()
    with pytest.raises(RootGone):
        looking.scan()
    with pytest.raises(RootGone):
        looking.rescan([b""])
    root.write_text("now a file")
    with pytest.raises(RootGone):
        looking.rescan([b"a"])


def test_an_emptied_root_is_pointed_out_also_across_a_restart(root: Path) -> None:
    (root / "x").write_text("x")
    settle(root / "x")
    looking = scanner(root)
    assert not looking.scan().emptied
    looking.save()
    (root / "x").unlink()
    assert looking.rescan([b""]).emptied
    assert scanner(root).scan().emptied


def test_a_root_that_was_always_empty_is_not_suspicious(root: Path) -> None:
    looking = scanner(root)
    assert not looking.scan().emptied
    assert not looking.scan().emptied


def test_a_second_scan_reads_only_what_changed(root: Path) -> None:
    for name in "abc":
        (root / name).write_text(name)
    settle(*(root / name for name in "abc"))
    looking = scanner(root)
    looking.scan()
    looking.save()
    read: list[bytes] = []

    def noting(path: bytes) -> hashing.Reading:
        read.append(path)
        return hashing.read_digest(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("devloop.sync.walk.read_digest", noting)
        looking.scan()
        scanner(root).scan()
        assert read == []
        (root / "b").write_text("B")
        looking.rescan([b""])
    assert [os.path.basename(path) for path in read] == [b"b"]


def test_a_same_size_rewrite_in_the_same_clock_tick_is_seen(root: Path) -> None:
    looking = scanner(root)
    tries, fresh = 100, 0
    for i in range(tries):
        (root / "x").write_text(f"{2 * i:06}")
        looking.rescan([b""])
        (root / "x").write_text(f"{2 * i + 1:06}")
        tree = looking.rescan([b""]).tree
        entry = tree.entries[b"x"]
        fresh += isinstance(entry, File) and entry.digest == digest_of(f"{2 * i + 1:06}".encode())
    assert fresh == tries


def test_an_uncertain_digest_is_never_saved(root: Path) -> None:
    (root / "x").write_text("x")
    looking = scanner(root)
    looking.scan()
    looking.save()
    assert len(StatCache(root.parent / "cache" / "stat").load()) == 0


def test_a_file_that_keeps_growing_gives_a_digest_of_bytes_that_it_had(root: Path) -> None:
    path = root / "log"
    path.write_bytes(b"")
    stop = threading.Event()

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"line\n" * 1000)
                if path.stat().st_size > 32 << 20:
                    file.truncate(0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reading = hashing.read_digest(os.fsencode(path))
    finally:
        stop.set()
        writer.join()
    assert reading.size_bytes % 5000 in range(5000)
    assert len(reading.digest) == 32


def test_a_changed_ignore_file_counts_for_everything_below_it(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "x.log").write_text("x")
    looking = scanner(root)
    looking.scan()
    (root / ".gitignore").write_text("*.log\n")
    assert b"a/b/x.log" not in dict(walk_tree(looking.rescan([b""]).tree))
    (root / ".gitignore").unlink()
    assert b"a/b/x.log" in dict(walk_tree(looking.rescan([b""]).tree))


def test_one_save_says_one_change_and_its_folders(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "x").write_text("1")
    looking = scanner(root)
    before = looking.scan().tree
    (root / "a" / "b" / "x").write_text("22")
    scan = looking.rescan([b"a/b"])
    assert [change.path for change in scan.changed] == [b"a/b/x"]
    assert scan.tree.digest != before.digest
    assert scan.tree.digest == scanner(root).scan().tree.digest


def test_events_in_ignored_places_do_not_concern_the_tree(root: Path) -> None:
    (root / ".gitignore").write_text("node_modules/\n*.log\n")
    (root / "node_modules" / "m").mkdir(parents=True)
    (root / "src").mkdir()
    looking = scanner(root)
    looking.scan()
    for path in (b"node_modules/m/index.js", b".git/index", b"src/x.log", b"src/.x.py.swp"):
        assert not looking.concerns(path), path
    for path in (b"", b"src/new.py", b"src", b"brand/new/dir", b".gitignore"):
        assert looking.concerns(path), path
    assert not looking.concerns(b"node_modules", is_dir=True)
    assert looking.concerns(b"node_modules", is_dir=False)
    assert list(looking.directories()) == [b"", b"src"]


@pytest.mark.parametrize("marker", ["pyvenv.cfg", "conda-meta/"])
def test_a_python_environment_is_left_out_and_named_nowhere(root: Path, marker: str) -> None:
    (root / "x.py").write_text("x")
    below = root / "tools" / "my-env"
    (below / "lib").mkdir(parents=True)
    looking = scanner(root)
    looking.scan()
    (below / "conda-meta").mkdir() if marker.endswith("/") else (below / marker).touch()
    scan = looking.rescan([b"tools/my-env"])
    assert b"tools/my-env" not in dict(walk_tree(scan.tree))
    assert scan.problems == ()
    assert scan.tree.digest == scanner(root).scan().tree.digest == looking.scan().tree.digest
    assert list(looking.directories()) == [b"", b"tools"]
    assert not looking.concerns(b"tools/my-env/lib/x.py")


def test_a_folder_that_is_no_environment_any_more_is_synced(root: Path) -> None:
    (root / "env").mkdir()
    (root / "env" / "pyvenv.cfg").touch()
    looking = scanner(root)
    assert looking.scan().tree.entries == {}
    shutil.rmtree(root / "env")
    looking.rescan([b""])
    (root / "env").mkdir()
    (root / "env" / "x.py").write_text("x")
    assert b"env/x.py" in dict(walk_tree(looking.rescan([b""]).tree))


def test_the_project_itself_may_be_an_environment(root: Path) -> None:
    (root / "pyvenv.cfg").touch()
    assert list(entries(scanner(root))) == [b"pyvenv.cfg"]


def test_a_link_where_outputs_are_is_never_uploaded(root: Path) -> None:
    looking = Scanner(root, Ignore(root, outputs=("ckpt/",)), StatCache(root.parent / "stat"))
    (root / "ckpt").write_text("a file of that name is none")
    assert b"ckpt" in looking.scan().tree.entries
    (root / "ckpt").unlink()
    (root / "ckpt").symlink_to("/big/disk")
    assert looking.rescan([b""]).tree.entries == {}
    assert looking.scan().tree.entries == {}


@pytest.mark.parametrize("kind", ["large file", "new folder"])
def test_a_limited_look_refuses_what_takes_long_and_changes_nothing(root: Path, kind: str) -> None:
    (root / "env").mkdir()
    (root / "env" / "pyvenv.cfg").touch()
    looking = scanner(root)
    looking.scan()
    (root / "small").write_bytes(bytes(1000))
    before = looking.rescan([b""], limit_bytes=1000)
    if kind == "large file":
        (root / "large").write_bytes(bytes(1001))
    else:
        (root / "sub").mkdir()
    with pytest.raises(TooMuch):
        looking.rescan([b""], limit_bytes=1000)
    assert [change.path for change in looking.rescan([b""]).changed] != []
    assert b"small" in before.tree.entries


def test_a_folder_put_in_the_place_of_another_is_looked_at_in_full(root: Path) -> None:
    for name in ("a", "b"):
        (root / name / "sub").mkdir(parents=True)
        (root / name / "sub" / name).write_text(name)
    looking = scanner(root)
    looking.scan()
    shutil.rmtree(root / "a")
    (root / "b").rename(root / "a")
    tree = looking.rescan([b"a"]).tree
    assert b"a/sub/b" in dict(walk_tree(tree))


_NAMES = st.sampled_from(["a", "b", "c", ".gitignore"])
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "mkdir", "remove", "link", "move", "chmod", "rules"]),
        st.lists(_NAMES, min_size=1, max_size=3),
        st.lists(_NAMES, min_size=1, max_size=3),
    ),
    max_size=12,
)


def _do(root: Path, step: tuple[str, list[str], list[str]], count: int) -> list[bytes]:
    """One thing done to the project; the directories that events would name."""
    kind, parts, others = step
    path, other = root.joinpath(*parts), root.joinpath(*others)
    touched = [path.parent]
    if kind == "write":
        path.write_text(f"{count}")
    elif kind == "rules":
        path = path.parent / ".gitignore"
        path.write_text(["a\n", "b/\n", "/c\n!a\n"][count % 3])
    elif kind == "mkdir":
        path.mkdir()
        touched.append(path)
    elif kind == "link":
        path.symlink_to(f"to{count}")
    elif kind == "chmod":
        path.chmod([0o700, 0o755][count % 2])
        if path.is_dir():
            touched.append(path)
    elif kind == "move":
        path.rename(other)
        touched += [other.parent, other]
    elif path.is_dir() and not path.is_symlink():
        touched += [path, *(p for p in path.rglob("*") if p.is_dir() and not p.is_symlink())]
        shutil.rmtree(path)
    else:
        path.unlink()
    return [os.fsencode(t.relative_to(root)) if t != root else b"" for t in touched]


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=_STEPS, at_once=st.integers(1, 4))
def test_looking_at_what_events_name_equals_looking_at_everything(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, list[str], list[str]]],
    at_once: int,
) -> None:
    root = tmp_path_factory.mktemp("scan") / "p"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "c").write_text("x")
    looking = scanner(root)
    looking.scan()
    touched: list[bytes] = []
    for count, step in enumerate(steps):
        try:
            touched += _do(root, step, count)
        except OSError:
            continue
        if count % at_once == 0:
            looking.rescan(touched)
            touched = []
    assert looking.rescan(touched).tree.digest == scanner(root).scan().tree.digest
    shutil.rmtree(root.parent)
