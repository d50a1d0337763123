"""What runs are told of the file server of their image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from devloop.cafs.digest import digest_of
from devloop.remote_agent.logs import RunLog
from devloop.remote_agent.run import Run, RunSpec
from devloop.remote_agent.served import Served

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = {"event": "tier", "tier": "http://a", "reason": "Connection refused", "digest": None}
LOST = {"event": "failed", "digest": "ab" * 32, "file": "etc/name", "reason": "nobody has it"}
TOUCHED = {"event": "touched", "digest": "ab" * 32, "chunk": None, "chunks": 0}


def run_of(folder: Path, number: int) -> Run:
    log = RunLog(folder / str(number))
    return Run(number, digest_of(b"tree"), RunSpec((b"true",)), lambda: log)


async def lines(run: Run) -> list[bytes]:
    run.log.close()
    with run.log.reader(0, lossless=True, follow=False) as reader:
        return [record.data async for batch in reader for record in batch]


async def test_a_run_is_told_a_line_once_and_the_next_run_too(tmp_path: Path) -> None:
    first, second = (run_of(tmp_path, number) for number in (1, 2))
    served = Served()
    for runs in ([first], [first], [first, second]):
        for event in (REFUSED, TOUCHED, LOST):
            served.tell(json.dumps(event), runs.copy)
    expected = [
        b"http://a: Connection refused\n",
        b"/etc/name cannot be read (blob abababababab of the image): nobody has it\n",
    ]
    assert await lines(first) == expected
    assert await lines(second) == expected
