from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from devloop.cafs import beneath, syscalls
from devloop.cafs.beneath import PathEscapes, Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTILE = [
    b"",
    b"/",
    b"/etc/passwd",
    b"..",
    b"../x",
    b"a/../../x",
    b"a/..",
    b"a/./b",
    b".",
    b"a//b",
    b"a/",
    b"a\0b",
    b"\0",
    b"x/" * 2048 + b"y",
]


@pytest.fixture(params=["openat2", "walk"])
def root(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Root]:
    """Both ways to open a directory: Linux's own, and the one that a Mac has."""
    if request.param == "walk":
        monkeypatch.setattr(syscalls, "_LINUX", False)
    (tmp_path / "root").mkdir()
    with Root(tmp_path / "root") as root:
        yield root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text("secret")
    return directory


def write(root: Root, path: bytes, data: bytes = b"data") -> None:
    fd = root.create(path, 0o644)
    os.write(fd, data)
    os.close(fd)


def each_operation(root: Root, path: bytes) -> list[object]:
    return [
        lambda: root.parent(path),
        lambda: root.parent(path, create=True),
        lambda: root.open_read(path),
        lambda: root.readlink(path),
        lambda: root.create(path),
        lambda: root.replace(path, b"ok"),
        lambda: root.unlink(path),
        lambda: root.mkdir(path),
        lambda: root.rmdir(path),
        lambda: root.symlink(b"target", path),
        lambda: root.chmod(path, 0o600),
        lambda: root.utime_ns(path, 0),
    ]


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: repr(path[:12]))
def test_a_hostile_path_is_refused_by_every_operation(root: Root, path: bytes) -> None:
    write(root, b"ok")
    more = [lambda: root.lstat(path), lambda: root.replace(b"ok", path)]
    for operation in each_operation(root, path) + more:
        with pytest.raises(PathEscapes):
            operation()  # type: ignore[operator]


@pytest.mark.parametrize("target", ["outside", "file"])
def test_a_link_or_a_file_in_the_middle_stops_every_operation(
    root: Root, tmp_path: Path, outside: Path, target: str
) -> None:
    write(root, b"ok")
    middle = tmp_path / "root" / "dir"
    if target == "outside":
        middle.symlink_to(outside)
    else:
        middle.touch()
    for path in (b"dir/secret", b"dir/deep/secret"):
        for operation in each_operation(root, path):
            with pytest.raises(NotADirectoryError):
                operation()  # type: ignore[operator]
        with pytest.raises(NotADirectoryError):
            root.replace(b"ok", path)
        assert root.lstat(path) is None
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "secret"


def test_a_link_at_the_end_is_not_followed(root: Root, tmp_path: Path, outside: Path) -> None:
    secret = outside / "secret"
    before = secret.stat()
    root.symlink(os.fsencode(secret), b"link")
    assert root.readlink(b"link") == os.fsencode(secret)
    status = root.lstat(b"link")
    assert status is not None
    assert stat.S_ISLNK(status.st_mode)
    with pytest.raises(OSError, match="symbolic link"):
        root.open_read(b"link")
    with pytest.raises(FileExistsError):
        root.create(b"link")
    with pytest.raises(OSError, match="no mode"):
        root.chmod(b"link", 0o777)
    root.utime_ns(b"link", 5)
    write(root, b"new")
    root.replace(b"new", b"link")
    assert secret.stat() == before
    assert not (tmp_path / "root" / "link").is_symlink()


def test_files_and_directories_are_made_moved_and_removed(root: Root, tmp_path: Path) -> None:
    write(root, b"a/b/c", b"text")
    path = tmp_path / "root" / "a" / "b" / "c"
    assert path.read_bytes() == b"text"
    root.chmod(b"a/b/c", 0o751)
    root.utime_ns(b"a/b/c", 1_600_000_000_123_456_789)
    assert stat.S_IMODE(path.stat().st_mode) == 0o751
    assert path.stat().st_mtime_ns == 1_600_000_000_123_456_789
    root.replace(b"a/b/c", b"x/y")
    assert root.lstat(b"a/b/c") is None
    fd = root.open_read(b"x/y")
    assert os.read(fd, 10) == b"text"
    os.close(fd)
    root.unlink(b"x/y")
    root.mkdir(b"x/new")
    assert root.listdir(b"x") == [b"new"]
    root.rmdir(b"x/new")
    root.rmdir(b"x")
    assert sorted(root.listdir(b"")) == [b"a"]


def test_a_new_file_has_exactly_its_mode(root: Root, tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        os.close(root.create(b"file", 0o755))
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "root" / "file").stat().st_mode) == 0o755


def test_chmod_works_without_help_from_the_c_library(root: Root, tmp_path: Path) -> None:
    write(root, b"file")
    parent_fd, name = root.parent(b"file")
    beneath._chmod_by_descriptor(parent_fd, name, 0o640)
    assert stat.S_IMODE((tmp_path / "root" / "file").stat().st_mode) == 0o640


def test_a_name_that_is_not_utf8_stays_as_it_is(root: Root) -> None:
    write(root, b"\xff\xfe/\xe9")
    assert root.listdir(b"") == [b"\xff\xfe"]
    assert root.listdir(b"\xff\xfe") == [b"\xe9"]


def test_opening_a_fifo_does_not_wait(root: Root, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root" / "fifo")
    with pytest.raises(OSError, match="not a regular file") as caught:
        root.open_read(b"fifo")
    assert caught.value.errno == errno.EINVAL


def test_a_directory_removed_and_made_again_is_used_anew(root: Root, tmp_path: Path) -> None:
    write(root, b"d/e/one")
    root.unlink(b"d/e/one")
    root.rmdir(b"d/e")
    write(root, b"d/e/two")
    assert (tmp_path / "root" / "d" / "e" / "two").exists()


def test_a_directory_moved_by_replace_is_followed_to_its_new_name(
    root: Root, tmp_path: Path
) -> None:
    write(root, b"d/e/one")
    root.replace(b"d", b"moved")
    write(root, b"d/e/two")
    assert os.listdir(tmp_path / "root" / "moved" / "e") == ["one"]
    assert os.listdir(tmp_path / "root" / "d" / "e") == ["two"]


def test_what_somebody_else_replaced_is_seen_after_forget(root: Root, tmp_path: Path) -> None:
    write(root, b"d/one")
    write(root, b"d2/one")
    (tmp_path / "root" / "d").rename(tmp_path / "root" / "old")
    root.forget(b"d")
    write(root, b"d/two")
    assert os.listdir(tmp_path / "root" / "d") == ["two"]
    assert set(root._dirs) == {b"d", b"d2"}


def test_few_directories_stay_open(root: Root) -> None:
    before = len(os.listdir("/dev/fd"))
    for number in range(100):
        write(root, b"%d/a/b/file" % number)
    root.replace(b"0/a/b/file", b"/".join([b"deep"] * 60))
    assert len(os.listdir("/dev/fd")) - before <= 32
    root.close()
    assert len(os.listdir("/dev/fd")) < before


components = st.sampled_from([b"", b".", b"..", b"a", b"dir", b"link", b"up", b"\0", b"x" * 300])


@given(path=st.lists(components, max_size=6).map(b"/".join))
@example(b"up/outside/new")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_of_components_leads_out(root: Root, tmp_path: Path, path: bytes) -> None:
    inside = tmp_path / "root"
    for name, target in (("link", tmp_path), ("up", "..")):
        if not (inside / name).is_symlink():
            (inside / name).symlink_to(target)
    try:
        os.close(root.create(path))
    except (PathEscapes, OSError):
        pass
    assert os.listdir(tmp_path) == ["root"]
