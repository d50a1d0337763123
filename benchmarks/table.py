"""Sections as text, for a terminal and for docs. Measures nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .figures import Bound, Samples, Section

__all__ = ["section_lines"]

NAME_WIDTH = 46


def section_lines(section: Section) -> Iterator[str]:
    yield f"\n{section.title}   (load {section.load_before:.1f} before)"
    if section.samples:
        yield f"  {'':<{NAME_WIDTH}}{'p50':>9}{'p99':>9}{'n':>5}"
    for samples in section.samples:
        yield _samples_line(samples)
    for bound in section.bounds:
        yield _bound_line(bound)
    for note in section.notes:
        yield f"  · {note}"


def _samples_line(samples: Samples) -> str:
    p50, p99 = _number(samples.p50), _number(samples.p99)
    count = len(samples.values)
    return f"  {samples.name:<{NAME_WIDTH}}{p50:>9}{p99:>9}{count:>5}  {samples.unit}"


def _bound_line(bound: Bound) -> str:
    sign = "≥" if bound.at_least else "≤"
    unit = f" {bound.unit}" if bound.unit else ""
    verdict = "met" if bound.met else "NOT MET"
    value = _number(bound.value) if bound.unit else f"{bound.value:.2f}"
    asked = f"asked {sign} {bound.limit:.3g}{unit}: {verdict}"
    return f"  → {bound.name:<{NAME_WIDTH - 2}}{value:>9}{unit}   {asked}"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
