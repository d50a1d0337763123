"""Which of an image's variants a machine takes."""

from __future__ import annotations

import pytest

from devloop.cafs.oci.platform import Platform, amd64_variant, best, host_platform
from devloop.cafs.oci.source_errors import PlatformMissing

V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3 = f"{V2} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
V4 = f"{V3} avx512bw avx512cd avx512dq avx512f avx512vl"


@pytest.mark.parametrize(
    ("flags", "variant"),
    [
        ("", ""),
        (V2, "v2"),
        (V3, "v3"),
        (V4, "v4"),
        (V2.replace("popcnt", ""), ""),
        (V4.replace("movbe", ""), "v2"),  # as some hypervisors hide what is between
    ],
)
def test_a_processor_is_of_the_highest_level_that_it_has_all_of(flags: str, variant: str) -> None:
    assert amd64_variant(frozenset(flags.split())) == variant


def test_a_machine_takes_the_best_that_it_runs() -> None:
    levels = [Platform("linux", "amd64", variant) for variant in ("", "v2", "v3", "v4")]
    for place, machine in enumerate(levels):
        assert best(machine, levels, "a") == place
        assert best(machine, levels[:2], "a") == min(place, 1)
    with pytest.raises(PlatformMissing, match="there is linux/amd64/v3"):
        best(levels[1], [levels[2]], "a")


def test_this_machine_runs_what_is_for_it() -> None:
    here = host_platform()
    assert here.runs(here)
    assert here.os == "linux"
