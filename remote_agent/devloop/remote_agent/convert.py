"""Between the protocol's messages and the agent's own values, both ways. Decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.cafs.digest import Digest
from devloop.cafs.ulimits import Ulimit
from devloop.proto.v1 import agent_pb2 as pb

from .container_wish import ContainerWish, MountWish
from .gpu import GpuState
from .gpu_choice import places_of
from .run import RunSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .agent import Applying, Project
    from .cleaning import Taken, WorkspaceUsage
    from .gpu import Gpu, GpuProcess, GpuSlice, GpuSnapshot
    from .gpu_locks import HeldBy
    from .logs import Record
    from .metrics import HostMetrics, Sample
    from .run import Run, RunEnd
    from .warmth import Warmth

__all__ = [
    "apply_reply",
    "container_wish",
    "gpu_list",
    "log_records",
    "metrics_sample",
    "run_message",
    "run_spec",
    "warmth",
    "workspace_usage",
]


def run_spec(message: pb.RunSpec) -> RunSpec:
    return RunSpec(
        argv=tuple(message.argv),
        env=dict(message.env),
        env_is_whole=message.env_is_whole,
        tty=message.tty,
        rows=message.rows,
        columns=message.columns,
        stdin=message.stdin,
        warm=message.warm,
        preload=tuple(message.preload),
        stop_timeout_s=message.stop_timeout_s,
        lease_s=message.lease_s,
        reason=message.reason,
        outputs=tuple(message.outputs),
        owner=message.owner,
        cwd=message.cwd,
        gpus=message.gpus,
    )


def container_wish(message: pb.Container) -> ContainerWish:
    """Raises ValueError for what makes no sense."""
    return ContainerWish(
        index=Digest(message.index),
        reference=message.reference,
        mounts=tuple(MountWish(m.source, m.target, m.read_only) for m in message.mounts),
        isolated_network=message.isolated_network,
        shm_bytes=message.shm_bytes,
        memory_bytes=message.memory_bytes,
        cpus=message.cpus,
        keep=message.keep,
        caches=message.caches,
        user=message.user,
        store=tuple(message.store),
        ulimits=tuple(Ulimit(u.name, u.soft, u.hard) for u in message.ulimits),
    )


def run_message(run: Run, workspace_id: str, workspace_name: str) -> pb.Run:
    """Without the environment: it may hold secrets, and nobody asks for it back."""
    return pb.Run(
        number=run.number,
        workspace_id=workspace_id,
        workspace_name=workspace_name,
        tree=run.tree,
        spec=pb.RunSpec(
            argv=run.spec.argv,
            tty=run.spec.tty,
            reason=run.spec.reason,
            outputs=run.spec.outputs,
            owner=run.spec.owner,
            shell=run.spec.shell,
        ),
        state=pb.RunState.ValueType(run.state),
        started_ns=run.started_ns,
        first_output_ns=run.first_output_ns,
        ended_ns=run.ended_ns,
        end=_run_end(run.end),
        start_kind=run.start_kind,
        start_note=run.start_note,
        pid=run.pid,
        gpus=[pb.RunGpu(uuid=p.uuid, label=p.label, name=p.name) for p in run.gpus],
    )


def _run_end(end: RunEnd) -> pb.RunEnd:
    return pb.RunEnd(
        exit_code=end.exit_code,
        signal=end.signal,
        reason=end.reason,
        peak_memory_bytes=end.peak_memory_bytes,
        user_s=end.user_s,
        system_s=end.system_s,
        wall_s=end.wall_s,
        start_failure=pb.StartFailure.ValueType(end.start_failure),
        detail=end.detail,
    )


def log_records(run: Run, records: Iterable[Record]) -> pb.LogRecords:
    return pb.LogRecords(
        run=run.number,
        records=[
            pb.LogRecord(
                number=record.number,
                time_ns=record.time_ns,
                stream=pb.LogStream.ValueType(record.stream),
                data=record.data,
                dropped_records=record.dropped_records,
                dropped_bytes=record.dropped_bytes,
            )
            for record in records
        ],
    )


def apply_reply(result: Applying, workspace_id: str, workspace_name: str) -> pb.ApplyReply:
    reply = pb.ApplyReply(
        missing=b"".join(result.missing),
        busy=result.busy,
        gpus_busy=result.gpus_busy,
        timings=pb.ApplyTimings(
            stage_ns=result.timings.stage_ns,
            stop_ns=result.timings.stop_ns,
            apply_ns=result.timings.apply_ns,
            start_ns=result.timings.start_ns,
        ),
    )
    if result.applied is not None:
        reply.files_written = result.applied.files_written
        reply.files_deleted = result.applied.files_deleted
        reply.bytes_written = result.applied.bytes_written
        reply.saved_aside.extend(
            pb.SavedAside(path=aside.path, kept_at=aside.kept_at)
            for aside in result.applied.saved_aside
        )
    if result.run is not None:
        reply.run.CopyFrom(run_message(result.run, workspace_id, workspace_name))
    return reply


def workspace_usage(project: Project, usage: WorkspaceUsage) -> pb.WorkspaceUsage:
    workspace = project.workspace
    return pb.WorkspaceUsage(
        workspace=pb.Workspace(id=workspace.id, name=workspace.name, origin=project.origin),
        files=_taken(usage.files),
        aside=_taken(usage.aside),
        runs=_taken(usage.runs),
        used_ns=usage.used_ns,
        live_runs=[run.number for run in project.runs.live()],
        followed=project.followers > 0,
    )


def _taken(taken: Taken) -> pb.Taken:
    return pb.Taken(files=taken.files, size_bytes=taken.size_bytes, shared_bytes=taken.shared_bytes)


def metrics_sample(sample: Sample, runs: Mapping[int, tuple[str, int]]) -> pb.MetricsSample:
    """`runs`: the workspace and number of the run that a process belongs to."""
    message = pb.MetricsSample(
        time_ns=sample.time_ns,
        host=_host(sample.host),
        gpu_state=_GPU_STATES[sample.gpu_state],
        gpu_detail=sample.gpu_detail,
        gpus=[_gpu(gpu) for gpu in sample.gpus],
    )
    _name_runs(message.gpus, runs)
    return message


def _name_runs(gpus: Iterable[pb.Gpu], runs: Mapping[int, tuple[str, int]]) -> None:
    for unit in (unit for gpu in gpus for unit in (gpu, *gpu.slices)):
        for process in unit.processes:
            process.workspace_id, process.run = runs.get(process.pid, ("", 0))


def warmth(found: Warmth) -> pb.Warmth:
    ahead = found.ahead
    return pb.Warmth(
        zygotes=found.zygotes,
        loading=found.loading,
        container=pb.ContainerState.ValueType(found.container),
        containers=found.containers,
        ahead_files=ahead.files,
        ahead_of_files=ahead.of_files,
        ahead_bytes=ahead.size_bytes,
        ahead_of_bytes=ahead.of_bytes,
    )


_GPU_STATES = {
    GpuState.NONE: pb.GPU_STATE_NONE,
    GpuState.OK: pb.GPU_STATE_OK,
    GpuState.UNAVAILABLE: pb.GPU_STATE_UNAVAILABLE,
}


def _host(host: HostMetrics) -> pb.HostMetrics:
    return pb.HostMetrics(
        cpu_percent=host.cpu_percent,
        memory_used_bytes=host.memory_used_bytes,
        memory_total_bytes=host.memory_total_bytes,
        disk_used_bytes=host.disk_used_bytes,
        disk_total_bytes=host.disk_total_bytes,
        load_1m=host.load_1m,
        net_received_bytes=host.net_received_bytes,
        net_sent_bytes=host.net_sent_bytes,
    )


def _gpu(gpu: Gpu) -> pb.Gpu:
    return pb.Gpu(
        index=gpu.index,
        uuid=gpu.uuid,
        name=gpu.name,
        utilization_percent=gpu.utilization_percent or 0.0,
        memory_used_bytes=gpu.memory_used_bytes or 0,
        memory_total_bytes=gpu.memory_total_bytes or 0,
        temperature_c=gpu.temperature_c or 0.0,
        power_w=gpu.power_w or 0.0,
        power_limit_w=gpu.power_limit_w or 0.0,
        throttle_reasons=gpu.throttle_reasons,
        processes=[_gpu_process(process) for process in gpu.processes],
        divided=gpu.is_divided,
        slices=[_gpu_slice(part) for part in gpu.slices],
    )


def _gpu_slice(part: GpuSlice) -> pb.Gpu:
    return pb.Gpu(
        index=part.index,
        uuid=part.uuid,
        name=part.name,
        memory_used_bytes=part.memory_used_bytes or 0,
        memory_total_bytes=part.memory_total_bytes or 0,
        processes=[_gpu_process(process) for process in part.processes],
    )


def _gpu_process(process: GpuProcess) -> pb.GpuProcess:
    return pb.GpuProcess(
        pid=process.pid,
        memory_bytes=process.memory_bytes or 0,
        command=process.command,
        user=process.user,
        draws=not process.computes,
    )


def gpu_list(
    snapshot: GpuSnapshot, holders: Mapping[str, HeldBy], runs: Mapping[int, tuple[str, int]]
) -> pb.ListGpusReply:
    """`holders` by uuid; `runs`: the workspace and number of the run that a process belongs to."""
    gpus = [_gpu(gpu) for gpu in snapshot.gpus]
    places = places_of(snapshot, {uuid: str(holder) for uuid, holder in holders.items()})
    users = {place.uuid: place.users for place in places}
    for unit in (unit for gpu in gpus for unit in (gpu, *gpu.slices)):
        unit.users.extend(users.get(unit.uuid, ()))
        holder = holders.get(unit.uuid)
        if holder is not None:
            unit.holder.user, unit.holder.project = holder.user, holder.project
            unit.holder.run, unit.holder.since_ns = holder.run, holder.since_ns
    _name_runs(gpus, runs)
    state = _GPU_STATES[snapshot.state]
    return pb.ListGpusReply(state=state, detail=snapshot.detail, gpus=gpus)
