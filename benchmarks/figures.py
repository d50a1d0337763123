"""What a benchmark found, as plain values. Knows neither how to measure nor how to show it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

__all__ = ["Bound", "Samples", "Section", "quantile"]


def quantile(values: list[float], q: float) -> float:
    """Nearest rank: always a value that was measured. With 50 values the p99 is the largest."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Samples:
    """One subject's measurements of one thing."""

    name: str
    unit: str
    values: list[float]

    @property
    def p50(self) -> float:
        return quantile(self.values, 0.50)

    @property
    def p99(self) -> float:
        return quantile(self.values, 0.99)


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure and what was asked of it."""

    name: str
    value: float
    limit: float
    unit: str = ""  # empty: a ratio
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(slots=True)
class Section:
    """One line of what was asked, with everything that was measured for it."""

    key: str
    title: str
    samples: list[Samples] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    load_before: float = 0.0  # the machine's load average when the section began

    def as_json(self) -> dict[str, object]:
        return {
            "key": self.key,
            "title": self.title,
            "load_before": self.load_before,
            "samples": [
                {**asdict(s), "count": len(s.values), "p50": s.p50, "p99": s.p99}
                for s in self.samples
            ],
            "bounds": [{**asdict(b), "met": b.met} for b in self.bounds],
            "notes": self.notes,
        }
