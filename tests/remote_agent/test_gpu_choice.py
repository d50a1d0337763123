"""Which GPUs a run gets, on plain values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.cafs.gpu_wish import GpuWish, parse_wish
from devloop.remote_agent.gpu import Gpu, GpuProcess, GpuSlice, GpuSnapshot, GpuState
from devloop.remote_agent.gpu_choice import (
    Busy,
    NoSuchGpus,
    Place,
    allowed_by,
    choose,
    places_of,
)

MIB = 1 << 20
GIB = 1 << 30


def gpu(index: int, name: str = "NVIDIA A100-SXM4-40GB", gib: int = 40, **fields: object) -> Gpu:
    values: dict[str, object] = {
        "uuid": f"GPU-{index}",
        "utilization_percent": 0,
        "memory_used_bytes": 5 * MIB,
        "memory_total_bytes": gib * GIB,
        "temperature_c": None,
        "power_w": None,
        "power_limit_w": None,
    }
    return Gpu(index=index, name=name, **(values | fields))  # type: ignore[arg-type]


def part(gpu_index: int, index: int, profile: str = "1g.5gb", **fields: object) -> GpuSlice:
    values: dict[str, object] = {"memory_used_bytes": 0, "memory_total_bytes": 5 * GIB}
    name = f"NVIDIA A100-SXM4-40GB MIG {profile}"
    return GpuSlice(index, f"MIG-{gpu_index}-{index}", name, **(values | fields))  # type: ignore[arg-type]


def program(pid: int = 7, gib: int | None = 3, **fields: object) -> GpuProcess:
    memory_bytes = None if gib is None else gib * GIB
    return GpuProcess(pid, memory_bytes, "python train.py", "alice", **fields)  # type: ignore[arg-type]


def box(
    *gpus: Gpu, holders: dict[str, str] | None = None, kept: tuple[str, ...] = ()
) -> list[Place]:
    return places_of(GpuSnapshot(GpuState.OK, "", gpus), holders or {}, kept)


def pick(text: str, places: list[Place], **options: object) -> list[str]:
    chosen = choose(parse_wish(text), places, **options)  # type: ignore[arg-type]
    assert not isinstance(chosen, Busy), chosen
    return [place.label for place in chosen]


def in_the_way(text: str, places: list[Place]) -> tuple[str, ...]:
    chosen = choose(parse_wish(text), places)
    assert isinstance(chosen, Busy), chosen
    return chosen.lines


# -- what is free


def test_a_gpu_on_which_a_program_computes_is_not_free() -> None:
    places = box(gpu(0, processes=(program(),)), gpu(1))
    assert pick("1", places) == ["1"]
    assert in_the_way("2", places) == (
        "GPU 0 (NVIDIA A100-SXM4-40GB): alice: python train.py (pid 7)",
    )


def test_a_screen_drawn_on_a_gpu_does_not_matter() -> None:
    screen = program(gib=1, computes=False)
    assert pick("1", box(gpu(0, memory_used_bytes=GIB, processes=(screen,)))) == ["0"]


def test_a_held_gpu_is_not_free_and_its_holder_is_named_rather_than_his_programs() -> None:
    places = box(gpu(0, processes=(program(),)), holders={"GPU-0": "run 3 of vision (bob)"})
    assert in_the_way("1", places) == ("GPU 0 (NVIDIA A100-SXM4-40GB): run 3 of vision (bob)",)


def test_memory_that_nobody_in_sight_holds_is_somebody_s() -> None:
    (line,) = in_the_way("1", box(gpu(0, memory_used_bytes=12 * GIB)))
    assert line.endswith("a program that cannot be seen from here holds 12GB")
    seen = program(gib=12, computes=False)
    assert pick("1", box(gpu(0, memory_used_bytes=12 * GIB, processes=(seen,)))) == ["0"]
    unknown = program(gib=None, computes=False)
    assert pick("1", box(gpu(0, memory_used_bytes=12 * GIB, processes=(unknown,)))) == ["0"]


def test_what_the_caller_holds_is_free_for_him_and_preferred() -> None:
    busy = gpu(1, memory_used_bytes=30 * GIB, processes=(program(),))
    places = box(gpu(0), busy, gpu(2), holders={"GPU-1": "run 1"}, kept=("GPU-1",))
    assert pick("1", places, kept=("GPU-1",)) == ["1"]
    assert pick("2", places, kept=("GPU-1",)) == ["0", "1"]


# -- which of the free ones


def test_the_one_with_the_least_memory_used_comes_first_and_noise_does_not_count() -> None:
    assert pick("1", box(gpu(0, memory_used_bytes=2 * GIB), gpu(1), gpu(2))) == ["1"]
    assert pick("1", box(gpu(0, memory_used_bytes=9 * MIB), gpu(1), gpu(2))) == ["0"]


def test_gpus_that_are_close_together_are_chosen_together() -> None:
    # Two pairs by NVLink, on two sockets; the first of the first pair is taken.
    distances = [[0, 1, 50, 50], [1, 0, 50, 50], [50, 50, 0, 1], [50, 50, 1, 0]]
    places = box(gpu(0, processes=(program(),)), gpu(1), gpu(2), gpu(3))
    assert pick("2", places, distances=distances) == ["2", "3"]
    assert pick("2", places) == ["1", "2"]
    assert pick("3", places, distances=distances) == ["1", "2", "3"]


def test_a_model_and_an_amount_of_memory_are_kept_to() -> None:
    places = box(gpu(0, "Tesla T4", 15), gpu(1), gpu(2, "NVIDIA H100 80GB HBM3", 80))
    assert pick("A100", places) == ["1"]
    assert pick("48GB..", places) == ["2"]
    assert pick("..16GB", places) == ["0"]
    assert pick("24GB..:2", places) == ["1", "2"]
    assert pick("T4,H100:2", places) == ["0", "2"]


# -- what can never be


@pytest.mark.parametrize("text", ["3", "H100", "80GB..", "A100:80GB", "T4:2"])
def test_a_wish_that_the_box_cannot_meet_is_an_error_that_says_what_there_is(text: str) -> None:
    places = box(gpu(0, processes=(program(),)), gpu(1, "Tesla T4", 15))
    with pytest.raises(NoSuchGpus, match=text) as refused:
        choose(parse_wish(text), places)
    assert "1 × Tesla T4 with 15GB" in str(refused.value)
    assert refused.value.hint


def test_a_box_without_gpus_says_so() -> None:
    with pytest.raises(NoSuchGpus, match="there is none"):
        choose(parse_wish("1"), [])


# -- divided GPUs


def divided(index: int = 0) -> Gpu:
    slices = (part(index, 1), part(index, 2, "3g.20gb", memory_total_bytes=20 * GIB))
    return gpu(index, is_divided=True, slices=slices)


def test_a_divided_gpu_is_given_by_its_slices() -> None:
    assert pick("1", box(divided())) == ["0:1"]
    assert pick("20GB..", box(divided())) == ["0:2"]
    assert pick("3g.20gb", box(divided())) == ["0:2"]
    assert pick("A100-3g.20gb", box(divided())) == ["0:2"]


def test_whole_gpus_come_before_slices_and_a_model_s_name_means_a_whole_one() -> None:
    assert pick("1", box(divided(0), gpu(1))) == ["1"]
    assert pick("A100", box(divided(0), gpu(1))) == ["1"]
    with pytest.raises(NoSuchGpus):
        choose(parse_wish("A100"), box(divided()))


def test_slices_are_not_given_together_since_a_program_sees_one() -> None:
    with pytest.raises(NoSuchGpus) as refused:
        choose(parse_wish("2"), box(divided()))
    assert "one slice" in refused.value.hint


def test_a_slice_in_use_leaves_its_neighbour_free() -> None:
    used = replace(divided(), slices=(part(0, 1, processes=(program(),)), part(0, 2)))
    assert pick("1", box(used)) == ["0:2"]


# -- CUDA_VISIBLE_DEVICES


@pytest.mark.parametrize(
    ("visible", "labels"),
    [
        (None, ["0", "1", "2:1", "2:2"]),
        ("", []),
        ("-1", []),
        ("1", ["1"]),
        ("1, 0", ["1", "0"]),
        ("GPU-1", ["1"]),
        ("0,nonsense,1", ["0"]),
        ("7", []),
        ("GPU-", []),
        ("MIG-2-2", ["2:2"]),
        ("2", ["2:1", "2:2"]),
        ("0,0", ["0"]),
    ],
)
def test_what_cuda_visible_devices_leaves_is_what_there_is(
    visible: str | None, labels: list[str]
) -> None:
    places = box(gpu(0), gpu(1), divided(2))
    assert [place.label for place in allowed_by(visible, places)] == labels


# -- whatever the box


@st.composite
def boxes(draw: st.DrawFn) -> tuple[list[Place], list[list[int]]]:
    used = st.sampled_from([(), ("alice",)])
    count = draw(st.integers(0, 9))
    sizes = st.integers(0, 80)
    places = [
        Place(f"GPU-{i}", str(i), "A100", i, draw(sizes) * GIB, 80 * GIB, users=draw(used))
        for i in range(count)
    ]
    level = st.sampled_from([1, 10, 50])
    return places, [[0 if i == j else draw(level) for i in range(count)] for j in range(count)]


@given(boxes(), st.integers(1, 9), st.sets(st.integers(0, 9).map(lambda i: f"GPU-{i}")))
def test_a_choice_is_free_of_the_right_size_and_repeatable(
    given_box: tuple[list[Place], list[list[int]]], number: int, kept: set[str]
) -> None:
    places, distances = given_box
    free = [place for place in places if not place.users]
    wish = GpuWish(number)
    if number > len(places):
        with pytest.raises(NoSuchGpus):
            choose(wish, places)
        return
    chosen = choose(wish, places, kept=kept, distances=distances)
    if number > len(free):
        assert isinstance(chosen, Busy)
        assert len(chosen.lines) == len(places) - len(free)
        return
    assert not isinstance(chosen, Busy)
    assert len(set(chosen)) == number
    assert set(chosen) <= set(free)
    assert chosen == choose(wish, places, kept=kept, distances=distances)
    stayed = sum(place.uuid in kept for place in chosen)
    assert stayed == min(number, sum(place.uuid in kept for place in free))
