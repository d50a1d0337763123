"""The oracle is `umoci unpack`: every entry is what it makes of it, of random stacks of layers and
of real images."""

from __future__ import annotations

import contextlib
import os
import shutil
from random import Random
from typing import TYPE_CHECKING

import pytest
from tests.cafs.oci.oracle import differences, needs_umoci, unpack, unpack_image
from tests.cafs.oci.random_stack import random_stack
from tests.cafs.oci.stack import MemorySource, as_layer
from tests.images.bases import debian_base, torch_image

from devloop.cafs.errors import DevloopError
from devloop.cafs.oci.ingest import ingest
from devloop.cafs.oci.source import open_image
from devloop.cafs.wholefiles import WholeFiles

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cafs.oci.random_stack import RandomLayer

    from devloop.cafs.index import Index
    from devloop.cafs.oci.source import Layer

IS_SOAK = os.environ.get("DEVLOOP_SOAK") == "1"
STACKS = 2_000 if IS_SOAK else 60


@pytest.mark.root
def test_random_stacks_are_what_umoci_makes_of_them(tmp_path: Path) -> None:
    needs_umoci()
    refused = 0
    blobs = WholeFiles(tmp_path / "images")
    for seed in range(STACKS):
        random = Random(seed)
        layers = random_stack(random, random.randrange(1, 5))
        unpacked = unpack(tmp_path / str(seed), [layer.for_umoci for layer in layers])
        index, refusal = _ingested(layers, blobs)
        assert bool(refusal) == bool(unpacked.refusal), f"{seed}: {refusal} / {unpacked.refusal}"
        refused += bool(refusal)
        if index is not None:
            assert differences(index, unpacked) == [], f"seed {seed}"
    blobs.close()
    print(f"{STACKS} stacks, of which both refuse {refused}")
    assert refused < STACKS / 2


@pytest.mark.root
def test_a_real_image_is_what_umoci_makes_of_it(tmp_path: Path) -> None:
    """Debian with Python; in a soak also one with torch."""
    needs_umoci()
    images = [debian_base(), *([torch_image()] if IS_SOAK else [])]
    blobs = WholeFiles(tmp_path / "images")
    for number, image in enumerate(images):
        with contextlib.closing(open_image(image.reference)) as source:
            index = ingest(source, blobs)
        folder = tmp_path / f"umoci-{number}"
        folder.mkdir()
        assert differences(index, unpack_image(folder, image.reference.removeprefix("oci:"))) == []
        shutil.rmtree(folder)
        print(f"{len(index.names):,} entries")
    blobs.close()


def _ingested(layers: list[RandomLayer], blobs: WholeFiles) -> tuple[Index | None, str]:
    """The index, or why there is none."""
    try:
        return ingest(MemorySource(_compressed(layers)), blobs), ""
    except DevloopError as error:
        return None, str(error)


def _compressed(layers: list[RandomLayer]) -> list[Layer]:
    return [as_layer(layer.tar, layer.compression) for layer in layers]
