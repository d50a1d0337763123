"""The oracle for ignore rules is git itself."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devloop.sync.ignore import Ignore, Level

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = (
    b"a",
    b"b",
    b"ab",
    b"foo",
    b"foobar",
    b"x.py",
    b"[c]",
    b"a b",
    b"b ",
    b"-",
    b"\xc3\xa9",
    b"Z9",
)
EXAMPLES = 2000 if os.environ.get("DEVLOOP_SOAK") == "1" else 100


class Repo:
    """A git work tree holding NAMES as files and folders, three levels deep."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run(["git", "init", "-q", str(root)], check=True)
        self.paths: list[tuple[bytes, bool]] = []
        self._fill(b"", 0)

    def _fill(self, prefix: bytes, depth: int) -> None:
        names = NAMES if depth == 0 else NAMES[:7]
        for i, name in enumerate(names):
            path, is_dir = prefix + name, i % 3 != 2 and depth < 2
            full = os.fsencode(self.root) + b"/" + path
            self.paths.append((path, is_dir))
            if is_dir:
                os.mkdir(full)
                self._fill(path + b"/", depth + 1)
            else:
                os.close(os.open(full, os.O_CREAT | os.O_WRONLY))

    def write(self, top: bytes, nested: bytes, exclude: bytes) -> None:
        (self.root / ".gitignore").write_bytes(top)
        (self.root / "a" / ".gitignore").write_bytes(nested)
        (self.root / ".git" / "info" / "exclude").write_bytes(exclude)

    def ignored_by_git(self) -> set[bytes]:
        asked = b"\0".join(path for path, _ in self.paths) + b"\0"
        command = ["git", "check-ignore", "--stdin", "-z", "-v", "-n", "--no-index"]
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        said = subprocess.run(
            command, input=asked, capture_output=True, cwd=self.root, env=environment, check=False
        )
        assert said.returncode in (0, 1), said.stderr
        fields = said.stdout.split(b"\0")
        return {
            fields[i + 3]
            for i in range(0, len(fields) - 3, 4)
            if fields[i + 2] and not fields[i + 2].startswith(b"!")
        }

    def ignored_by_us(self) -> set[bytes]:
        found: set[bytes] = set()
        self._ask(b"", self._with_files(Ignore(self.root).top(), b""), False, found)
        return found

    def _with_files(self, level: Level, prefix: bytes) -> Level:
        path = self.root / os.fsdecode(prefix) / ".gitignore"
        return level.with_files(b"", path.read_bytes() if path.exists() else b"")

    def _ask(self, prefix: bytes, level: Level, below_ignored: bool, found: set[bytes]) -> None:
        for path, is_dir in self.paths:
            directory, _, name = path.rpartition(b"/")
            if directory != prefix.rstrip(b"/"):
                continue
            out = below_ignored or level.ignored(name, is_dir)
            if out:
                found.add(path)
            if is_dir:
                self._ask(path + b"/", self._with_files(level.child(name), path), out, found)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    return Repo(tmp_path_factory.mktemp("repo"))


TABLE = [
    (b"*.py\n!x.py\n", b"", b""),
    (b"/a/*\n!/a/b\n", b"", b""),
    (b"a/\n!a/b\n", b"", b""),
    (b"a/**/x.py\n", b"", b""),
    (b"**/foo\n", b"", b""),
    (b"a/**\n", b"!b\n", b""),
    (b"/a**/b\n", b"", b""),
    (b"fo**bar\na**b\n", b"", b""),
    (b"a b\nb\\ \n", b"", b""),
    (b"b \n", b"", b""),
    (b"[ab]\n[!a]b\n", b"", b""),
    (b"[[:alpha:]]\n", b"", b""),
    (b"[[:digit:]-Z]9\n", b"", b""),
    (b"\\[c\\]\n", b"", b""),
    (b"[[]c[]]\n", b"", b""),
    (b"\\a\n\\!a\n\\#b\n#b\n", b"", b""),
    (b"foo\\\n", b"", b""),
    (b"\xef\xbb\xbffoo\r\nab\r\n", b"", b""),
    (b"*\n!*/\n!x.py\n", b"", b""),
    (b"?\n", b"!a\n", b"a\n"),
    (b"\xc3\xa9\n??\n", b"", b""),
    (b"[^a-z]*\n", b"", b""),
    (b"foo", b"/ab\n", b"!foo\nb\n"),
    (b"[a-\n[]\n[\n[!]\n", b"", b""),
    (b"a//b\n//a\n/\n//\n!\n", b"", b""),
    (b"**\n", b"", b""),
    (b"***/b\n", b"", b""),
    (b"a/*/b\na/?\n", b"", b""),
    (b"*a*\n!*b*\n", b"*b\n", b""),
    (b"**/\n!a/\n", b"", b""),
    (b"a/**\\/b\n", b"", b""),
    (b"foo\tx\nfoo\t\n", b"", b""),
]


@pytest.mark.parametrize(("top", "nested", "exclude"), TABLE)
def test_a_table_of_patterns_means_what_git_says(
    repo: Repo, top: bytes, nested: bytes, exclude: bytes
) -> None:
    repo.write(top, nested, exclude)
    assert repo.ignored_by_us() == repo.ignored_by_git()


_WORDS = b"a b foo x.py bar .py * ** ? / / [ab] [!a] [^b] [a-f] [[:alpha:]] [[:punct:]] []c[]"
_ODDITIES = b"[[:nope:]] [\\]] [a-] [ ] \\ ! # - **/ /** /**/ \xc3\xa9"
_PIECES = st.sampled_from([*_WORDS.split(b" "), *_ODDITIES.split(b" "), b" ", b"\\ ", b"\r"])
_LINES = st.builds(
    bytes.__add__,
    st.sampled_from([b"", b"", b"!", b"/"]),
    st.lists(_PIECES, min_size=1, max_size=4).map(b"".join),
)
_FILES = st.lists(_LINES, max_size=4).map(b"\n".join)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(top=_FILES, nested=_FILES, exclude=_FILES)
def test_any_patterns_mean_what_git_says(
    repo: Repo, top: bytes, nested: bytes, exclude: bytes
) -> None:
    repo.write(top, nested, exclude)
    assert repo.ignored_by_us() == repo.ignored_by_git()


def test_a_project_inside_a_repository_obeys_the_rules_above_it(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    project = tmp_path / "pkgs" / "one"
    project.mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("*.bin\n/pkgs/one/data\n")
    (tmp_path / "pkgs" / ".gitignore").write_text("!keep.bin\n")
    level = Ignore(project).top()
    assert level.ignored(b"x.bin", False)
    assert not level.ignored(b"keep.bin", False)
    assert level.ignored(b"data", True)
    assert not level.child(b"sub").ignored(b"data", True)
