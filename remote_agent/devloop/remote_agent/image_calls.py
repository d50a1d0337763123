"""The calls about images, from messages to `Images` and back. Part of the servicer."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devloop.cafs.fuse.check import FuseMissing, check_fuse
from devloop.proto.v1 import agent_pb2 as pb

from .agent import InvalidRequest
from .container.cgroups import limit_files, missing_limits
from .container.check import check_containers
from .container_request import mount_level
from .images import Brought, Told, Wish

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from devloop.cafs.images import Collected, Image

    from .agent import Agent
    from .images import Images

__all__ = [
    "check",
    "collected",
    "ensure_image",
    "inspect_image",
    "list_images",
    "push_image",
    "remove_image",
]

MAX_REFERENCE_CHARS = 4096
MAX_PLACES = 16


async def ensure_image(agent: Agent, request: pb.EnsureImageRequest, context: Any) -> None:
    wish = _wish(agent, request)
    if not request.refresh:  # a run comes next
        is_whole = await asyncio.to_thread(agent.images.is_whole, wish)
        agent.containers.warm(() if is_whole else wish.store)
    probing = asyncio.create_task(asyncio.to_thread(mount_level, agent.images.root))
    brought = await _told(agent.images.ensure(wish, refresh=request.refresh), context)
    notes = [*brought.notes]
    if (await probing).name == "unpacked":
        if not agent.images.store.is_complete(brought.image.index_digest):
            wish = replace(wish, whole=True)
            brought = await _told(agent.images.ensure(wish), context)
            notes += brought.notes
        await context.write(pb.EnsureImageReply(step=pb.IMAGE_STEP_MOUNTING))
        notes += await _unpack(agent.images, brought.image)
    image = _message(agent.images, brought.image)
    await context.write(pb.EnsureImageReply(image=image, notes=notes))


async def _told(states: AsyncGenerator[Told | Brought, None], context: Any) -> Brought:
    async with contextlib.aclosing(states):
        async for state in states:
            if isinstance(state, Brought):
                return state
            await context.write(
                pb.EnsureImageReply(
                    step=pb.ImageStep.ValueType(state.step),
                    done_bytes=state.done_bytes,
                    total_bytes=state.total_bytes,
                    done_layers=state.done_layers,
                    layers=state.layers,
                )
            )
    raise AssertionError("images say at last what was brought, or raise")


async def _unpack(images: Images, image: Image) -> list[str]:
    """Of a whole one. Returns notes."""
    problems = await images.unpack(image.index_digest)
    if not problems:
        return []
    first = f"{problems[0].path}: {problems[0].reason}"
    return [f"{len(problems):,} files of {image.reference} are not as it has them: {first}"]


def _wish(agent: Agent, request: pb.EnsureImageRequest) -> Wish:
    source = request.source
    if max(map(len, (source.store, source.mirrors, source.insecure))) > MAX_PLACES:
        raise InvalidRequest(f"more than {MAX_PLACES} places for one image")
    return replace(
        _named(agent, source.reference, request.workspace_id),
        store=tuple(source.store),
        mirrors=tuple(source.mirrors),
        insecure=tuple(source.insecure),
        command=tuple(request.command),
    )


def _named(agent: Agent, reference: str, workspace_id: str) -> Wish:
    if not 0 < len(reference) <= MAX_REFERENCE_CHARS:
        raise InvalidRequest("an image needs a reference of up to 4 KiB")
    workspace: Path | None = None
    if workspace_id:
        with contextlib.suppress(InvalidRequest):  # nothing of that project has run here yet
            workspace = agent.project(workspace_id).workspace.files
    return Wish(reference, workspace=workspace)


async def list_images(images: Images) -> pb.ListImagesReply:
    found = await asyncio.to_thread(images.store.list)
    return pb.ListImagesReply(
        images=[_message(images, image) for image in found],
        store_bytes=await asyncio.to_thread(images.store.disk_bytes),
    )


async def inspect_image(agent: Agent, request: pb.InspectImageRequest) -> pb.InspectImageReply:
    images, wish = agent.images, _named(agent, request.reference, request.workspace_id)
    details = await asyncio.to_thread(images.inspect, wish)
    return pb.InspectImageReply(
        image=_message(images, details.image),
        config=details.config,
        layers=details.layers,
        entries=details.entries,
        files=details.files,
        size_bytes=details.size_bytes,
        local_bytes=details.local_bytes,
        shared_bytes=details.shared_bytes,
        profiles=[
            pb.ImageProfile(
                program=p.program, arguments=p.arguments, files=p.files, size_bytes=p.size_bytes
            )
            for p in details.profiles
        ],
    )


async def remove_image(agent: Agent, request: pb.RemoveImageRequest) -> pb.CollectImagesReply:
    wish = _named(agent, request.reference, request.workspace_id)
    found, is_held = await agent.images.remove(wish)
    return collected(found, is_held=is_held)


def collected(found: Collected, *, is_held: bool = False) -> pb.CollectImagesReply:
    return pb.CollectImagesReply(
        removed_blobs=found.removed_blobs, freed_bytes=found.removed_bytes, held=is_held
    )


async def push_image(agent: Agent, request: pb.PushImageRequest, context: Any) -> None:
    wish = _named(agent, request.reference, request.workspace_id)
    async with contextlib.aclosing(agent.images.push(wish, request.tier)) as states:
        async for done_bytes, total_bytes, sent in states:
            await context.write(
                pb.PushImageReply(done_bytes=done_bytes, total_bytes=total_bytes, sent_blobs=sent)
            )


async def check(images: Images) -> pb.CheckContainersReply:
    """Tries them, since what a box says of itself is not to be believed."""
    level = await asyncio.to_thread(mount_level, images.root)
    found = await check_containers()
    lazy = pb.Ability(name="pyfuse3")
    try:
        check_fuse()
    except FuseMissing as error:
        lazy = pb.Ability(why=str(error), hint=error.hint)
    return pb.CheckContainersReply(
        images=pb.Ability(name=level.name, why=level.why, hint=level.hint),
        lazy=lazy,
        containers=pb.Ability(name=found.runtime, why=found.why, hint=found.hint),
        gpus=found.gpus,
        missing_limits=missing_limits(limit_files(1, 1.0, 1)),
    )


def _message(images: Images, image: Image) -> pb.Image:
    return pb.Image(
        reference=image.reference,
        manifest=image.manifest,
        index=image.index_digest,
        pulled_ns=image.pulled_ns,
        complete=images.store.is_complete(image.index_digest),
    )
