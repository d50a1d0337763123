"""The words of a wish for GPUs: what they mean, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.cafs.gpu_wish import MAX_GPUS, BadWish, GpuWish, parse_wish

GIB = 1 << 30
MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("0", GpuWish(0)),
        ("2", GpuWish(2)),
        ("A100", GpuWish(1, ("A100",))),
        ("A100:2", GpuWish(2, ("A100",))),
        ("2:A100", GpuWish(2, ("A100",))),
        ("RTX 4090", GpuWish(1, ("RTX 4090",))),
        ("A100, H100 : 4", GpuWish(4, ("A100", "H100"))),
        ("24GB..", GpuWish(1, (), 24 * GIB, 0)),
        ("..24GB", GpuWish(1, (), 0, 24 * GIB)),
        ("16GB..40GB", GpuWish(1, (), 16 * GIB, 40 * GIB)),
        ("40GB", GpuWish(1, (), 40 * GIB, 40 * GIB)),
        ("512mb..1.5TiB", GpuWish(1, (), 512 * MIB, 1536 * GIB)),
        ("A100:40GB:2", GpuWish(2, ("A100",), 40 * GIB, 40 * GIB)),
        ("24GB..:8", GpuWish(8, (), 24 * GIB, 0)),
        ("1g.10gb", GpuWish(1, ("1g.10gb",))),
    ],
)
def test_a_wish_is_read(text: str, wish: GpuWish) -> None:
    assert parse_wish(text) == wish


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no wish"),
        (":", "is no wish"),
        ("..", "is no wish"),
        ("-1", "is no wish"),
        ("A100:", "is no wish"),
        ("A100;2", "is no wish"),
        ("../..", "is no wish"),
        ("2:3", "a count twice"),
        ("A100:H100", "a model twice"),
        ("8GB..:16GB", "memory twice"),
        ("8GB16GB", "no range of memory"),
        ("40GB..16GB", "no range of memory"),
        ("0:A100", "wants no GPU, and says which"),
        ("4090", "4090 GPUs are more"),
        (str(MAX_GPUS + 1), "more than a box has"),
        ("A100\n:2", "one short line"),
        ("A" * 1000, "one short line"),
    ],
)
def test_what_is_no_wish_is_refused_with_a_hint(text: str, words: str) -> None:
    with pytest.raises(BadWish, match=words) as refused:
        parse_wish(text)
    assert refused.value.hint


NAMES = st.from_regex(r"[A-Z][A-Z0-9]{0,6}", fullmatch=True)
SIZES = st.integers(1, 999).map(lambda gigabytes: gigabytes * GIB)


@given(
    st.integers(1, MAX_GPUS),
    st.lists(NAMES, max_size=3),
    st.one_of(
        st.just((0, 0)),
        SIZES.map(lambda size: (size, 0)),
        st.tuples(SIZES, SIZES).map(lambda pair: (min(pair), max(pair))),
    ),
)
def test_a_wish_is_the_same_after_its_own_words_are_read(
    count: int, names: list[str], limits: tuple[int, int]
) -> None:
    wish = GpuWish(count, tuple(names), *limits)
    assert parse_wish(str(wish)) == wish


@given(st.text())
def test_any_text_is_a_wish_or_refused(text: str) -> None:
    try:
        wish = parse_wish(text)
    except BadWish:
        return
    assert 0 <= wish.number <= MAX_GPUS


@pytest.mark.parametrize(
    ("wanted", "name", "fits"),
    [
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("a100", "A100-PCIE-40GB", True),
        ("A100-80GB", "NVIDIA A100-SXM4-80GB", True),
        ("A100-80GB", "NVIDIA A100-SXM4-40GB", False),
        ("A100", "NVIDIA RTX A1000", False),
        ("L4", "NVIDIA L40S", False),
        ("L40S", "NVIDIA L40S", True),
        ("RTX4090", "NVIDIA GeForce RTX 4090", True),
        ("rtx 4090", "NVIDIA GeForce RTX 4090", True),
        ("RTX6000-Ada", "NVIDIA RTX 6000 Ada Generation", True),
        ("1g.10gb", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", True),
        ("1g.10gb", "NVIDIA H100 80GB HBM3 MIG 1g.20gb", False),
        ("T4,A100", "Tesla T4", True),
    ],
)
def test_a_model_is_compared_word_by_word(wanted: str, name: str, fits: bool) -> None:
    assert parse_wish(wanted).fits_name(name) is fits


@pytest.mark.parametrize(
    ("wanted", "total_mib", "fits"),
    [
        ("24GB..", 23028, True),  # an A10
        ("24GB..", 16376, False),
        ("80GB..", 81559, True),  # an H100, of 79.6 GiB
        ("..24GB", 24576, True),
        ("..24GB", 40536, False),
        ("..24GB", 0, False),
        ("40GB", 40536, True),
        ("40GB", 81251, False),
        ("40GB", 24576, False),
        ("16GB..40GB", 24576, True),
        ("2", 0, True),
    ],
)
def test_memory_is_what_the_maker_says(wanted: str, total_mib: int, fits: bool) -> None:
    assert parse_wish(wanted).fits_memory(total_mib * MIB) is fits
