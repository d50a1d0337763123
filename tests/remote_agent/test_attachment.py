"""What a client sends on an attachment, in order and out of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from devloop.proto.v1 import agent_pb2 as pb
from devloop.remote_agent.attachment import Attachment
from devloop.remote_agent.runs import NoSuchRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def test_a_message_about_no_run_does_not_keep_the_next_signal_from_its_run() -> None:
    heard: list[int] = []
    run = SimpleNamespace(signal=heard.append, stdin=None)

    def get(number: int) -> object:
        if number != 1:
            raise NoSuchRun(f"there is no run {number}")
        return run

    project: Any = SimpleNamespace(runs=SimpleNamespace(get=get))

    async def requests() -> AsyncIterator[pb.AttachRequest]:
        yield pb.AttachRequest(signal=2, run=7)
        yield pb.AttachRequest(signal=2, run=1)

    await Attachment(project, pb.AttachOpen(run=1), None).listen(requests())
    assert heard == [2]
