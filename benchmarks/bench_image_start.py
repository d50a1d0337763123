"""How long a container takes to start, and a program in a warm one; by the agent's own parts.

A client adds what it adds to every run, see the section "start".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from devloop.cafs.digest import Digest
from devloop.cafs.images import ImageStore
from devloop.cafs.mount import probe
from devloop.cafs.oci.ingest import ingest
from devloop.cafs.oci.source import open_image
from devloop.remote_agent.container.pool import Containers
from devloop.remote_agent.container.spec import ContainerSpec, ImageConfig, ImageRoot
from devloop.remote_agent.spawn import Spawner, StartRequest

from .base_images import debian_base
from .figures import Bound, Samples, Section, quantile
from .image_peers import start_registry, unpack
from .sandbox import timed

if TYPE_CHECKING:
    from pathlib import Path

    from .base_images import BaseImage
    from .plan import Bench

__all__ = ["bench_image_start"]

START_LIMIT_MS, ZYGOTE_LIMIT_MS = 60.0, 15.0
WARM_UP = 3


def bench_image_start(bench: Bench) -> Section:
    image = debian_base()
    section = Section("image-start", "a container of an image that is here starts")
    with bench.sandbox() as sandbox:
        registry = start_registry(sandbox, image)
        bundle, _ = unpack(sandbox, registry.reference, "peer")
        peers = []
        for number in range(WARM_UP + bench.starts):
            argv = bundle.crun(f"peer-{number}", "/bin/true")
            peers.append(1000 * timed(argv, cwd=sandbox.root, env=sandbox.env))
        cold, warm, zygote = asyncio.run(
            _measure(sandbox.directory("ours"), image, WARM_UP + bench.starts)
        )
    samples = [
        Samples("crun run /bin/true, unpacked directory", "ms", peers[WARM_UP:]),
        Samples("no container → first output of echo", "ms", cold[WARM_UP:]),
        Samples("warm container → first output of echo", "ms", warm[WARM_UP:]),
        Samples("warm container → first line of Python, by zygote", "ms", zygote[WARM_UP:]),
    ]
    section.samples += samples
    section.bounds += [
        Bound("start of a container, first output", samples[1].p50, START_LIMIT_MS, "ms"),
        Bound("first line by zygote", samples[3].p50, ZYGOTE_LIMIT_MS, "ms"),
        Bound("start / crun run", quantile(cold, 0.5) / quantile(peers, 0.5), 1.0),
    ]
    return section


async def _measure(
    folder: Path, image: BaseImage, count: int
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds, of each kind in turns."""
    workspace = folder / "workspace"
    workspace.mkdir()
    (workspace / "main.py").write_text("print('line', flush=True)\n")
    containers = Containers(folder / "containers")
    spawner = Spawner(folder / "state", containers=containers)
    await spawner.start_service()
    cold, warm, zygote = [], [], []
    with ImageStore(folder / "images") as store:
        spec = replace(_spec(store, image, folder), workspace=workspace)
        try:
            for _ in range(count):
                cold.append(await _first_output(spawner, spec, b"/bin/echo", b"line"))
                warm.append(await _first_output(spawner, spec, b"/bin/echo", b"line"))
                await _first_output(spawner, spec, b"python3", b"main.py")
                zygote.append(await _first_output(spawner, spec, b"python3", b"main.py"))
                await containers.end(lambda _: True)
                containers.warm()  # as an agent does a second after each start
                await asyncio.sleep(0.5)
        finally:
            await containers.close()
            await spawner.close()
    return cold, warm, zygote


def _spec(store: ImageStore, image: BaseImage, folder: Path) -> ContainerSpec:
    with contextlib.closing(open_image(image.reference)) as source:
        digest: Digest = store.add(ingest(source, store.blobs))
    store.ensure_metadata(digest)
    level = probe(folder).name
    root = ImageRoot(level, store.metadata_path(digest), store.root, digest.hex())
    return ContainerSpec(root, ImageConfig.parse(store.config(digest)), folder)


async def _first_output(spawner: Spawner, spec: ContainerSpec, *argv: bytes) -> float:
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    began = time.perf_counter()
    workspace = os.fsencode(spec.workspace)
    request = StartRequest(
        argv=argv,
        env={},
        cwd=workspace,
        stdin=null,
        stdout=write,
        stderr=write,
        tty=False,
        warm=True,
        preload=(),
        workspace=workspace,
        local_root=None,
        container=spec,
    )
    process = await spawner.start(request)
    os.close(write)
    os.close(null)
    data = await asyncio.to_thread(os.read, read, 100)
    took_ms = 1000 * (time.perf_counter() - began)
    await process.wait()
    os.close(read)
    if data != b"line\n":
        raise RuntimeError(f"{argv!r} said {data!r}")
    return took_ms
