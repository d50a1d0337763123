"""The stat cache gives back what it was given, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devloop.cafs.digest import Digest, digest_of
from devloop.sync.statcache import Row, StatCache

if TYPE_CHECKING:
    from pathlib import Path

I64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(
    st.builds(
        Row,
        path=st.binary(min_size=1, max_size=20).map(lambda b: b.replace(b"\0", b"_")),
        size_bytes=I64,
        mtime_ns=I64,
        ctime_ns=I64,
        inode=st.integers(0, 2**64 - 1),
        digest=st.binary(min_size=32, max_size=32).map(Digest),
    ),
    max_size=20,
    unique_by=lambda row: row.path,
)


def some_rows() -> list[Row]:
    return [Row(b"d/f%d" % i, i, i + 1, i + 2, i + 3, digest_of(b"%d" % i)) for i in range(50)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_every_row_comes_back_as_it_was_saved(tmp_path: Path, rows: list[Row]) -> None:
    cache = StatCache(tmp_path / "deep" / "cache")
    cache.save(rows)
    saved = cache.load()
    assert len(saved) == len(rows)
    for path, size_bytes, mtime_ns, ctime_ns, inode, digest in rows:
        assert saved.digest(path, size_bytes, mtime_ns, ctime_ns, inode) == digest


def test_a_stat_that_differs_in_anything_finds_no_digest(tmp_path: Path) -> None:
    cache = StatCache(tmp_path / "cache")
    cache.save(some_rows())
    saved = cache.load()
    assert saved.digest(b"d/f7", 7, 8, 9, 10) is not None
    for wrong in ((6, 8, 9, 10), (7, 7, 9, 10), (7, 8, 8, 10), (7, 8, 9, 11)):
        assert saved.digest(b"d/f7", *wrong) is None
    assert saved.digest(b"d/f8", 7, 8, 9, 10) is None


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert len(StatCache(tmp_path / "none").load()) == 0


@pytest.mark.parametrize("cut", [0, 1, 8, 24, 500, -1])
def test_a_torn_file_is_an_empty_cache(tmp_path: Path, cut: int) -> None:
    cache = StatCache(tmp_path / "cache")
    cache.save(some_rows())
    whole = (tmp_path / "cache").read_bytes()
    (tmp_path / "cache").write_bytes(whole[:cut])
    assert len(cache.load()) == 0


def test_one_flipped_bit_anywhere_is_an_empty_cache(tmp_path: Path) -> None:
    cache = StatCache(tmp_path / "cache")
    cache.save(some_rows())
    whole = bytearray((tmp_path / "cache").read_bytes())
    for position in range(0, len(whole), 37):
        whole[position] ^= 0x10
        (tmp_path / "cache").write_bytes(whole)
        assert len(cache.load()) == 0, position
        whole[position] ^= 0x10


def test_another_version_is_an_empty_cache(tmp_path: Path) -> None:
    cache = StatCache(tmp_path / "cache")
    cache.save(some_rows())
    whole = (tmp_path / "cache").read_bytes()
    body = b"dlstat\x00\x02" + whole[8:-32]
    (tmp_path / "cache").write_bytes(body + digest_of(body))
    assert len(cache.load()) == 0


def test_saving_leaves_no_file_but_the_cache(tmp_path: Path) -> None:
    cache = StatCache(tmp_path / "cache")
    cache.save(some_rows())
    cache.save(some_rows()[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert len(cache.load()) == 1
