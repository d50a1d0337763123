"""What `devloop doctor` says of containers: found out by starting one.

Knows nothing of images: the container is made of empty folders.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.errors import DevloopError

from .job import Box
from .pool import Containers
from .rootless import NO_OTHERS
from .runtime import KINDS, find_runtime
from .spec import ContainerSpec, FolderRoot, ImageConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .runtime import Kind

__all__ = ["ContainerCheck", "check_containers"]


class ContainerCheck(NamedTuple):
    """`runtime` is empty where no container starts; `why` and `hint` say what stands in the way,
    or, with a runtime, what is weaker than it could be."""

    runtime: str
    gpus: str
    why: str = ""
    hint: str = ""


async def check_containers(kinds: Iterable[Kind] = KINDS) -> ContainerCheck:
    """Tries each runtime in turn. Takes up to a second."""
    failure: DevloopError | None = None
    for kind in kinds:
        try:
            box = await asyncio.to_thread(Box.look, find_runtime((kind,)))
            await _start_one(kind)
        except DevloopError as error:
            failure = failure or error
            continue
        return _found(kind, box)
    assert failure is not None
    return ContainerCheck("", "", str(failure), failure.hint)


def _found(kind: Kind, box: Box) -> ContainerCheck:
    name = kind if box.rootless is None else f"{kind}, rootless"
    why = hint = ""
    if box.without_seccomp:
        why = f"runs have no system call filter: {box.without_seccomp}"
        hint = "install libseccomp2"
    elif box.rootless is not None and not box.rootless.has_others:
        refused = f" ({box.rootless.refusal})" if box.rootless.refusal else ""
        why = f"only an image's root can run, and owns all of its files{refused}"
        hint = NO_OTHERS
    return ContainerCheck(name, box.devices.source, why, hint)


async def _start_one(kind: Kind) -> None:
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="devloop-check-"))
    containers = Containers(folder / "containers", kinds=(kind,))
    try:
        for name in ("root", "workspace"):
            (folder / name).mkdir()
        spec = ContainerSpec(FolderRoot(folder / "root"), ImageConfig(), folder / "workspace")
        await containers.ensure(spec)
    finally:
        await containers.close()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
