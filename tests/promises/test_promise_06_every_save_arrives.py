"""Promise 6: every save arrives within 5 s, whatever happens to the events."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .follower import scanner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOAK = os.environ.get("DEVLOOP_SOAK") == "1"
FILES = 10_000  # of the checkout
OVERFLOW = 6_000  # three events a save, and the kernel's queue holds 16,384
ROUNDS = 20 if SOAK else 1
SAVES = 200 if SOAK else 15
WITHIN_S = 5.0  # on a machine that has time for it: see `allowed_s`
KINDS = ("best", "notify")

pytestmark = pytest.mark.promise(6)


def allowed_s() -> float:
    """The promise, stretched where more processes want to run than there are processors."""
    return WITHIN_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Follower:
    """A process that follows a project, and the last thing it said."""

    def __init__(self, root: Path, kind: str, *prefix: str) -> None:
        command = [*prefix, sys.executable, str(Path(__file__).with_name("follower.py"))]
        self.process = subprocess.Popen(
            [*command, kind, str(root)], stdout=subprocess.PIPE, text=True
        )
        self.root = root
        self.tree = ""
        self.heard = 0.0  # when the last line came
        self.notices: list[str] = []
        self.whys: list[str] = []
        self._lines: queue.Queue[tuple[float, str]] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put((time.monotonic(), line.rstrip("\n")))

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def ready(self) -> None:
        """Until it has looked once while watching."""
        while not self.tree:
            self._hear(60)

    def arrives(self) -> float:
        """How long it took until the follower's tree was that of a scan from scratch."""
        began = time.monotonic()
        wanted = f"tree {scanner(self.root).scan().tree.digest}"
        while self.tree != wanted:
            left_s = began + allowed_s() - time.monotonic()
            assert left_s > 0, f"a save did not arrive within {WITHIN_S} s; {self.whys[-3:]}"
            with contextlib.suppress(queue.Empty):
                self._hear(left_s)
        return max(0.0, self.heard - began)

    def _hear(self, timeout_s: float) -> None:
        self.heard, line = self._lines.get(timeout=timeout_s)
        if line.startswith("tree "):
            self.tree = line
        elif line.startswith("why "):
            self.whys.append(line)
        else:
            self.notices.append(line)


@contextlib.contextmanager
def following(root: Path, kind: str, *prefix: str) -> Iterator[Follower]:
    follower = Follower(root, kind, *prefix)
    try:
        follower.ready()
        yield follower
    finally:
        follower.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def git(root: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "gc.auto=0", *words],
        cwd=root,
        check=True,
        capture_output=True,
    )


def fill(root: Path, text: str, folders: int, files: int = FILES) -> None:
    for i in range(folders):
        folder = root / f"p{i % 20}" / f"d{i}"
        folder.mkdir(parents=True, exist_ok=True)
        for j in range(files // folders):
            (folder / f"f{j}.py").write_text(f"{text} {i} {j}\n")


def commit_of(branch: str, files: int) -> Iterator[str]:
    """For git fast-import: a branch that holds so many files, ten in a folder."""
    yield f"commit refs/heads/{branch}\ncommitter a <a@b> 1 +0000\ndata 0\n"
    for i in range(files):
        text = f"{branch} {i}\n"
        yield f"M 100644 inline p{i % 20}/d{i % (files // 10 or 1)}/f{i}.py\n"
        yield f"data {len(text)}\n{text}\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout") / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "other")
    stream = "".join([*commit_of("small", 1), *commit_of("large", FILES)])
    subprocess.run(["git", "fast-import", "--quiet"], cwd=folder, input=stream.encode(), check=True)
    git(folder, "checkout", "-q", "small")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkout_of_ten_thousand_files_arrives(repository: Path, kind: str) -> None:
    took: list[float] = []
    with following(repository, kind) as follower:
        for _ in range(ROUNDS):
            for branch in ("large", "small"):
                git(repository, "checkout", "-q", branch)
                took.append(follower.arrives())
    print(
        f"{kind}: {len(took)} checkouts of {FILES} files, the slowest seen after {max(took):.2f} s"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_saves_arrive_after_the_follower_was_stopped_and_its_queue_overflowed(
    root: Path, kind: str
) -> None:
    fill(root, "old", folders=100, files=1000)
    with following(root, kind) as follower:
        follower.process.send_signal(signal.SIGSTOP)
        fill(root, "new", folders=100, files=OVERFLOW)
        (root / "last").write_text("x")
        follower.process.send_signal(signal.SIGCONT)
        took = follower.arrives()
    if kind == "best":
        assert any("overflow" in why for why in follower.whys)
    print(f"{kind}: 1 overflow of {OVERFLOW} saves, seen after {took:.2f} s")


def write_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def vim(path: Path, text: str) -> None:
    """A probe, the old file moved to a backup, the new one written, the backup removed."""
    probe, backup = path.with_name("4913"), path.with_name(path.name + "~")
    probe.touch()
    probe.unlink()
    if path.exists():
        path.rename(backup)
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    backup.unlink(missing_ok=True)


def jetbrains(path: Path, text: str) -> None:
    """A temporary file takes the place of the old one, which steps aside for it."""
    temp, old = (path.with_name(f"{path.name}___jb_{kind}___") for kind in ("tmp", "old"))
    temp.write_text(text)
    if path.exists():
        path.rename(old)
    temp.rename(path)
    old.unlink(missing_ok=True)


def atomic(path: Path, text: str) -> None:
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temp.write_text(text)
    temp.replace(path)


def in_a_new_folder(path: Path, text: str) -> None:
    folder = path.with_name(f"new-{text}") / "a" / "b"
    folder.mkdir(parents=True)
    (folder / path.name).write_text(text)


def folder_swapped(path: Path, text: str) -> None:
    fresh, place = path.with_name(f"fresh-{text}"), path.with_name("place")
    (fresh / "inner").mkdir(parents=True)
    (fresh / "inner" / path.name).write_text(text)
    if place.exists():
        place.rename(path.with_name(f"was-{text}"))
    fresh.rename(place)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "save", [write_in_place, vim, jetbrains, atomic, in_a_new_folder, folder_swapped]
)
def test_saves_of_every_editor_arrive(
    root: Path, kind: str, save: Callable[[Path, str], None]
) -> None:
    (root / "src").mkdir()
    path = root / "src" / "train.py"
    took: list[float] = []
    with following(root, kind) as follower:
        for i in range(SAVES):
            save(path, str(i))
            took.append(follower.arrives())
    took.sort()
    print(f"{kind}: {SAVES} × {save.__name__}: p50 {took[len(took) // 2] * 1e3:.0f} ms, "
          f"slowest {took[-1] * 1e3:.0f} ms")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_saves_arrive_without_watches_after_one_clear_notice(root: Path, kind: str) -> None:
    limited = ("unshare", "--user", "--map-root-user", "sh", "-c",
               'echo 3 > /proc/sys/user/max_inotify_watches && exec "$@"', "sh")  # fmt: skip
    probe = subprocess.run([*limited, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("needs a user namespace")
    fill(root, "old", folders=10, files=10)
    took: list[float] = []
    with following(root, kind, *limited) as follower:
        for i in range(3):
            (root / "p3" / "d3" / "f0.py").write_text(f"new {i}")
            took.append(follower.arrives())
    assert len(follower.notices) == 1
    assert "fs.inotify.max_user_watches" in follower.notices[0]
    print(f"{kind}: {len(took)} saves without watches, the slowest seen after {max(took):.2f} s")


def test_a_watch_limit_that_is_reached_later_loses_no_save(root: Path) -> None:
    limited = ("unshare", "--user", "--map-root-user", "sh", "-c",
               'echo 4 > /proc/sys/user/max_inotify_watches && exec "$@"', "sh")  # fmt: skip
    if subprocess.run([*limited, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs a user namespace")
    with following(root, "best", *limited) as follower:
        for i in range(6):
            (root / f"d{i}").mkdir()
            (root / f"d{i}" / "x").write_text("x")
            follower.arrives()
        (root / "d5" / "x").write_text("y")
        follower.arrives()
    assert len(follower.notices) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_root_that_goes_away_and_comes_back_is_followed_again(root: Path, kind: str) -> None:
    (root / "x").write_text("1")
    with following(root, kind) as follower:
        root.rename(root.with_name("away"))
        while "gone" not in follower.notices:
            follower._hear(allowed_s())
        root.with_name("away").rename(root)
        (root / "x").write_text("2")
        follower.arrives()
        (root / "x").write_text("3")
        follower.arrives()


def test_a_name_that_watchfiles_cannot_decode_stops_nothing(root: Path) -> None:
    with following(root, "notify") as follower:
        for i in range(3):
            os.close(os.open(os.fsencode(root) + b"/\xff%d" % i, os.O_CREAT))
            (root / "x").write_text(str(i))
            follower.arrives()
