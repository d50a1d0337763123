"""`--json`: one event a line on stdout, for programs.

Every line is an object with "event" and "time" (Unix seconds):
    started  run, command (its words), tree, start ("zygote" | "cold"), files_sent, bytes_sent, and
             gpus, the ones picked for it: objects with uuid, label, name
    output   run, record, stream ("stdout" | "stderr" | "gap"), and text, or base64 where the
             bytes are not UTF-8; a gap has dropped_bytes and dropped_records
    ended    run, exit_code, signal, reason, wall_s, user_s, system_s, peak_memory_bytes; missing
             when Ctrl-C left more output than the reader took
"""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING

from devloop.sync.model import LogStream

from .output import Output

if TYPE_CHECKING:
    from devloop.sync.model import LogRecord, Run

__all__ = ["JsonSink"]


class JsonSink:
    """Prints a run's events."""

    def __init__(self) -> None:
        self._output = Output()

    async def emit(self, event: str, *, time_s: float | None = None, **fields: object) -> None:
        line = {"event": event, "time": time.time() if time_s is None else time_s, **fields}
        await self._output.write(1, json.dumps(line).encode() + b"\n")

    async def record(self, record: LogRecord) -> None:
        fields: dict[str, object] = {
            "run": record.run,
            "record": record.number,
            "stream": record.stream.name.lower(),
        }
        if record.stream is LogStream.GAP:
            fields |= {
                "dropped_bytes": record.dropped_bytes,
                "dropped_records": record.dropped_records,
            }
        else:
            fields |= _content(record.data)
        await self.emit("output", time_s=record.time_ns / 1e9, **fields)

    def state(self, run: Run) -> None:
        pass


def _content(data: bytes) -> dict[str, object]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}
