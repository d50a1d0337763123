"""An image from a registry onto the box, beside skopeo and umoci."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from .base_images import torch_image
from .figures import Bound, Samples, Section, quantile
from .image_peers import du_bytes, start_registry, unpack
from .sandbox import timed

if TYPE_CHECKING:
    from .plan import Bench

__all__ = ["bench_image_ingest"]

LIMIT = 0.5


def bench_image_ingest(bench: Bench) -> Section:
    image = torch_image()
    title = f"an image of {image.size_bytes / 1e9:.2f} GB and {image.entries:,} entries comes in"
    section = Section("image-ingest", title)
    with bench.sandbox() as sandbox:
        registry = start_registry(sandbox, image)
        ours, theirs, our_disk, their_disk = [], [], [], []
        for number in range(max(2, bench.syncs // 2 + 1)):
            os.sync()
            began = time.perf_counter()
            bundle, layout = unpack(sandbox, registry.reference, str(number))
            theirs.append(time.perf_counter() - began)
            their_disk.append(du_bytes([bundle.folder, layout]) / 1e9)
            agent = sandbox.agent(f"a{number}")
            timed([agent.command, "image", "ls"], cwd=sandbox.root, env=agent.env)
            os.sync()
            pull = [agent.command, "image", "pull", registry.reference]
            ours.append(timed(pull, cwd=sandbox.root, env=agent.env))
            our_disk.append(du_bytes([sandbox.root / f"a{number}/state/images"]) / 1e9)
            agent.down()
    section.samples += [
        Samples("skopeo copy + umoci unpack", "s", theirs),
        Samples("devloop image pull, durable", "s", ours),
        Samples("  disk of the former", "GB", their_disk),
        Samples("  disk of the latter", "GB", our_disk),
    ]
    section.bounds += [
        Bound("devloop / skopeo + umoci", quantile(ours, 0.5) / quantile(theirs, 0.5), LIMIT),
        Bound("disk", quantile(our_disk, 0.5) / quantile(their_disk, 0.5), 1.0),
    ]
    return section
