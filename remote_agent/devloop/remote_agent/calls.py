"""How every call is answered: it counts as activity, and its errors become statuses.

DevloopErrors become statuses here and nowhere else: the status' details are a JSON object
{"kind", "message", "hint", "exit_code"}, which the client turns back into an error. Refuses to know
what the calls do. Part of the servicer.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc

from devloop.cafs.errors import DevloopError

from .agent import InvalidRequest
from .outputs import OutputChanged

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Activity", "streaming", "unary"]

logger = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound="Callable[..., Any]")


class Activity:
    """Counts open calls, so that an idle agent can end itself."""

    def __init__(self) -> None:
        self._open = 0
        self._last = asyncio.get_running_loop().time()

    def __enter__(self) -> None:
        self._open += 1

    def __exit__(self, *_: object) -> None:
        self._open -= 1
        self._last = asyncio.get_running_loop().time()

    @property
    def idle_s(self) -> float:
        return 0.0 if self._open else asyncio.get_running_loop().time() - self._last


class Servicer(Protocol):
    activity: Activity


def unary(handler: Handler) -> Handler:
    """For a handler that returns its reply."""

    @functools.wraps(handler)
    async def call(self: Servicer, request: Any, context: Any) -> Any:
        with self.activity:
            try:
                return await handler(self, request, context)
            except DevloopError as error:
                await _abort(context, error)
            except ValueError as error:
                await _abort(context, InvalidRequest(str(error)))
            except Exception:
                # gRPC would log the outermost words only, which say nothing of a group's own.
                logger.exception("%s failed", handler.__name__)
                raise

    return call  # type: ignore[return-value] # the decorated signature is the same


def streaming(handler: Handler) -> Handler:
    """For a handler that writes its replies to the context, which the stubs' types do not know."""
    return unary(handler)


async def _abort(context: Any, error: DevloopError) -> None:
    details = {
        "kind": type(error).__name__,
        "message": str(error),
        "hint": error.hint,
        "exit_code": error.exit_code,
    }
    await context.abort(_status(error), json.dumps(details))


def _status(error: DevloopError) -> grpc.StatusCode:
    match error:
        case InvalidRequest():
            return grpc.StatusCode.INVALID_ARGUMENT
        case OutputChanged():
            return grpc.StatusCode.ABORTED
        case _:
            return grpc.StatusCode.FAILED_PRECONDITION
