"""One attachment of a client session at a time, however fast they follow each other."""

from __future__ import annotations

import asyncio
import contextlib

from devloop.remote_agent.takeovers import Takeovers


async def test_three_in_a_row_are_never_two_at_once() -> None:
    takeovers = Takeovers()
    inside: set[int] = set()
    seen: list[frozenset[int]] = []
    cleaned = asyncio.Event()

    async def attach(number: int) -> None:
        async with takeovers.only_one("p", 1, "me"):
            inside.add(number)
            seen.append(frozenset(inside))
            try:
                await asyncio.sleep(60)
            finally:
                await cleaned.wait()  # as a servicer that lets go of the run's input
                inside.remove(number)

    tasks = [asyncio.create_task(attach(1))]
    await until(lambda: inside == {1})
    for number in (2, 3):
        tasks.append(asyncio.create_task(attach(number)))
        await turns()
    cleaned.set()
    await until(lambda: inside == {3})
    assert [task.done() for task in tasks] == [True, True, False]
    assert seen == [frozenset({1}), frozenset({3})]
    tasks[2].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await tasks[2]
    assert not takeovers._inside, "what has left is forgotten"


async def test_an_older_one_that_cleans_up_is_not_disturbed_again() -> None:
    takeovers = Takeovers()
    is_clean = asyncio.Event()
    cleaned = []

    async def attach(number: int) -> None:
        async with takeovers.only_one("p", 1, "me"):
            try:
                await asyncio.sleep(60)
            finally:
                await is_clean.wait()
                cleaned.append(number)

    tasks = []
    for number in (1, 2, 3):
        tasks.append(asyncio.create_task(attach(number)))
        await turns()
    is_clean.set()
    await asyncio.wait(tasks[:2])
    assert cleaned == [1]  # the second one was never let in
    tasks[2].cancel()
    await asyncio.wait(tasks[2:])


async def test_sessions_and_runs_do_not_disturb_each_other() -> None:
    takeovers = Takeovers()
    keys = [("p", 1, "me"), ("p", 1, "you"), ("p", 2, "me"), ("q", 1, "me"), ("p", 1, "")]
    async with contextlib.AsyncExitStack() as stack:
        for key in [*keys, ("p", 1, "")]:
            await stack.enter_async_context(takeovers.only_one(*key))


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def turns() -> None:
    """Whatever can go on has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)
