"""Containers on a real image: its metadata, its blobs, and a file server for missing ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.cafs.tiers.servers import serve_nothing
from tests.images.bases import debian_base
from tests.remote_agent.container.rooms import KINDS, Room, lives, skip_unless_possible

from devloop.cafs.digest import Digest
from devloop.cafs.images import ImageStore
from devloop.cafs.mount import probe
from devloop.cafs.oci.ingest import ingest
from devloop.cafs.oci.source import open_image
from devloop.remote_agent.container import container, job, keeper
from devloop.remote_agent.container.spec import ImageConfig, ImageRoot
from devloop.remote_agent.spawn import StartFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devloop.cafs.mount import LevelName
    from devloop.remote_agent.container.runtime import Kind


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageStore]:
    with ImageStore(tmp_path_factory.mktemp("images") / "images") as store:
        source = open_image(debian_base().reference)
        try:
            index = ingest(source, store.blobs)
        finally:
            source.close()
        digest = store.add(index)
        store.ensure_metadata(digest)
        store.name("debian", "sha256:" + "1" * 64, digest)
        yield store


@pytest.fixture(scope="module", params=["best", "fuse+overlay"])
def level(request: pytest.FixtureRequest, store: ImageStore) -> LevelName:
    best = probe(store.root).name
    if best == "unpacked":
        pytest.skip("needs overlayfs")
    wanted: LevelName = request.param
    return best if request.param == "best" else wanted


def root_of(store: ImageStore, level: LevelName, **options: Any) -> ImageRoot:
    digest = store.get("debian").index_digest
    is_erofs = level == "erofs+overlay"
    metadata = store.metadata_path(digest) if is_erofs else store.index_path(digest)
    return ImageRoot(level, metadata, store.root, digest.hex(), **options)


@pytest.fixture(params=KINDS)
def enter(
    tmp_path: Path, request: pytest.FixtureRequest, store: ImageStore, level: LevelName
) -> Iterator[Callable[..., Room]]:
    kind: Kind = request.param
    skip_unless_possible(kind)
    rooms: list[Room] = []

    def enter(**options: Any) -> Room:
        root = options.pop("root", None) or root_of(store, level, **options)
        config = ImageConfig.parse(store.config(Digest.fromhex(root.index)))
        rooms.append(Room.enter(tmp_path, kind, root=root, image=config, mounts=()))
        return rooms[-1]

    yield enter
    for room in rooms:
        room.close()


@pytest.mark.parametrize("lazy", [False, True])
def test_a_run_sees_the_image(enter: Callable[..., Room], lazy: bool) -> None:
    room = enter(lazy=lazy)
    ended = room.run("/bin/sh", "-c", ". /etc/os-release; echo $ID; echo x > /etc/new")
    assert (ended.stdout, ended.stderr) == (b"debian\n", b"")
    for _ in range(2):
        ended = room.run("python3", "-c", "import sys; print(sys.prefix)")
        assert (ended.stdout, room.last_kind) == (b"/usr\n", "zygote"), room.last_note


def test_missing_files_come_from_a_tier(
    enter: Callable[..., Room], store: ImageStore, level: LevelName, tmp_path: Path
) -> None:
    digest = store.get("debian").index_digest
    with ImageStore(tmp_path / "far") as empty:
        empty.add_lazy(store.index(digest))
        empty.ensure_metadata(digest)
        empty.name("debian", "sha256:" + "1" * 64, digest)
        room = enter(root=root_of(empty, level, lazy=True, tiers=(f"file://{store.root}",)))
        shown = room.run("/bin/sh", "-c", ". /etc/os-release; echo $ID; stat -c %g /var/local")
        assert shown.stdout == b"debian\n50\n", shown
        come = sum(path.stat().st_size for path in (empty.root / "blobs").glob("??/*"))
        assert 0 < come < store.disk_bytes() / 4


def test_a_dead_file_server_ends_its_container_and_the_next_run_has_a_new_one(
    enter: Callable[..., Room],
) -> None:
    room = enter(lazy=True)
    room.run("/bin/true")
    container = room.containers._places[room.spec]._container
    keeper = container._keeper.process.pid
    (server,) = [pid for pid in _children(keeper) if b"devloop.cafs.fuse" in _command(pid)]
    os.kill(server, signal.SIGKILL)
    room.until(container.ended.is_set)
    assert container.why == "its file server has ended"
    assert not lives(keeper)
    assert "devloop" not in Path("/proc/self/mounts").read_text()
    assert room.run("/bin/echo", "again").stdout == b"again\n"


def test_a_tier_that_says_nothing_at_a_cold_start_is_named_with_the_file(
    enter: Callable[..., Room],
    store: ImageStore,
    level: LevelName,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("devloop.remote_agent.container.job.DEADLINE_S", 2.0)
    digest = store.get("debian").index_digest
    with ImageStore(tmp_path / "far") as empty, serve_nothing() as silent:
        empty.add_lazy(store.index(digest))
        empty.ensure_metadata(digest)
        empty.name("debian", "sha256:" + "1" * 64, digest)
        room = enter(root=root_of(empty, level, lazy=True, tiers=(silent,)))
        with pytest.raises(StartFailed) as failure:
            room.run("/bin/true")
    assert "/etc/passwd cannot be read" in str(failure.value)
    assert silent in str(failure.value)
    assert "`store`" in failure.value.hint
    room.until(lambda: room.folders == [])


def test_a_container_whose_files_do_not_answer_is_followed_by_another(
    enter: Callable[..., Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = enter(lazy=True)
    room.run("/bin/true")
    keeper_pid = room.containers._places[room.spec]._container._keeper.process.pid
    spawner = room.containers._places[room.spec]._container.spawner.pid
    (looks,) = [pid for pid in _children(spawner) if b"start.py" in _command(pid)][:1]
    monkeypatch.setattr("devloop.remote_agent.container.container.ANSWER_TIMEOUT_S", 0.5)
    os.kill(looks, signal.SIGSTOP)
    with pytest.raises(StartFailed, match="do not answer"):
        room.run("/bin/true")
    monkeypatch.undo()
    assert room.run("/bin/echo", "again").stdout == b"again\n"
    assert not lives(keeper_pid)


def test_no_limit_of_a_container_is_below_that_of_a_read() -> None:
    assert keeper._RUNTIME_TIMEOUT_S > job.DEADLINE_S
    assert container.ANSWER_TIMEOUT_S > job.DEADLINE_S
    assert keeper._RUNTIME_TIMEOUT_S + job.DEADLINE_S < container.START_TIMEOUT_S


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
