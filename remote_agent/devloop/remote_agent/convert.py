"""Between the protocol's messages and the agent's own values, both ways. Decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.proto.v1 import agent_pb2 as pb

from .gpu import GpuState
from .runs import RunSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .agent import Applying
    from .gpu import Gpu
    from .logs import Record
    from .metrics import HostMetrics, Sample
    from .runs import Run, RunEnd

__all__ = ["apply_reply", "log_records", "metrics_sample", "run_message", "run_spec"]


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
        ),
        state=pb.RunState.ValueType(run.state),
        started_ns=run.started_ns,
        first_output_ns=run.first_output_ns,
        ended_ns=run.ended_ns,
        end=_run_end(run.end),
        start_kind=run.start_kind,
        start_note=run.start_note,
        pid=run.pid,
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


def metrics_sample(sample: Sample) -> pb.MetricsSample:
    return pb.MetricsSample(
        time_ns=sample.time_ns,
        host=_host(sample.host),
        gpu_state=_GPU_STATES[sample.gpu_state],
        gpu_detail=sample.gpu_detail,
        gpus=[_gpu(gpu) for gpu in sample.gpus],
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
        processes=[
            pb.GpuProcess(
                pid=process.pid,
                memory_bytes=process.memory_bytes or 0,
                command=process.command,
                user=process.user,
            )
            for process in gpu.processes
        ],
    )
