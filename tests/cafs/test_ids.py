"""Which ids there are, in a namespace and for one of one's own."""

from __future__ import annotations

import os

import pytest

from devloop.cafs.ids import ALL, Extent, Ids, exchanged, granted, ids_here, mapping, own_names

SUBUID = """\
root:1:2
ann:100000:65536

ann:300000:10
bob:100000:65536:too:many
1000:500000:5
ann:no:5
ann:7:0
"""


def test_ranges_are_those_of_the_name_and_of_the_number() -> None:
    assert granted(SUBUID, ["ann", "1000"]) == [(100_000, 65_536), (300_000, 10), (500_000, 5)]
    assert granted(SUBUID, ["bob"]) == []
    assert granted("", ["ann"]) == []


def test_root_is_the_user_and_the_others_follow_without_a_gap() -> None:
    extents = mapping(1000, [(100_000, 65_536), (300_000, 10)])
    assert extents == [Extent(0, 1000, 1), Extent(1, 100_000, 65_536), Extent(65_537, 300_000, 10)]


@pytest.mark.parametrize(
    ("ids", "number", "shown"),
    [
        (ALL, 4_000_000_000, 4_000_000_000),
        (Ids(mapping(1000, [])), 0, 0),
        (Ids(mapping(1000, [])), 1000, 0),  # root is alone: everything is his
        (Ids(mapping(1000, [(100_000, 65_536)])), 1000, 1000),
        (Ids(mapping(1000, [(100_000, 65_536)])), 65_536, 65_536),
        (Ids(mapping(1000, [(100_000, 65_536)])), 65_537, 65_534),
        (Ids(mapping(1000, [(100_000, 1000)])), 65_534, 0),
    ],
)
def test_who_does_not_exist_is_shown_as_nobody_or_as_root(
    ids: Ids, number: int, shown: int
) -> None:
    assert ids.shown(number) == shown


def test_the_kernels_maps_are_read() -> None:
    ids = Ids.parse("         0       1000          1\n         1     100000      65536\n")
    assert ids.extents == (Extent(0, 1000, 1), Extent(1, 100_000, 65_536))
    assert not ids.are_all
    assert Ids.parse("         0          0 4294967295\n").are_all
    assert os.geteuid() in ids_here("uid")
    assert os.getegid() in ids_here("gid")


def test_a_user_without_a_name_goes_by_his_number() -> None:
    assert own_names(3_999_999_999) == ["3999999999"]
    assert own_names(0) == ["root", "0"]


LAST = 2**32 - 2


@pytest.mark.parametrize(("one", "other"), [(0, 1000), (1000, 0), (0, 1), (1, 5), (0, LAST)])
def test_an_exchange_maps_each_id_once(one: int, other: int) -> None:
    extents = exchanged(one, other)
    assert sum(extent.size for extent in extents) == LAST + 1
    seen = {e.inside + at: e.outside + at for e in extents for at in {0, e.size - 1}}
    assert (seen[one], seen[other]) == (other, one)
    assert all(to == number for number, to in seen.items() if number not in (one, other))
    assert all(number in Ids(extents) for number in (0, one, other, LAST))
