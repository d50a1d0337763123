"""Small blobs in packs: formats, tails that were torn, several processes, space given back."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import zlib
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.cafs import packs as packs_module
from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.packfile import RECORD_BYTES, records_in
from devloop.cafs.packs import Packs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENTS = [b"blob %d " % number * (number % 40) for number in range(200)]
BLOBS = {digest_of(data): data for data in CONTENTS}


@pytest.fixture
def packs(tmp_path: Path) -> Iterator[Packs]:
    packs = Packs(tmp_path / "packs")
    yield packs
    packs.close()


def put_all(packs: Packs, blobs: dict[Digest, bytes]) -> None:
    for digest, data in blobs.items():
        packs.put(digest, data)


def holds(packs: Packs, blobs: dict[Digest, bytes]) -> bool:
    return set(packs) == set(blobs) and all(packs.get(d) == data for d, data in blobs.items())


def pack_files(packs: Packs) -> list[str]:
    return sorted(path.name for path in packs.directory.glob("*.pack"))


def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "PACK_BYTES", 4000)


def test_the_record_format_is_the_documented_one(packs: Packs) -> None:
    digest = digest_of(b"hello")
    packs.put(digest, b"hello")
    record = (packs.directory / "00000001.pack").read_bytes()
    assert record[:4] == b"dlpR"
    assert record[4:8] == (5).to_bytes(4, "little")
    assert record[16:48] == digest
    assert record[RECORD_BYTES:] == b"hello"
    packs.delete(digest)
    assert (packs.directory / "00000001.pack").read_bytes() == b"dlpX" + record[4:]


@pytest.mark.parametrize("index", ["kept", "lost", "torn", "of another pack"])
def test_a_folder_opened_again_has_the_same_blobs(packs: Packs, index: str) -> None:
    put_all(packs, BLOBS)
    gone = dict(list(BLOBS.items())[::3])
    for digest in gone:
        packs.delete(digest)
    packs.close()
    path = packs.directory / "00000001.index"
    match index:
        case "lost":
            path.unlink()
        case "torn":
            os.truncate(path, path.stat().st_size // 2)
        case "of another pack":
            os.truncate(path.with_suffix(".pack"), 0)
    again = Packs(packs.directory)
    if index == "of another pack":
        assert list(again) == []
    else:
        assert holds(again, {d: data for d, data in BLOBS.items() if d not in gone})
    again.close()


def test_records_behind_the_index_are_found(packs: Packs) -> None:
    first, second = dict(list(BLOBS.items())[:100]), dict(list(BLOBS.items())[100:])
    put_all(packs, first)
    packs.close()
    again = Packs(packs.directory)
    put_all(again, second)
    reader = Packs(packs.directory)
    assert holds(reader, BLOBS)
    reader.close()
    again.close()


@pytest.mark.parametrize("tail", [b"", b"\0" * 3000, b"dlpR", b"dlp" * 100, os.urandom(500)])
def test_a_torn_tail_is_cut_off_and_what_is_put_next_is_kept(packs: Packs, tail: bytes) -> None:
    put_all(packs, BLOBS)
    packs.close()
    path = packs.directory / "00000001.pack"
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    again = Packs(packs.directory)
    assert path.stat().st_size == len(whole)
    more = digest_of(b"more")
    again.put(more, b"more")
    again.close()
    last = Packs(packs.directory)
    assert holds(last, {**BLOBS, more: b"more"})
    last.close()


def test_a_scan_finds_every_record_wherever_its_blocks_end(packs: Packs) -> None:
    """Also of blobs that are packs themselves, whose records are not to be taken for others."""
    rng = random.Random(4)
    inner = b"".join(record_of(b"inner %d" % number) for number in range(300))
    contents = [inner[: rng.randrange(1000, len(inner))] + b"%d" % n for n in range(300)]
    contents += [rng.randbytes(rng.choice([0, 300, 65_536])) for _ in range(100)]
    rng.shuffle(contents)
    blobs = {digest_of(data): data for data in contents}
    put_all(packs, blobs)
    reader = Packs(packs.directory)  # there is no index yet
    assert holds(reader, blobs)
    reader.close()


def test_an_index_that_was_no_good_once_is_not_believed_later(packs: Packs) -> None:
    """The pack was cut shorter than the index says, and has grown since."""
    put_all(packs, BLOBS)
    packs.close()
    pack, index = (packs.directory / f"00000001.{kind}" for kind in ("pack", "index"))
    os.truncate(pack, 0)
    again = Packs(packs.directory)
    assert not index.exists()
    other = {digest_of(data): data for data in (b"%d" % n * 100 for n in range(500))}
    put_all(again, other)
    assert holds(again, other)
    last = Packs(packs.directory)
    assert holds(last, other)
    last.close()
    again.close()


@given(st.binary(max_size=400), st.integers(0, 400))
def test_no_bytes_between_records_hide_the_records_behind_them(noise: bytes, cut: int) -> None:
    record = record_of(b"first")
    behind = record_of(b"second")
    found = [r.digest for r in records_in(record + noise + behind, 9999)]
    assert found[0] == digest_of(b"first")
    assert found[-1] == digest_of(b"second")
    whole = list(records_in((record + behind)[:cut], 9999))
    assert len(whole) == (cut >= len(record)) + (cut >= len(record + behind))


def record_of(data: bytes) -> bytes:
    fields = struct.pack("<Iq32s", len(data), 7, digest_of(data))
    return b"dlpR" + fields + struct.pack("<I", zlib.crc32(fields)) + data


def test_a_full_pack_is_followed_by_the_next(packs: Packs, monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch)
    put_all(packs, BLOBS)
    assert len(pack_files(packs)) > 5
    assert holds(packs, BLOBS)
    packs.close()
    again = Packs(packs.directory)
    assert holds(again, BLOBS)
    again.close()


def test_two_that_are_open_at_once_harm_each_other_nowhere(packs: Packs) -> None:
    other = Packs(packs.directory)
    for number, (digest, data) in enumerate(BLOBS.items()):
        (packs, other)[number % 2].put(digest, data)
    packs.sync()
    other.sync()
    assert pack_files(packs) == ["00000001.pack", "00000002.pack"]
    packs.close()
    other.close()
    again = Packs(packs.directory)
    assert holds(again, BLOBS)
    again.close()


def test_what_another_process_appends_to_is_never_removed(packs: Packs) -> None:
    packs.put(digest_of(b"first"), b"first")
    other = Packs(packs.directory)
    put_all(packs, BLOBS)
    other.delete(digest_of(b"first"))
    other.rewrite_sparse()
    assert "00000001.pack" in pack_files(packs)
    assert all(packs.get(digest) == data for digest, data in BLOBS.items())
    other.close()


def test_rewriting_gives_back_the_space_of_dead_records_and_keeps_the_live(
    packs: Packs, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_packs(monkeypatch)
    put_all(packs, BLOBS)
    times = {digest: packs.put_ns(digest) for digest in BLOBS}
    kept = dict(list(BLOBS.items())[::4])
    for digest in BLOBS.keys() - kept.keys():
        packs.delete(digest)
    packs.rewrite_sparse()
    live_bytes = sum(len(data) + RECORD_BYTES for data in kept.values())
    used_bytes = sum(path.stat().st_size for path in packs.directory.glob("*.pack"))
    assert used_bytes <= live_bytes * 4 / 3 + 4000
    assert holds(packs, kept)
    assert all(packs.put_ns(digest) == times[digest] for digest in kept)
    packs.close()
    again = Packs(packs.directory)
    assert holds(again, kept)
    again.close()


def test_readers_are_served_while_packs_are_rewritten(
    packs: Packs, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_packs(monkeypatch)
    kept = dict(list(BLOBS.items())[::2])
    failures: list[object] = []
    stop = threading.Event()

    def read() -> None:
        rng = random.Random(1)
        while not stop.is_set():
            digest = rng.choice(list(kept))
            try:
                assert packs.get(digest) == kept[digest]
            except BaseException as error:  # noqa: BLE001 - a thread's top: the test reports it
                failures.append(error)
                return

    put_all(packs, BLOBS)
    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(10):
        put_all(packs, BLOBS)
        for digest in BLOBS.keys() - kept.keys():
            packs.delete(digest)
        packs.rewrite_sparse()
    stop.set()
    reader.join()
    assert failures == []
    assert holds(packs, kept)


def test_a_disk_that_runs_full_amid_an_append_leaves_the_pack_as_it_was(
    packs: Packs, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all(packs, BLOBS)
    pack = packs.directory / "00000001.pack"
    before = pack.read_bytes()
    real, calls = os.pwrite, 0

    def half_then_full(fd: int, data: bytes, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[: len(data) // 2], offset)

    some = [(digest_of(data), data) for data in (b"x" * 999, b"y", *BLOBS.values())]
    for put in (partial(packs.put, *some[0]), partial(packs.put_all, some)):
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", half_then_full)
            with pytest.raises(OSError, match="No space"):
                put()
        calls = 0
        assert pack.read_bytes() == before
        assert set(packs) == set(BLOBS)
    packs.put(digest_of(b"x" * 999), b"x" * 999)
    assert packs.get(digest_of(b"x" * 999)) == b"x" * 999


def test_many_put_at_once_are_as_if_put_one_by_one(packs: Packs) -> None:
    put_all(packs, dict(list(BLOBS.items())[::2]))
    packs.put_all([*BLOBS.items(), *BLOBS.items()])
    assert holds(packs, BLOBS)
    with contextlib.closing(Packs(packs.directory)) as again:
        assert holds(again, BLOBS)
    packs.sync()
    assert holds(packs, BLOBS)


PUTTING = """
import sys
from pathlib import Path
from devloop.cafs.digest import digest_of
from devloop.cafs.packs import Packs
packs = Packs(Path(sys.argv[1]))
number = 0
while True:
    data = b"%d" % number * 500
    packs.put(digest_of(data), data)
    print(digest_of(data).hex(), flush=True)
    number += 1
"""


def test_a_killed_process_loses_no_blob_that_it_had_put(packs: Packs) -> None:
    command = [sys.executable, "-c", PUTTING, str(packs.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        told += [line for line in process.stdout.read().split("\n") if len(line) == 64]
    again = Packs(packs.directory)
    for text in told:
        assert again.get(Digest.fromhex(text)) is not None
    assert list(again.verify()) == []
    again.close()


def test_a_temporary_index_of_a_killed_process_goes(packs: Packs) -> None:
    (packs.directory / ".tmp-1-00000001").touch()
    assert packs.remove_temporaries(older_than_s=60) == 0
    assert packs.remove_temporaries(older_than_s=-60) == 1
