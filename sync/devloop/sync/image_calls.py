"""The calls of the protocol that are about images, with plain values in and out.

With `client.py` and `carrier.py` the only module of this half that knows gRPC. Sessions without an
image do not import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.proto.v1 import agent_pb2 as pb

from .agent_errors import RemoteError
from .client import call_errors
from .images import Collected, Image, ImageDetails, ImageProfile, Pushed
from .upkeep import Verified

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from devloop.proto.v1 import agent_pb2_grpc

    from .images import ImageSource
    from .progress import ImagePhase, Progress

__all__ = ["ImageCalls"]

_PHASES: dict[int, ImagePhase] = {
    pb.IMAGE_STEP_RESOLVING: "resolving",
    pb.IMAGE_STEP_FETCHING: "fetching",
    pb.IMAGE_STEP_MOUNTING: "mounting",
}


class ImageCalls:
    """Every call raises AgentGone or RemoteError.

    A reference is also the index of an image, in at least 12 hex digits, but where one is brought
    in. With `workspace_id`, a relative path in it starts in the workspace's files.
    """

    def __init__(self, stub: agent_pb2_grpc.AgentAsyncStub) -> None:
        self._stub = stub

    async def ensure(
        self,
        source: ImageSource,
        progress: Progress,
        *,
        workspace_id: str = "",
        refresh: bool = False,
        command: tuple[bytes, ...] = (),
    ) -> Image:
        """Returns when runs may name the image. `progress` has how far it is, and notes.
        `command`: what will probably run."""
        request = pb.EnsureImageRequest(
            source=pb.ImageSource(
                reference=source.reference,
                store=source.store,
                mirrors=source.mirrors,
                insecure=source.insecure,
            ),
            refresh=refresh,
            workspace_id=workspace_id,
            command=command,
        )
        with call_errors():
            async for reply in self._stub.EnsureImage(request):
                if reply.HasField("image"):
                    progress.notes += reply.notes
                    return _image(reply.image)
                phase = _PHASES.get(reply.step, "fetching")
                progress.image(phase, reply.done_bytes, reply.total_bytes)
        raise RemoteError("Ended", f"the agent did not say what became of {source.reference}", "")

    async def list(self) -> tuple[list[Image], int]:
        """The newest first, and what the blobs of all of them take, in bytes."""
        with call_errors():
            reply = await self._stub.ListImages(pb.ListImagesRequest())
        return [_image(image) for image in reply.images], reply.store_bytes

    async def inspect(self, reference: str, *, workspace_id: str = "") -> ImageDetails:
        request = pb.InspectImageRequest(reference=reference, workspace_id=workspace_id)
        with call_errors():
            reply = await self._stub.InspectImage(request)
        return ImageDetails(
            image=_image(reply.image),
            config=reply.config,
            layers=tuple(reply.layers),
            entries=reply.entries,
            files=reply.files,
            size_bytes=reply.size_bytes,
            local_bytes=reply.local_bytes,
            shared_bytes=reply.shared_bytes,
            profiles=tuple(
                ImageProfile(p.program, p.arguments, p.files, p.size_bytes) for p in reply.profiles
            ),
        )

    async def remove(self, reference: str, *, workspace_id: str = "") -> Collected:
        request = pb.RemoveImageRequest(reference=reference, workspace_id=workspace_id)
        with call_errors():
            reply = await self._stub.RemoveImage(request)
        return Collected(reply.removed_blobs, reply.freed_bytes, reply.held)

    async def collect(self) -> Collected:
        with call_errors():
            reply = await self._stub.CollectImages(pb.CollectImagesRequest())
        return Collected(reply.removed_blobs, reply.freed_bytes)

    async def verify(self) -> Verified:
        with call_errors():
            reply = await self._stub.VerifyImages(pb.VerifyImagesRequest())
        return Verified(reply.blobs, reply.damaged, list(reply.problems))

    async def push(
        self, reference: str, tier: str, *, workspace_id: str = ""
    ) -> AsyncIterator[Pushed]:
        request = pb.PushImageRequest(reference=reference, tier=tier, workspace_id=workspace_id)
        with call_errors():
            async for reply in self._stub.PushImage(request):
                yield Pushed(reply.done_bytes, reply.total_bytes, reply.sent_blobs)


def _image(message: pb.Image) -> Image:
    return Image(
        reference=message.reference,
        manifest=message.manifest,
        index_digest=message.index,
        pulled_ns=message.pulled_ns,
        is_complete=message.complete,
    )
