"""The agent as the laptop half sees it: calls with plain values in and out.

The only module of this half that knows gRPC. Statuses become errors here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from devloop.cafs.chunk import CopyRange
from devloop.cafs.digest import Digest, split_digests
from devloop.cafs.version import VERSION
from devloop.proto.v1 import agent_pb2 as pb
from devloop.proto.v1 import agent_pb2_grpc

from .agent_errors import AgentGone, RemoteError
from .model import (
    Applied,
    HostFacts,
    LogRecord,
    LogStream,
    OnBusy,
    Output,
    Run,
    RunEnd,
    RunGpu,
    RunSpec,
    RunState,
    SavedAside,
    StdinAck,
    Timings,
    WorkspaceRef,
)
from .upload import FileRange, SmallBlobs

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from devloop.cafs.errors import DevloopError

    from .ahead import AheadFrame
    from .carrier import Accepted, Carrier
    from .gpus import Gpu, Gpus
    from .image_calls import ImageCalls
    from .images import Container
    from .metrics import GpuSample, Sample, Warmth
    from .model import AttachEvent
    from .ports import PortSpec
    from .upkeep import Abilities, Cleaned, Usage, Verified, WorkspaceUsage
    from .upload import Frame, Segment, SmallBlob

__all__ = ["AgentClient", "Attachment", "call_errors"]

MAX_MESSAGE_BYTES = 4 << 20
MAX_DIGESTS = 65536
_PINGS = (
    ("grpc.keepalive_time_ms", 4_000),
    ("grpc.keepalive_timeout_ms", 8_000),
    ("grpc.http2.ping_timeout_ms", 8_000),  # else a minute, whatever the line above says
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_NOTHING: Mapping[int, int] = MappingProxyType({})


class AgentClient:
    """One connection to an agent. Every call raises AgentGone or RemoteError."""

    def __init__(self, socket: Path, *, over_link: bool = False) -> None:
        """`over_link`: a link that is dead and says nothing is noticed within 12 s."""
        self._channel = grpc.aio.insecure_channel(
            f"unix:{socket}",
            options=[
                *(_PINGS if over_link else ()),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._stub = agent_pb2_grpc.AgentStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def hello(self, *, timeout_s: float | None = None) -> HostFacts:
        with call_errors():
            reply = await self._stub.Hello(
                pb.HelloRequest(client_version=VERSION), timeout=timeout_s
            )
        return _host_facts(reply)

    async def shutdown(self, *, stop_runs: bool) -> list[int]:
        """Returns the live runs; with any, and without `stop_runs`, the agent stays."""
        with call_errors():
            reply = await self._stub.Shutdown(pb.ShutdownRequest(stop_runs=stop_runs))
        return list(reply.live_runs)

    # -- blobs

    async def missing(self, digests: list[Digest]) -> list[Digest]:
        found: list[Digest] = []
        for start in range(0, len(digests), MAX_DIGESTS):
            joined = b"".join(digests[start : start + MAX_DIGESTS])
            with call_errors():
                reply = await self._stub.HaveBlobs(pb.HaveBlobsRequest(digests=joined))
            found += split_digests(reply.missing)
        return found

    async def read_blobs(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        """Those that are there and have at most 1 MiB."""
        found: dict[Digest, bytes] = {}
        while digests:
            joined = b"".join(digests[:MAX_DIGESTS])
            with call_errors():
                reply = await self._stub.ReadBlobs(pb.ReadBlobsRequest(digests=joined))
            found |= {Digest(blob.digest): blob.data for blob in reply.blobs}
            digests = digests[max(reply.asked, 1) :]
        return found

    async def put(self, frames: Iterator[Frame]) -> None:
        """Uploads; the frames are made on a thread, while earlier ones are on their way."""
        with call_errors():
            await self._stub.PutBlobs(_messages(frames))

    async def put_ahead(self, workspace: WorkspaceRef, frames: AsyncIterator[AheadFrame]) -> None:
        with call_errors():
            await self._stub.PutBlobs(_ahead_messages(workspace, frames))

    async def find_chunks(self, base: Digest, chunks: list[Digest]) -> list[CopyRange] | None:
        """Where in `base` the chunks are; size 0 = nowhere. None when the agent lacks `base`."""
        request = pb.HaveChunksRequest(base=base, chunks=b"".join(chunks))
        with call_errors():
            reply = await self._stub.HaveChunks(request)
        if not reply.base_found:
            return None
        return [CopyRange(r.offset, r.size_bytes) for r in reply.ranges]

    # -- workspaces

    async def apply(
        self,
        workspace: WorkspaceRef,
        tree: Digest,
        *,
        blobs: Iterable[SmallBlob] = (),
        run: RunSpec | None = None,
        stop_runs: Iterable[int] = (),
        on_busy: OnBusy = OnBusy.FAIL,
        repair: bool = False,
    ) -> Applied:
        request = pb.ApplyRequest(
            workspace=pb.Workspace(
                id=workspace.id,
                name=workspace.name,
                local_root=workspace.local_root,
                origin=workspace.origin,
            ),
            tree=tree,
            blobs=[_blob(blob) for blob in blobs],
            stop_runs=stop_runs,
            on_busy=pb.OnBusy.Name(on_busy),  # type: ignore[arg-type] # values are the same
            run=_spec_message(run) if run is not None else None,
            repair=repair,
        )
        with call_errors():
            reply = await self._stub.Apply(request)
        return _applied(reply)

    async def list_outputs(self, workspace_id: str, patterns: Iterable[str]) -> list[Output]:
        request = pb.ListOutputsRequest(workspace_id=workspace_id, patterns=patterns)
        with call_errors():
            return [
                Output(o.path, o.size_bytes, o.mtime_ns, o.mode)
                async for reply in self._stub.ListOutputs(request)
                for o in reply.outputs
            ]

    async def read_output(
        self, workspace_id: str, output: Output, offset: int
    ) -> AsyncGenerator[tuple[bytes, bytes], None]:
        """(data, b"") from the offset, and last (b"", digest of the whole file)."""
        request = pb.ReadOutputRequest(
            workspace_id=workspace_id,
            path=output.path,
            offset=offset,
            size_bytes=output.size_bytes,
            mtime_ns=output.mtime_ns,
        )
        with call_errors():
            async for reply in self._stub.ReadOutput(request):
                yield reply.data, reply.digest

    # -- disk space; what it says costs an import of its own

    async def usage(self, workspace_id: str = "") -> Usage:
        """Of every workspace when no id is given."""
        from .upkeep import Layer, Usage

        with call_errors():
            reply = await self._stub.Usage(pb.UsageRequest(workspace_id=workspace_id))
        workspaces = [_workspace_usage(usage) for usage in reply.workspaces]
        layers = [Layer(layer.name, layer.size_bytes, layer.image) for layer in reply.layers]
        return Usage(
            *(workspaces, reply.store_bytes, reply.store_limit_bytes),
            *(layers, reply.caches_bytes, reply.live_bytes),
        )

    async def clean(
        self, workspace_ids: Iterable[str], *, layers: bool = False, caches: bool = False
    ) -> Cleaned:
        """Removes these workspaces, kept layers and caches if told to, and blobs that nobody
        needs."""
        from .upkeep import Cleaned

        request = pb.CleanRequest(workspace_ids=workspace_ids, layers=layers, caches=caches)
        with call_errors():
            reply = await self._stub.Clean(request)
        return Cleaned(reply.freed_bytes, list(reply.left))

    async def verify_store(self) -> Verified:
        from .upkeep import Verified

        with call_errors():
            reply = await self._stub.VerifyStore(pb.VerifyStoreRequest())
        return Verified(reply.blobs, reply.damaged, list(reply.problems))

    async def abilities(self) -> Abilities:
        """Of images and containers. Takes up to some seconds."""
        from .upkeep import Abilities, Ability

        with call_errors():
            reply = await self._stub.CheckContainers(pb.CheckContainersRequest())
        images, lazy, containers = (
            Ability(each.name, each.why, each.hint)
            for each in (reply.images, reply.lazy, reply.containers)
        )
        return Abilities(images, lazy, containers, reply.gpus, tuple(reply.missing_limits))

    # -- GPUs

    async def list_gpus(self) -> Gpus:
        from .gpus import Gpus

        with call_errors():
            reply = await self._stub.ListGpus(pb.ListGpusRequest())
        gpus = tuple(_gpu(gpu, str(gpu.index)) for gpu in reply.gpus)
        return Gpus(gpus, reply.detail, reply.state == pb.GPU_STATE_UNAVAILABLE)

    # -- metrics

    async def metrics(
        self, interval_s: float, workspace_id: str = ""
    ) -> AsyncGenerator[Sample, None]:
        """A sample now, and one every so often (0.1 to 60 s), until closed. With a workspace, also
        what is warm of it, and which processes are of its runs."""
        request = pb.MetricsRequest(interval_s=interval_s, workspace_id=workspace_id)
        with call_errors():  # a closed connection refuses already the call
            call = self._stub.Metrics(request)
            try:
                async for reply in call:
                    yield _sample(reply, workspace_id)
            finally:
                call.cancel()

    # -- runs

    async def list_runs(self, workspace_id: str = "") -> list[Run]:
        """Newest first; of every workspace when no id is given."""
        with call_errors():
            reply = await self._stub.ListRuns(pb.ListRunsRequest(workspace_id=workspace_id))
        return [_run(run) for run in reply.runs]

    async def count_followers(self, workspace_id: str) -> int:
        """Clients that have an `up` of the workspace open, this one included."""
        with call_errors():
            reply = await self._stub.ListRuns(
                pb.ListRunsRequest(workspace_id=workspace_id, limit=1)
            )
        return reply.followers

    async def stop_run(
        self, workspace_id: str, number: int, *, kill: bool = False
    ) -> tuple[list[Run], list[str]]:
        """Ends a run, or with 0 all of the workspace. Returns them, and processes still there."""
        request = pb.StopRunRequest(workspace_id=workspace_id, run=number, kill=kill)
        with call_errors():
            reply = await self._stub.StopRun(request)
        return [_run(run) for run in reply.stopped], list(reply.left)

    async def keep_run(self, workspace_id: str, number: int) -> None:
        """It goes on without its clients, for as long as it takes."""
        with call_errors():
            await self._stub.KeepRun(pb.KeepRunRequest(workspace_id=workspace_id, run=number))

    async def cool(self, workspace_id: str) -> None:
        """The next run starts from nothing warm; containers end with all that runs in them."""
        with call_errors():
            await self._stub.Cool(pb.CoolRequest(workspace_id=workspace_id))

    def attach(
        self,
        workspace_id: str,
        run: int,
        *,
        from_record: int = 0,
        follow: bool = True,
        lossless: bool = False,
        holds_lease: bool = False,
        stdin: bool = False,
        owner: str = "",
    ) -> AbstractAsyncContextManager[Attachment]:
        """To one run, from a record on; `follow`: until it has ended, else to what there is now.

        An older attachment of the same `owner` to the run ends.
        """
        return self._attach(
            pb.AttachOpen(
                workspace_id=workspace_id,
                run=run,
                from_record=from_record,
                follow=follow,
                lossless=lossless,
                holds_lease=holds_lease,
                stdin=stdin,
                owner=owner,
            )
        )

    def attach_to_owner(
        self,
        workspace: WorkspaceRef,
        owner: str,
        *,
        after_run: int = 0,
        resume: Mapping[int, int] = _NOTHING,
    ) -> AbstractAsyncContextManager[Attachment]:
        """To every run of that owner after run `after_run`; holds their leases.

        `resume` maps further runs to the record that each goes on with.
        """
        return self._attach(
            pb.AttachOpen(
                workspace_id=workspace.id,
                workspace_name=workspace.name,
                owner=owner,
                follow=True,
                holds_lease=True,
                after_run=after_run,
                resume=[pb.Resume(run=run, from_record=at) for run, at in resume.items()],
            )
        )

    @contextlib.asynccontextmanager
    async def _attach(self, opened: pb.AttachOpen) -> AsyncIterator[Attachment]:
        with call_errors():
            call = self._stub.Attach()
        try:
            with call_errors():
                await call.write(pb.AttachRequest(open=opened))
                if not opened.follow:
                    await call.done_writing()
            yield Attachment(call, ends_with_run=opened.run != 0)
        finally:
            call.cancel()

    # -- shell and ports

    async def start_shell(self, workspace: WorkspaceRef, spec: RunSpec) -> Run:
        """In the workspace as it is; an empty argv is the login shell of the agent's user."""
        request = pb.StartShellRequest(
            workspace=pb.Workspace(
                id=workspace.id,
                name=workspace.name,
                local_root=workspace.local_root,
                origin=workspace.origin,
            ),
            run=_spec_message(spec),
        )
        with call_errors():
            return _run(await self._stub.StartShell(request))

    def carrier(self) -> Carrier:
        """For one TCP connection, to be opened."""
        from .carrier import Carrier

        with call_errors():
            return Carrier(self._stub.Forward())

    def images(self) -> ImageCalls:
        from .image_calls import ImageCalls

        return ImageCalls(self._stub)

    def accepted_on_box(
        self, ports: Sequence[PortSpec], owner: str
    ) -> AsyncGenerator[Accepted, None]:
        """Listens on the box; see `carrier.accepted_on_box`."""
        from .carrier import accepted_on_box

        return accepted_on_box(self._stub, ports, owner)


class Attachment:
    """An open attachment: iterate it for what happens; write to it what the user does.

    The last event of an attachment to one run, when it has ended, is that run.
    """

    def __init__(self, call: Any, *, ends_with_run: bool) -> None:
        self._call = call
        self._ends_with_run = ends_with_run
        self._writing = asyncio.Lock()

    async def __aiter__(self) -> AsyncIterator[AttachEvent]:
        with call_errors():
            async for reply in self._call:
                match reply.WhichOneof("kind"):
                    case "records":
                        number = reply.records.run
                        for record in reply.records.records:
                            yield _record(record, number)
                    case "run":
                        run = _run(reply.run)
                        yield run
                        if self._ends_with_run and not run.live:
                            return
                    case "stdin_ack":
                        ack = reply.stdin_ack
                        yield StdinAck(ack.received_bytes, ack.closed, ack.held)

    async def send_stdin(self, offset: int, data: bytes, *, eof: bool = False) -> None:
        message = pb.Stdin(offset=offset, data=data, eof=eof)
        await self._write(pb.AttachRequest(stdin=message))

    async def resize(self, rows: int, columns: int) -> None:
        await self._write(pb.AttachRequest(size=pb.TerminalSize(rows=rows, columns=columns)))

    async def signal(self, number: int, *, run: int = 0) -> None:
        await self._write(pb.AttachRequest(signal=number, run=run))

    async def _write(self, request: pb.AttachRequest) -> None:
        """Raises AgentGone, whatever ended the call: its iterator says what did."""
        async with self._writing:
            try:
                await self._call.write(request)
            except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
                raise AgentGone("the agent has closed the call") from None


@contextlib.contextmanager
def call_errors() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _as_error(error) from None
    except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
        raise AgentGone("the agent has closed the call") from error


def _as_error(error: grpc.aio.AioRpcError) -> DevloopError:
    details = error.details() or ""
    try:
        words = json.loads(details)
        return RemoteError(words["kind"], words["message"], words["hint"])
    except (ValueError, KeyError, TypeError):
        pass
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return AgentGone("the agent does not answer")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return AgentGone("the agent does not answer in time")
    return RemoteError(
        str(error.code()),
        f"the agent failed: {details}",
        "its log is agent.log in the folder that `devloop doctor` shows",
    )


# -- messages


async def _messages(frames: Iterator[Frame]) -> AsyncIterator[pb.PutBlobsFrame]:
    while (frame := await asyncio.to_thread(next, frames, None)) is not None:
        yield _frame_message(frame)


async def _ahead_messages(
    workspace: WorkspaceRef, frames: AsyncIterator[AheadFrame]
) -> AsyncIterator[pb.PutBlobsFrame]:
    begin: pb.Workspace | None = pb.Workspace(id=workspace.id, name=workspace.name)
    async for files, nodes in frames:
        yield pb.PutBlobsFrame(
            workspace=begin,
            files=[
                pb.Files(directory=f.directory, entries=f.entries, data=f.data, zstd=f.zstd)
                for f in files
            ],
            blobs=[_blob(node) for node in nodes],
        )
        begin = None
    yield pb.PutBlobsFrame(end=True)


def _frame_message(frame: Frame) -> pb.PutBlobsFrame:
    if isinstance(frame, SmallBlobs):
        return pb.PutBlobsFrame(blobs=[_blob(blob) for blob in frame.blobs])
    return pb.PutBlobsFrame(
        large=pb.LargeBlobPart(
            digest=frame.digest,
            size_bytes=frame.size_bytes,
            base=frame.base or b"",
            segments=[_segment(segment) for segment in frame.segments],
            begin=frame.begin,
            end=frame.end,
            abandon=frame.abandon,
        )
    )


def _segment(segment: Segment) -> pb.Segment:
    if isinstance(segment, CopyRange):
        return pb.Segment(copy=pb.CopyRange(offset=segment.offset, size_bytes=segment.size_bytes))
    if isinstance(segment, FileRange):
        return pb.Segment(file=pb.FileRange(**segment._asdict()))
    return pb.Segment(zstd=segment.data) if segment.zstd else pb.Segment(data=segment.data)


def _blob(blob: SmallBlob) -> pb.Blob:
    return pb.Blob(digest=blob.digest, data=blob.data, zstd=blob.zstd)


def _spec_message(spec: RunSpec) -> pb.RunSpec:
    return pb.RunSpec(
        argv=spec.argv,
        env=spec.env,
        env_is_whole=spec.env_is_whole,
        tty=spec.tty,
        rows=spec.rows,
        columns=spec.columns,
        stdin=spec.stdin,
        warm=spec.warm,
        preload=spec.preload,
        stop_timeout_s=spec.stop_timeout_s,
        lease_s=spec.lease_s,
        reason=spec.reason,
        outputs=spec.outputs,
        owner=spec.owner,
        cwd=spec.cwd,
        gpus=spec.gpus,
        container=None if spec.container is None else _container(spec.container),
    )


def _container(container: Container) -> pb.Container:
    return pb.Container(
        index=container.index_digest,
        reference=container.source.reference,
        mounts=[pb.Mount(**mount._asdict()) for mount in container.mounts],
        isolated_network=container.isolated_network,
        shm_bytes=container.shm_bytes,
        memory_bytes=container.memory_bytes,
        cpus=container.cpus,
        keep=container.keep,
        caches=container.caches,
        user=container.user,
        store=container.source.store,
        ulimits=[pb.Ulimit(**limit._asdict()) for limit in container.ulimits],
    )


def _host_facts(reply: pb.HelloReply) -> HostFacts:
    return HostFacts(
        agent_version=reply.agent_version,
        agent_pid=reply.host.pid,
        capabilities=frozenset(reply.capabilities),
        live_runs=reply.live_runs,
        hostname=reply.host.hostname,
        os=reply.host.os,
        machine=reply.host.machine,
        python=reply.host.python,
        cpus=reply.host.cpus,
        memory_bytes=reply.host.memory_bytes,
        isolation=reply.host.isolation,
        isolation_hint=reply.host.isolation_hint,
        state_dir=reply.host.state_dir,
        disk_free_bytes=reply.host.disk_free_bytes,
    )


def _workspace_usage(usage: pb.WorkspaceUsage) -> WorkspaceUsage:
    from .upkeep import Taken, WorkspaceUsage

    def taken(message: pb.Taken) -> Taken:
        return Taken(message.files, message.size_bytes, message.shared_bytes)

    workspace = usage.workspace
    return WorkspaceUsage(
        id=workspace.id,
        name=workspace.name,
        origin=workspace.origin,
        files=taken(usage.files),
        aside=taken(usage.aside),
        runs=taken(usage.runs),
        used_ns=usage.used_ns,
        live_runs=tuple(usage.live_runs),
        is_followed=usage.followed,
    )


def _applied(reply: pb.ApplyReply) -> Applied:
    timings = reply.timings
    return Applied(
        missing=tuple(split_digests(reply.missing)),
        busy=tuple(reply.busy),
        files_written=reply.files_written,
        files_deleted=reply.files_deleted,
        bytes_written=reply.bytes_written,
        saved_aside=tuple(SavedAside(a.path, a.kept_at) for a in reply.saved_aside),
        run=_run(reply.run) if reply.HasField("run") else None,
        timings=Timings(timings.stage_ns, timings.stop_ns, timings.apply_ns, timings.start_ns),
        gpus_busy=tuple(reply.gpus_busy),
    )


def _run(run: pb.Run) -> Run:
    return Run(
        number=run.number,
        workspace_id=run.workspace_id,
        workspace_name=run.workspace_name,
        tree=Digest(run.tree),
        argv=tuple(run.spec.argv),
        reason=run.spec.reason,
        outputs=tuple(run.spec.outputs),
        tty=run.spec.tty,
        state=RunState(run.state),
        started_ns=run.started_ns,
        first_output_ns=run.first_output_ns,
        ended_ns=run.ended_ns,
        end=_run_end(run.end),
        start_kind=run.start_kind,
        start_note=run.start_note,
        pid=run.pid,
        is_shell=run.spec.shell,
        owner=run.spec.owner,
        gpus=tuple(RunGpu(gpu.uuid, gpu.label, gpu.name) for gpu in run.gpus),
    )


def _gpu(gpu: pb.Gpu, label: str) -> Gpu:
    from .gpus import Gpu, GpuHolder, GpuProcess

    holder = gpu.holder if gpu.HasField("holder") else None
    return Gpu(
        uuid=gpu.uuid,
        label=label,
        name=gpu.name,
        utilization_percent=gpu.utilization_percent,
        memory_used_bytes=gpu.memory_used_bytes,
        memory_total_bytes=gpu.memory_total_bytes,
        temperature_c=gpu.temperature_c,
        processes=tuple(
            GpuProcess(p.pid, p.memory_bytes, p.command, p.user, not p.draws, p.run, p.workspace_id)
            for p in gpu.processes
        ),
        holder=holder and GpuHolder(holder.user, holder.project, holder.run, holder.since_ns),
        users=tuple(gpu.users),
        is_divided=gpu.divided,
        slices=tuple(_gpu(part, f"{label}:{part.index}") for part in gpu.slices),
    )


def _sample(reply: pb.MetricsSample, workspace_id: str) -> Sample:
    from .metrics import GpuState, HostSample, Sample

    host = reply.host
    return Sample(
        time_ns=reply.time_ns,
        host=HostSample(
            cpu_percent=host.cpu_percent,
            memory_used_bytes=host.memory_used_bytes,
            memory_total_bytes=host.memory_total_bytes,
            disk_used_bytes=host.disk_used_bytes,
            disk_total_bytes=host.disk_total_bytes,
            load_1m=host.load_1m,
            net_received_bytes=host.net_received_bytes,
            net_sent_bytes=host.net_sent_bytes,
        ),
        gpu_state=GpuState(reply.gpu_state),
        gpu_detail=reply.gpu_detail,
        gpus=tuple(_gpu_sample(gpu, str(gpu.index), workspace_id) for gpu in reply.gpus),
        warmth=_warmth(reply.warmth) if reply.HasField("warmth") else None,
    )


def _warmth(warmth: pb.Warmth) -> Warmth:
    from .metrics import ContainerState, Warmth

    return Warmth(
        zygotes=warmth.zygotes,
        loading=warmth.loading,
        container=ContainerState(warmth.container),
        containers=warmth.containers,
        ahead_files=warmth.ahead_files,
        ahead_of_files=warmth.ahead_of_files,
        ahead_bytes=warmth.ahead_bytes,
        ahead_of_bytes=warmth.ahead_of_bytes,
    )


def _gpu_sample(gpu: pb.Gpu, label: str, workspace_id: str) -> GpuSample:
    from .metrics import GpuSample, SampleProcess

    return GpuSample(
        uuid=gpu.uuid,
        label=label,
        name=gpu.name,
        utilization_percent=gpu.utilization_percent,
        memory_used_bytes=gpu.memory_used_bytes,
        memory_total_bytes=gpu.memory_total_bytes,
        temperature_c=gpu.temperature_c,
        power_w=gpu.power_w,
        power_limit_w=gpu.power_limit_w,
        throttle_reasons=tuple(gpu.throttle_reasons),
        processes=tuple(
            SampleProcess(
                *(p.pid, p.memory_bytes, p.command, p.user, not p.draws),
                run=p.run if p.workspace_id == workspace_id else 0,
            )
            for p in gpu.processes
        ),
        slices=tuple(
            _gpu_sample(part, f"{label}:{part.index}", workspace_id) for part in gpu.slices
        ),
    )


def _run_end(end: pb.RunEnd) -> RunEnd:
    return RunEnd(
        exit_code=end.exit_code,
        signal=end.signal,
        reason=end.reason,
        peak_memory_bytes=end.peak_memory_bytes,
        user_s=end.user_s,
        system_s=end.system_s,
        wall_s=end.wall_s,
        start_failed=end.start_failure != pb.START_FAILURE_NONE,
        detail=end.detail,
    )


def _record(record: pb.LogRecord, run: int) -> LogRecord:
    return LogRecord(
        run=run,
        number=record.number,
        time_ns=record.time_ns,
        stream=LogStream(record.stream),
        data=record.data,
        dropped_records=record.dropped_records,
        dropped_bytes=record.dropped_bytes,
    )
