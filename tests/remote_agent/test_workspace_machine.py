"""Workspaces through random trees, with runs that meddle and agents that are killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from devloop.cafs.store import DiskStore
from devloop.remote_agent.workspace import Workspace

from .trees import ADir, AFile, Flat, Thing, flat, look, make_tree, projects, send_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devloop.remote_agent.transition import Applied

SOAK = os.environ.get("DEVLOOP_SOAK") == "1"
EXAMPLES = 3000 if SOAK else 60
CHANGING_CALLS = ["rename", "replace", "unlink", "rmdir", "mkdir", "symlink", "utime", "chmod"]
# Explaining a failure traces every line, which takes minutes here.
quickly = settings(max_examples=EXAMPLES, deadline=None, phases=set(Phase) - {Phase.explain})


class Killed(BaseException):
    """As SIGKILL: nothing that was under way is done any more."""


@contextmanager
def killed_after(calls: int) -> Iterator[None]:
    left = calls

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal left
            if left <= 0:
                raise Killed
            left -= 1
            return function(*args, **options)

        return call

    with ExitStack() as patches:
        for name in CHANGING_CALLS:
            patches.enter_context(mock.patch.object(os, name, dying(getattr(os, name))))
        yield


class Box:
    """A workspace in a directory of its own, and what was written there by runs."""

    def __init__(self, directory: Path, store: DiskStore) -> None:
        self.directory = directory.resolve()
        self.store = store
        self.workspace = self.reopened()
        self.written: set[bytes] = set()  # and not overwritten by a later write
        self.writes = 0

    def reopened(self) -> Workspace:
        self.workspace = Workspace(self.directory / "workspace", self.store, "test")
        return self.workspace

    def follow(self, project: dict[bytes, Thing], *, repair: bool = False) -> Applied:
        target = make_tree(self.store, project).digest
        if len(flat(project)) % 2:
            send_ahead(self.workspace, project)
        staged = self.workspace.stage(target, repair=repair)
        assert staged.missing == []
        applied = self.workspace.apply(staged)
        assert self.workspace.current == target
        assert list((self.directory / "workspace" / "staging").iterdir()) == []
        return applied

    def files(self) -> Flat:
        return look(self.workspace.files)

    def write(self, path: bytes) -> None:
        """As a run would; it may fail as a run's would."""
        self.writes += 1
        content = b"of the box, number %d" % self.writes
        place = os.path.join(os.fsencode(self.workspace.files), path)
        if os.path.realpath(os.path.dirname(place)) != os.path.dirname(place):
            return  # through a link, perhaps to where nobody would look for it
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if os.path.lexists(place) and not os.path.isdir(place):
                self._forget(place)
                os.unlink(place)
            Path(os.fsdecode(place)).write_bytes(content)
        except OSError:
            return
        self.written.add(content)

    def _forget(self, place: bytes) -> None:
        if os.path.isfile(place) and not os.path.islink(place):
            self.written.discard(Path(os.fsdecode(place)).read_bytes())

    def kept(self) -> set[bytes]:
        """Everything that still exists below files/ and aside/."""
        folders = [self.workspace.files, self.directory / "workspace" / "aside"]
        things = [thing for f in folders if f.exists() for thing in look(f).values()]
        return {thing.data for thing in things if isinstance(thing, AFile)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiskStore]:
    with DiskStore(tmp_path_factory.mktemp("store")) as store:
        yield store


@contextmanager
def box(store: DiskStore) -> Iterator[Box]:
    directory = Path(tempfile.mkdtemp(prefix="dl-box-"))
    yield Box(directory, store)
    shutil.rmtree(directory)


@quickly
@given(steps=st.lists(projects, min_size=1, max_size=4))
def test_after_each_transition_the_files_are_the_tree(
    store: DiskStore, steps: list[dict[bytes, Thing]]
) -> None:
    with box(store) as here:
        for project in steps:
            applied = here.follow(project)
            assert here.files() == flat(project)
            assert applied.saved_aside == []


@quickly
@given(
    first=projects,
    second=projects,
    third=projects,
    kills=st.lists(st.integers(0, 25), min_size=1, max_size=3),
)
@example(
    first={b"a": AFile(b"", 0o644, 0), b"b": ADir({b"a": AFile(b"", 0o644, 0)}, 0o755)},
    second={},
    third={b"a": ADir({}, 0o755)},
    kills=[7],
)
def test_after_kills_at_any_point_the_next_transition_gives_the_exact_tree(
    store: DiskStore,
    first: dict[bytes, Thing],
    second: dict[bytes, Thing],
    third: dict[bytes, Thing],
    kills: list[int],
) -> None:
    """Also where each agent was on its way to another tree than the one before it."""
    with box(store) as here:
        here.follow(first)
        ways = [second, third, first]
        for calls, way in zip(kills, ways, strict=False):
            try:
                with killed_after(calls):
                    here.reopened()
                    here.follow(way)
            except Killed:
                pass
        here.reopened()
        applied = here.follow(third)
        assert here.files() == flat(third)
        assert applied.saved_aside == []


paths = st.sampled_from([b"a", b"b", b"a/b", b"a/a", b"a-b/a", b"m.py", b"a/m.py", b"out/x"])


@quickly
@given(
    steps=st.lists(
        st.tuples(projects, st.lists(paths, max_size=3), st.integers(0, 40)),
        min_size=2,
        max_size=4,
    )
)
def test_no_byte_that_a_run_wrote_is_ever_lost(
    store: DiskStore,
    steps: list[tuple[dict[bytes, Thing], list[bytes], int]],
) -> None:
    """It is where the run put it, or was moved aside, whatever is killed in between."""
    with box(store) as here:
        for project, writes, calls in steps:
            try:
                with killed_after(calls if calls < 30 else 10**6):
                    here.reopened()
                    here.follow(project)
            except Killed:
                here.reopened()
                here.follow(project)
            assert here.written <= here.kept()
            for path in writes:
                here.write(path)
        assert here.written <= here.kept()


@quickly
@given(project=projects, doomed=st.lists(paths, max_size=4))
def test_a_repair_brings_back_exactly_what_runs_deleted(
    store: DiskStore, project: dict[bytes, Thing], doomed: list[bytes]
) -> None:
    with box(store) as here:
        here.follow(project)
        for path in doomed:
            place = os.path.join(os.fsencode(here.workspace.files), path)
            if os.path.isdir(place) and not os.path.islink(place):
                shutil.rmtree(place)
            elif os.path.lexists(place):
                os.unlink(place)
        applied = here.follow(project, repair=True)
        assert here.files() == flat(project)
        assert applied.saved_aside == []
