"""The gRPC servicer: checks what comes in, calls the agent, words what goes out.

What all calls have in common, errors above all, is in `calls.py`; long calls have files of their
own (`attachment.py`, `forward.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil

from devloop.cafs.digest import Digest, split_digests
from devloop.cafs.version import VERSION
from devloop.proto.v1 import agent_pb2 as pb
from devloop.proto.v1 import agent_pb2_grpc

from . import cleaning, convert, image_calls
from .agent import FEW_BLOBS, InvalidRequest, OnBusy, undisturbed
from .attachment import Attachment
from .calls import Activity, streaming, unary
from .forward import Forwards
from .kept import measure_kept, remove_kept
from .outputs import list_outputs, read_output
from .reading import read_small
from .receive import Receiver
from .run_stop import stop_run
from .shell import PLAIN_SHELL, login_shell, start_shell
from .takeovers import Takeovers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .agent import Agent, Project
    from .run import Run, RunSpec

__all__ = ["MAX_MESSAGE_BYTES", "Service"]

PROTOCOL = 1
CAPABILITIES = ("blobs", "chunks", "runs", "tty", "outputs", "metrics", "gpus")
MAX_MESSAGE_BYTES = 4 << 20
MAX_DIGESTS = 65536
MAX_ARGV_BYTES = 1 << 20
MAX_NAMED = 100  # of paths in a report
HANG_UP_S = 5.0


class Service(agent_pb2_grpc.AgentServicer):
    """One per agent. `stopping` is set when a client asked the agent to end."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.activity = Activity()
        self._takeovers = Takeovers()
        self._forwards = Forwards()
        self.stopping = asyncio.Event()

    # -- hello and goodbye

    @unary
    async def Hello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:
        return pb.HelloReply(
            agent_version=VERSION,
            protocol=PROTOCOL,
            capabilities=CAPABILITIES,
            host=self._host_facts(),
            live_runs=len(self._agent.live_runs()),
        )

    def _host_facts(self) -> pb.HostFacts:
        uname = os.uname()
        return pb.HostFacts(
            hostname=socket.gethostname(),
            os=f"{uname.sysname} {uname.release}",
            machine=uname.machine,
            python=platform.python_version(),
            cpus=os.cpu_count() or 1,
            memory_bytes=psutil.virtual_memory().total,
            isolation=self._agent.spawner.level,
            isolation_hint=self._agent.spawner.level_hint,
            state_dir=str(self._agent.state_dir),
            disk_free_bytes=_free_bytes(self._agent.state_dir),
            pid=os.getpid(),
        )

    @unary
    async def Shutdown(self, request: pb.ShutdownRequest, context: Any) -> pb.ShutdownReply:
        live = [run.number for run in self._agent.live_runs()]
        if not live or request.stop_runs:
            self.stopping.set()
        return pb.ShutdownReply(live_runs=live)

    # -- blobs

    @unary
    async def HaveBlobs(self, request: pb.HaveBlobsRequest, context: Any) -> pb.HaveBlobsReply:
        wanted = list(split_digests(request.digests))
        if len(wanted) > MAX_DIGESTS:
            raise InvalidRequest(f"{len(wanted)} digests in one call; at most {MAX_DIGESTS}")
        missing = await asyncio.to_thread(self._agent.store.missing, wanted)
        return pb.HaveBlobsReply(missing=b"".join(missing))

    @unary
    async def ReadBlobs(self, request: pb.ReadBlobsRequest, context: Any) -> pb.ReadBlobsReply:
        wanted = list(split_digests(request.digests))[:MAX_DIGESTS]
        found, asked = await asyncio.to_thread(read_small, self._agent.store, wanted)
        blobs = [pb.Blob(digest=digest, data=data) for digest, data in found]
        return pb.ReadBlobsReply(blobs=blobs, asked=asked)

    @unary
    async def PutBlobs(
        self, requests: AsyncIterator[pb.PutBlobsFrame], context: Any
    ) -> pb.PutBlobsReply:
        async with contextlib.AsyncExitStack() as stack:
            receiver = Receiver(self._agent.store, self._agent.chunks)
            stack.enter_context(receiver)
            is_whole = True
            async for frame in requests:
                if frame.HasField("workspace"):
                    project = self._agent.project(frame.workspace.id, frame.workspace.name)
                    ahead = self._agent.staging_ahead(project)
                    receiver.ahead = await stack.enter_async_context(ahead)
                    is_whole = False
                await undisturbed(asyncio.to_thread(_receive_frame, receiver, frame))
                is_whole = is_whole or frame.end
            if not is_whole:
                raise InvalidRequest("an upload broke off")
            return pb.PutBlobsReply(blobs=receiver.blobs, bytes_stored=receiver.stored_bytes)

    @unary
    async def HaveChunks(self, request: pb.HaveChunksRequest, context: Any) -> pb.HaveChunksReply:
        base, wanted = Digest(request.base), list(split_digests(request.chunks))
        ranges = await asyncio.to_thread(self._agent.chunks.find, base, wanted)
        if ranges is None:
            return pb.HaveChunksReply(base_found=False)
        return pb.HaveChunksReply(
            base_found=True,
            ranges=[pb.CopyRange(offset=r.offset, size_bytes=r.size_bytes) for r in ranges],
        )

    # -- workspaces

    @unary
    async def Apply(self, request: pb.ApplyRequest, context: Any) -> pb.ApplyReply:
        project = self._agent.project(request.workspace.id, request.workspace.name)
        project.local_root = request.workspace.local_root or None
        cleaning.note_origin(self._agent, project, request.workspace.origin)
        with Receiver(self._agent.store) as receiver:
            for blob in request.blobs:
                receiver.small(Digest(blob.digest), blob.data, zstd=blob.zstd)
        async with self._image_held(request.run):
            result = await self._agent.apply(
                project,
                Digest(request.tree),
                spec=await self._checked_spec(project, request.run)
                if request.HasField("run")
                else None,
                stop_runs=tuple(request.stop_runs),
                on_busy=OnBusy(request.on_busy),
                repair=request.repair,
                is_small=0 < len(request.blobs) <= FEW_BLOBS,
            )
        return convert.apply_reply(result, project.workspace.id, project.workspace.name)

    @contextlib.asynccontextmanager
    async def _image_held(self, message: pb.RunSpec) -> AsyncIterator[None]:
        """From here on until the container of the run holds it, nobody removes its image."""
        async with contextlib.AsyncExitStack() as stack:
            if message.HasField("container"):
                index = convert.container_wish(message.container).index
                await stack.enter_async_context(self._agent.images.holding(index))
            yield

    async def _checked_spec(self, project: Project, message: pb.RunSpec) -> RunSpec:
        size_bytes = sum(map(len, message.argv)) + sum(
            len(name) + len(value) for name, value in message.env.items()
        )
        is_left_to_image = not message.argv and message.HasField("container")
        if not (is_left_to_image or (message.argv and message.argv[0])):
            raise InvalidRequest("a run needs a command")
        if size_bytes > MAX_ARGV_BYTES:
            raise InvalidRequest("the command and its environment are larger than 1 MiB")
        if message.cwd.startswith(b"/") or b".." in message.cwd.split(b"/"):
            raise InvalidRequest(f"not a folder of the workspace: {message.cwd!r}")
        spec = convert.run_spec(message)
        if not message.HasField("container"):
            return spec
        return await self._agent.placed(project, spec, convert.container_wish(message.container))

    @streaming
    async def ListOutputs(self, request: pb.ListOutputsRequest, context: Any) -> None:  # type: ignore[override]
        workspace = self._agent.project(request.workspace_id).workspace
        found = await asyncio.to_thread(list_outputs, workspace, list(request.patterns))
        for start in range(0, len(found), 1000):
            outputs = [
                pb.Output(path=o.path, size_bytes=o.size_bytes, mtime_ns=o.mtime_ns, mode=o.mode)
                for o in found[start : start + 1000]
            ]
            await context.write(pb.ListOutputsReply(outputs=outputs))

    @streaming
    async def ReadOutput(self, request: pb.ReadOutputRequest, context: Any) -> None:  # type: ignore[override]
        workspace = self._agent.project(request.workspace_id).workspace
        pieces = read_output(
            workspace, request.path, request.offset, request.size_bytes, request.mtime_ns
        )
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            await context.write(pb.ReadOutputReply(data=piece.data, digest=piece.digest))

    # -- runs

    @unary
    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsReply:
        if request.workspace_id:
            projects = [self._agent.project(request.workspace_id)]
        else:
            projects = self._agent.projects()
        runs = [(run, project) for project in projects for run in project.runs.newest_first()]
        runs.sort(key=lambda pair: pair[0].started_ns, reverse=True)
        return pb.ListRunsReply(
            runs=[_run_message(run, project) for run, project in runs[: request.limit or 100]],
            followers=projects[0].followers if request.workspace_id else 0,
        )

    @unary
    async def StopRun(self, request: pb.StopRunRequest, context: Any) -> pb.StopRunReply:
        project = self._agent.project(request.workspace_id)
        runs = [project.runs.get(request.run)] if request.run else project.runs.live()
        lefts = await asyncio.gather(*(stop_run(run, kill=request.kill) for run in runs))
        return pb.StopRunReply(
            stopped=[_run_message(run, project) for run in runs],
            left=[process for left in lefts for process in left],
        )

    @unary
    async def KeepRun(self, request: pb.KeepRunRequest, context: Any) -> pb.Run:
        project = self._agent.project(request.workspace_id)
        run = project.runs.get(request.run)
        run.is_kept = True
        return _run_message(run, project)

    @unary
    async def Cool(self, request: pb.CoolRequest, context: Any) -> pb.CoolReply:
        project = self._agent.project(request.workspace_id)
        await self._agent.spawner.cool(project.workspace.files)
        return pb.CoolReply()

    @streaming
    async def Attach(self, requests: AsyncIterator[pb.AttachRequest], context: Any) -> None:  # type: ignore[override]
        first = await anext(aiter(requests), None)
        if first is None or not first.HasField("open"):
            raise InvalidRequest("an attachment starts with `open`")
        opened = first.open
        project = self._agent.project(opened.workspace_id, opened.workspace_name or None)
        attachment = Attachment(project, opened, context)
        async with self._takeovers.only_one(opened.workspace_id, opened.run, opened.owner):
            listening = asyncio.create_task(attachment.listen(requests))
            try:
                await attachment.follow()
                # A write of the client's that met the end of its call would fail the whole call.
                await asyncio.wait({listening}, timeout=HANG_UP_S)
            finally:
                listening.cancel()

    # -- shell and ports

    @unary
    async def StartShell(self, request: pb.StartShellRequest, context: Any) -> pb.Run:
        project = self._agent.project(request.workspace.id, request.workspace.name)
        project.local_root = request.workspace.local_root or None
        is_login = not request.run.argv
        if is_login:
            is_inside = request.run.HasField("container")
            request.run.argv.append(PLAIN_SHELL.encode() if is_inside else login_shell())
        async with self._image_held(request.run):
            spec = await self._checked_spec(project, request.run)
            run = await start_shell(project, replace(spec, login=is_login))
        return _run_message(run, project)

    @streaming
    async def Forward(self, requests: AsyncIterator[pb.ForwardRequest], context: Any) -> None:  # type: ignore[override]
        await self._forwards.forward(requests, context)

    @streaming
    async def Listen(self, request: pb.ListenRequest, context: Any) -> None:  # type: ignore[override]
        async with self._takeovers.only_one("", 0, request.owner):
            await self._forwards.listen(request, context)

    # -- disk space

    @unary
    async def Usage(self, request: pb.UsageRequest, context: Any) -> pb.UsageReply:
        agent, wanted = self._agent, request.workspace_id
        projects = [agent.project(wanted)] if wanted else agent.projects()
        reply = pb.UsageReply(
            store_bytes=await asyncio.to_thread(cleaning.store_bytes, agent.store),
            store_limit_bytes=agent.store_limit_bytes,
        )
        for project in projects:
            usage = await asyncio.to_thread(cleaning.measure, agent.directory_of(project))
            reply.workspaces.append(convert.workspace_usage(project, usage))
        kept = await asyncio.to_thread(measure_kept, agent)
        reply.layers.extend(pb.Layer(**layer._asdict()) for layer in kept.layers)
        reply.caches_bytes, reply.live_bytes = kept.caches_bytes, kept.live_bytes
        return reply

    @unary
    async def Clean(self, request: pb.CleanRequest, context: Any) -> pb.CleanReply:
        projects = [self._agent.project(workspace_id) for workspace_id in request.workspace_ids]
        cleaned = await cleaning.clean(self._agent, projects)
        more = await remove_kept(self._agent, layers=request.layers, caches=request.caches)
        return pb.CleanReply(
            freed_bytes=cleaned.freed_bytes + more.freed_bytes,
            left=[*cleaned.left, *more.left][:MAX_NAMED],
        )

    @unary
    async def VerifyStore(
        self, request: pb.VerifyStoreRequest, context: Any
    ) -> pb.VerifyStoreReply:
        store = self._agent.store
        blobs = await asyncio.to_thread(lambda: sum(1 for _ in store))
        problems = await asyncio.to_thread(lambda: list(map(str, store.verify())))
        return pb.VerifyStoreReply(
            blobs=blobs, damaged=len(problems), problems=problems[:MAX_NAMED]
        )

    # -- images

    @streaming
    async def EnsureImage(self, request: pb.EnsureImageRequest, context: Any) -> None:  # type: ignore[override]
        await image_calls.ensure_image(self._agent, request, context)

    @unary
    async def ListImages(self, request: pb.ListImagesRequest, context: Any) -> pb.ListImagesReply:
        return await image_calls.list_images(self._agent.images)

    @unary
    async def InspectImage(
        self, request: pb.InspectImageRequest, context: Any
    ) -> pb.InspectImageReply:
        return await image_calls.inspect_image(self._agent, request)

    @unary
    async def RemoveImage(
        self, request: pb.RemoveImageRequest, context: Any
    ) -> pb.CollectImagesReply:
        return await image_calls.remove_image(self._agent, request)

    @unary
    async def CollectImages(
        self, request: pb.CollectImagesRequest, context: Any
    ) -> pb.CollectImagesReply:
        return image_calls.collected(await self._agent.images.collect())

    @unary
    async def VerifyImages(
        self, request: pb.VerifyImagesRequest, context: Any
    ) -> pb.VerifyStoreReply:
        blobs, problems = await self._agent.images.verify()
        return pb.VerifyStoreReply(
            blobs=blobs, damaged=len(problems), problems=problems[:MAX_NAMED]
        )

    @streaming
    async def PushImage(self, request: pb.PushImageRequest, context: Any) -> None:  # type: ignore[override]
        await image_calls.push_image(self._agent, request, context)

    @unary
    async def CheckContainers(
        self, request: pb.CheckContainersRequest, context: Any
    ) -> pb.CheckContainersReply:
        return await image_calls.check(self._agent.images)

    # -- metrics and GPUs

    @unary
    async def ListGpus(self, request: pb.ListGpusRequest, context: Any) -> pb.ListGpusReply:
        snapshot, holders = await self._agent.gpus.look()
        return convert.gpu_list(snapshot, holders, self._agent.runs_by_pid())

    @streaming
    async def Metrics(self, request: pb.MetricsRequest, context: Any) -> None:  # type: ignore[override]
        interval_s = request.interval_s or 1.0
        if not 0.1 <= interval_s <= 60:
            raise InvalidRequest(f"a metrics interval of {interval_s:g} s: it is 0.1 to 60")
        async with contextlib.aclosing(self._agent.metrics.subscribe(interval_s)) as samples:
            async for sample in samples:
                is_used = any(gpu.processes or gpu.slices for gpu in sample.gpus)
                runs = self._agent.runs_by_pid() if is_used else {}
                message = convert.metrics_sample(sample, runs)
                with contextlib.suppress(InvalidRequest):  # nothing has run there yet
                    if request.workspace_id:
                        files = self._agent.project(request.workspace_id).workspace.files
                        message.warmth.CopyFrom(convert.warmth(self._agent.warmth.of(files)))
                await context.write(message)


def _run_message(run: Run, project: Project) -> pb.Run:
    return convert.run_message(run, project.workspace.id, project.workspace.name)


def _free_bytes(directory: Path) -> int:
    """0 when the disk is gone: `devloop down` must still find the agent."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return 0


def _receive_frame(receiver: Receiver, frame: pb.PutBlobsFrame) -> None:
    for blob in frame.blobs:
        receiver.small(Digest(blob.digest), blob.data, zstd=blob.zstd)
    for files in frame.files:
        receiver.files(files.directory, files.entries, files.data, zstd=files.zstd)
    if not frame.HasField("large"):
        return
    part = frame.large
    if part.begin:
        base = Digest(part.base) if part.base else None
        receiver.begin_large(Digest(part.digest), part.size_bytes, base)
    for segment in part.segments:
        match segment.WhichOneof("kind"):
            case "data":
                receiver.segment_data(segment.data, zstd=False)
            case "zstd":
                receiver.segment_data(segment.zstd, zstd=True)
            case "copy":
                receiver.segment_copy(segment.copy.offset, segment.copy.size_bytes)
            case "file":
                file = segment.file
                receiver.segment_file(file.path, file.offset, file.size_bytes)
    if part.abandon:
        receiver.abandon_large()
    elif part.end:
        receiver.end_large()
