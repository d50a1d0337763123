"""What two images have in common is fetched and stored once, and `image inspect` says how much."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.images.layout import Image, layer, write_layout
from tests.images.possible import skip_unless_lazy_containers
from tests.images.programs import small_root

from .box import wait_until

if TYPE_CHECKING:
    from .box import Box

OWN_BYTES = 3_000_000


class Pair(NamedTuple):
    """Two images on one base. `base_bytes`: of the files that they share."""

    one: str
    two: str
    base_bytes: int


@pytest.fixture(autouse=True)
def _possible() -> None:
    skip_unless_lazy_containers()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    files = {**small_root("sh", "cat"), "opt/unread": os.urandom(OWN_BYTES)}
    base = layer(files)
    for name in ("one", "two"):
        own = layer({f"opt/{name}": os.urandom(OWN_BYTES)})
        write_layout(tmp_path / name, [Image([base, own])])
    sizes = {(d if isinstance(d, bytes) else getattr(d, "data", b"")) for d in files.values()}
    names = [f"oci:{tmp_path}/{name}:latest" for name in ("one", "two")]
    return Pair(*names, sum(map(len, sizes)))


def pulled(box: Box, image: str) -> int:
    """What the store takes afterwards."""
    assert box.run(box.base, "image", "pull", image).code == 0
    taken: int = json.loads(box.run(box.base, "image", "ls", "--json").text)["store_bytes"]
    return taken


def inspected(box: Box, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box.run(box.base, "image", "inspect", image, "--json").text)
    return found


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("blobs/??/*"))


def test_a_second_image_on_the_same_base_takes_what_differs(
    own_box: Box, pair: Pair, tmp_path: Path
) -> None:
    first, both = pulled(own_box, pair.one), pulled(own_box, pair.two)
    assert both - first == pytest.approx(OWN_BYTES, rel=0.02)
    details = inspected(own_box, pair.two)
    assert details["size_bytes"] == details["local_bytes"] == first
    assert details["shared_bytes"] == pytest.approx(pair.base_bytes, rel=0.02)
    tier = tmp_path / "tier"
    for image in (pair.one, pair.two):
        before = bytes_in(tier)
        assert own_box.run(own_box.base, "image", "push", image, "--to", f"file://{tier}").code == 0
    assert bytes_in(tier) - before == pytest.approx(OWN_BYTES, rel=0.02)


def test_inspect_says_what_was_touched_fetched_and_shared(
    box: Box, own_box: Box, pair: Pair, tmp_path: Path
) -> None:
    for image in (pair.one, pair.two):
        pulled(box, image)
        box.run(box.base, "image", "push", image, "--to", f"file://{tmp_path}/tier")
    project = own_box.project()
    for image in (pair.one, pair.two):
        store = f'image = "{image}"\nstore = ["file://{tmp_path}/tier"]\n'
        (project / "devloop.toml").write_text(store)
        assert own_box.exec(project, "cat", "/etc/passwd").text.startswith("root:")
    wait_until(lambda: inspected(own_box, pair.two)["profiles"])
    details = inspected(own_box, pair.two)
    assert details["shared_bytes"] == pytest.approx(pair.base_bytes, rel=0.02)
    assert 0 < details["local_bytes"] < details["size_bytes"] - OWN_BYTES
    (touched,) = details["profiles"]
    assert (touched["program"], touched["arguments"]) == ("cat", 1)
    assert 0 < touched["size_bytes"] <= details["local_bytes"]
    shown = own_box.run(own_box.base, "image", "inspect", pair.two).text
    assert " on the box, " in shown
    assert " shared with other images" in shown
    assert " by cat with 1 argument" in shown
