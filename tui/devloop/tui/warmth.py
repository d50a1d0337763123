"""What the next start finds ready, in words: interpreters, the container, files of the image.

From the view to spans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.sync.metrics import ContainerState

from .spans import Span
from .words import plain, size

if TYPE_CHECKING:
    from devloop.sync.metrics import Warmth

    from .spans import Line
    from .state import View

__all__ = ["ahead_line", "image_line", "is_container_starting", "is_fetching_ahead", "start_line"]


def image_line(view: View) -> Line:
    """Its name without what comes before it, and its container."""
    return [Span(plain(view.image).rpartition("/")[2]), _container(view.warmth)]


def _container(warmth: Warmth | None) -> Span:
    started = warmth.containers if warmth is not None else 0
    match warmth.container if warmth is not None else ContainerState.NONE:
        case ContainerState.STARTING:
            return Span(f"  … container {'re' * (started > 0)}starting", "accent")
        case ContainerState.WARM:
            return Span("  container warm" + f", restarted {started - 1}×" * (started > 1), "dim")
        case ContainerState.NONE:
            return Span("  no container", "dim")


def ahead_line(view: View) -> Line:
    """How much of what starts touch is here; empty: nothing is fetched ahead."""
    warmth = view.warmth
    if warmth is None or not warmth.ahead_of_files:
        return []
    if not is_fetching_ahead(warmth):
        words = f"prefetched {warmth.ahead_of_files:,}, {size(warmth.ahead_of_bytes)}"
        return [Span(words, "dim")]
    files = f"{warmth.ahead_files:,} of {warmth.ahead_of_files:,}"
    words = f"prefetching {files}, {size(warmth.ahead_bytes)} of {size(warmth.ahead_of_bytes)}"
    return [Span(words, "accent")]


def start_line(view: View) -> Line:
    warmth = view.warmth
    if warmth is None:
        return [Span("not known yet", "dim")]
    if warmth.loading:
        return [Span("… warming: an interpreter is at its imports", "accent")]
    if not warmth.zygotes:
        return [Span("cold", "dim")]
    count = warmth.zygotes
    return [Span("warm"), Span(f"  {count} interpreter{'s' * (count > 1)} ready", "dim")]


def is_container_starting(view: View) -> bool:
    return view.warmth is not None and view.warmth.container is ContainerState.STARTING


def is_fetching_ahead(warmth: Warmth | None) -> bool:
    return warmth is not None and warmth.ahead_files < warmth.ahead_of_files
