"""Promise 13, images: a hostile layer is refused or flattened, and writes nothing but blobs."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import resource
import time
from typing import TYPE_CHECKING

import pytest
import zstandard
from tests.cafs.oci.stack import END, Member, MemorySource, as_layer, header, pax_member, tar_of

from devloop.cafs.errors import DevloopError
from devloop.cafs.index import Index
from devloop.cafs.oci import limits
from devloop.cafs.oci.ingest import ingest
from devloop.cafs.oci.source import Descriptor, Layer
from devloop.cafs.wholefiles import WholeFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.promise(13)

SOAK = os.environ.get("DEVLOOP_SOAK") == "1"
STACKS = 20_000 if SOAK else 1_000
SPOILED = 5_000 if SOAK else 400

WHITEOUTS = [b".wh.a", b".wh.etc", b".wh..wh..opq", b".wh..wh.plnk"]
PARTS = [b"a", b"b", b"c", b"etc", b".", b"", b"\xff", b"-rf"]
PARTS += [b"a", b"b", b"c", b"etc", b"proc", b"x" * 255, b"\x1b[2J"]
BAD_PARTS = [b"..", b".wh.", b".wh...", b"x" * 256]
TYPES = [b"0", b"0", b"2", b"3", b"4", b"5", b"5", b"6", b"7", b"\0"]
BAD_TYPES = [b"1", b"S", b"Z", b"g", b"x", b"L"]
ODD_PAX = [
    {b"size": b"-1"},
    {b"size": b"99999999999999999999"},
    {b"path": b"../../evil"},
    {b"linkpath": b"/etc/passwd"},
    {b"mtime": b"nan"},
    {b"mtime": b"9" * 40},
    {b"uid": b"x"},
    {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"../e"},
    {b"GNU.sparse.realsize": b"1099511627776", b"GNU.sparse.map": b"0,1"},
    {b"SCHILY.xattr.trusted.overlay.redirect": b"/etc/shadow"},
    {b"SCHILY.xattr.security.capability": b"\1" * 20},
]


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """What holds the store. Beside it lies a canary for a stray path to hit."""
    box = tmp_path / "box"
    box.mkdir()
    (box / "canary").write_text("untouched")
    return box


@pytest.fixture
def blobs(box: Path) -> Iterator[WholeFiles]:
    files = WholeFiles(box / "images")
    yield files
    files.close()


def assert_untouched(box: Path) -> None:
    assert sorted(os.listdir(box)) == ["canary", "images"]
    assert (box / "canary").read_text() == "untouched"
    for path in (box / "images").rglob("*"):
        assert path.is_dir() or path.is_file(), path
        assert not path.is_symlink(), path
        assert path.stat().st_mode & 0o7000 == 0, path


def taken(source: MemorySource, blobs: WholeFiles) -> Index | None:
    """The index, whole and in bounds; None for what was refused with words for people."""
    index = None
    refusal = ""
    try:
        index = ingest(source, blobs)
    except DevloopError as error:
        refusal = str(error)
    if index is None:
        assert refusal
        assert refusal.isprintable(), ascii(refusal)
        return None
    assert Index.decode(index.encode()) == index
    for path, _ in index.names[1:]:
        assert not path.startswith(b"/"), path
        assert not {b"", b".", b".."} & set(path.split(b"/")), path
    assert all(blobs.has(digest) for digest in index.blobs())
    return index


def random_name(chance: random.Random) -> bytes:
    parts = [chance.choice(PARTS) for _ in range(chance.randint(1, 5))]
    if chance.random() < 0.1:
        parts[chance.randrange(len(parts))] = chance.choice(BAD_PARTS)
    elif chance.random() < 0.15:
        parts.append(chance.choice(WHITEOUTS))
    name = b"/".join(parts)
    return b"/" + name if chance.random() < 0.1 else name


def random_member(chance: random.Random) -> Member:
    kind = chance.choice(BAD_TYPES if chance.random() < 0.05 else TYPES)
    has_data = kind in (b"0", b"\0", b"7") or chance.random() < 0.05
    return Member(
        random_name(chance),
        kind,
        chance.randbytes(chance.choice((0, 0, 3, 700))) if has_data else b"",
        mode=chance.choice((0o644, 0o755, 0o4755, 0o7777)),
        uid=chance.choice((1 << 40, -1)) if chance.random() < 0.03 else 1000,
        mtime=1 << 62 if chance.random() < 0.03 else chance.choice((0, 1_600_000_000, -5)),
        link=random_name(chance),
        rdev=(1 << 20, 5) if chance.random() < 0.03 else chance.choice(((0, 0), (1, 3))),
        pax=chance.choice(ODD_PAX) if chance.random() < 0.05 else {},
    )


def test_random_stacks_are_refused_or_stay_within_their_root(
    box: Path, blobs: WholeFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = 0
    for seed in range(STACKS):
        chance = random.Random(seed)
        layers = [
            tar_of([random_member(chance) for _ in range(chance.randint(1, 4))])
            for _ in range(chance.randint(1, 3))
        ]
        source = MemorySource([as_layer(one, "plain") for one in layers])
        kept += taken(source, blobs) is not None
    assert_untouched(box)
    assert STACKS // 10 < kept < STACKS * 9 // 10
    with capsys.disabled():
        print(f"\npromise 13: {STACKS:,} hostile stacks, {kept:,} of them flattened, 0 escaped")


def test_layers_with_damage_anywhere_are_refused(box: Path, blobs: WholeFiles) -> None:
    """The DiffID is that of the good bytes: nothing that is not those may pass."""
    good = tar_of([Member(b"etc/", b"5"), Member(b"etc/a", data=b"x" * 3000), Member(b"b")])
    for seed in range(SPOILED):
        chance = random.Random(seed)
        how = chance.choice(("gzip", "zstd", "plain"))
        honest = as_layer(good, how)
        data = bytearray(honest.open().read())
        if chance.random() < 0.4:
            del data[chance.randrange(len(data)) :]
        else:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        spoiled = io.BytesIO(bytes(data)).getvalue()
        layer = honest._replace(open=lambda spoiled=spoiled: io.BytesIO(spoiled))
        index = taken(MemorySource([layer]), blobs)
        # gzip has bytes that nobody reads: its time, its system, its name.
        assert index is None or (how == "gzip" and {p for p, _ in index.names} >= {b"etc/a", b"b"})
    assert_untouched(box)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([Member(b"../evil")], "leads out of the image"),
        ([Member(b"a/../../evil")], "leads out of the image"),
        ([Member(b"x" * 256)], "name of 256 bytes"),
        ([Member(b"/".join([b"d" * 250] * 17))], "path of"),
        ([Member(b".wh.")], "a whiteout of nothing"),
        ([Member(b"dir/.wh...")], "a whiteout of nothing"),
        ([Member(b"hard", b"1", link=b"../../etc/passwd")], "leads out of the image"),
        ([Member(b"hard", b"1", link=b"nothing")], "a hard link to .*no file"),
        ([Member(b"hard", b"1", link=b"hard")], "a hard link to .*no file"),
        ([Member(b"dir/", b"5"), Member(b"hard", b"1", link=b"dir")], "a hard link to .*no file"),
        ([Member(b"./", b"0")], "root that is no directory"),
    ],
)
def test_what_no_image_may_have_is_refused_by_name(
    box: Path, blobs: WholeFiles, members: list[Member], words: str
) -> None:
    with pytest.raises(DevloopError, match=words):
        ingest(MemorySource([as_layer(tar_of(members))]), blobs)
    assert_untouched(box)


def test_absolute_and_duplicate_names_stay_inside(blobs: WholeFiles) -> None:
    members = [Member(b"/etc/passwd", data=b"one"), Member(b"etc//passwd", data=b"two")]
    index = ingest(MemorySource([as_layer(tar_of(members))]), blobs)
    assert [path for path, _ in index.names] == [b"", b"etc", b"etc/passwd"]
    assert blobs.get(index.inodes[2].digest) == b"two"


def test_a_link_on_the_way_is_followed_inside_the_image(box: Path, blobs: WholeFiles) -> None:
    out = os.fsencode(box)
    members = [Member(b"way", b"2", link=out), Member(b"way/canary", data=b"overwritten")]
    index = ingest(MemorySource([as_layer(tar_of(members))]), blobs)
    assert out[1:] + b"/canary" in [path for path, _ in index.names]
    assert_untouched(box)


def test_a_hole_of_a_terabyte_is_refused_at_once(box: Path, blobs: WholeFiles) -> None:
    pax = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": b"huge",
        b"GNU.sparse.realsize": b"%d" % (1 << 40),
    }
    sparse_map = b"1\n0\n512\n".ljust(512, b"\0")
    member = Member(b"huge", data=sparse_map + b"x" * 512, pax=pax)
    began = time.monotonic()
    with pytest.raises(DevloopError, match=r"a file of 1,099,511,627,776 bytes"):
        ingest(MemorySource([as_layer(tar_of([member]))]), blobs)
    assert time.monotonic() - began < 2


def test_a_bomb_of_entries_is_refused(
    box: Path, blobs: WholeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million of them, of which two are read: the limit is lowered but for a soak."""
    count = 10_000_000 if SOAK else 60_000
    if not SOAK:
        monkeypatch.setattr(limits, "MAX_ENTRIES", 50_000)
    many = b"".join(header(Member(b"f%d" % number)) for number in range(10_000))
    packed = gzip.compress(many) * (count // 10_000) + gzip.compress(END)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DevloopError, match="entries"):
        ingest(MemorySource([raw_layer(packed, "+gzip")]), blobs)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < (1_200 << 10 if SOAK else 200 << 10)


@pytest.mark.parametrize("how", ["+gzip", "+zstd"])
def test_a_bomb_of_bytes_is_refused(
    box: Path, blobs: WholeFiles, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A terabyte in some kilobytes. From a gigabyte on, but for a soak from 16 MB on."""
    if not SOAK:
        monkeypatch.setattr(limits, "EXPANSION_FROM_BYTES", 16 << 20)
    zeros = bytes(64 << 20)
    piece = gzip.compress(zeros) if how == "+gzip" else zstandard.compress(zeros)
    if how == "+gzip":  # deflate alone cannot: its pieces are within what is allowed
        monkeypatch.setattr(limits, "MAX_TAR_BYTES", 256 << 20)
    start = Member(b"zeros", size=200 << 30)
    first = gzip.compress(header(start)) if how == "+gzip" else zstandard.compress(header(start))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DevloopError, match="inflates to more than"):
        ingest(MemorySource([raw_layer(first + piece * 64, how)]), blobs)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 200 << 10
    assert_untouched(box)


def test_wrong_diff_ids_and_odd_headers_are_refused(box: Path, blobs: WholeFiles) -> None:
    tar = tar_of([Member(b"a", data=b"x")])
    wrong = [as_layer(tar, diff_id=f"sha256:{'0' * 64}")]
    cut = [as_layer(tar[:512]), as_layer(pax_member({b"path": b"a"})), as_layer(b"\xff" * 512)]
    for layer in wrong + cut:
        with contextlib.closing(layer.open()), pytest.raises(DevloopError):
            ingest(MemorySource([layer]), blobs)
    assert_untouched(box)


def raw_layer(data: bytes, suffix: str) -> Layer:
    kind = f"application/vnd.oci.image.layer.v1.tar{suffix}"
    descriptor = Descriptor(kind, f"sha256:{'1' * 64}", len(data))
    return Layer(descriptor, f"sha256:{'2' * 64}", lambda: io.BytesIO(data))
