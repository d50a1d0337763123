"""What a run wants of a box's GPUs: the words of `run.gpus`, read and compared.

Both halves need it: the laptop refuses what makes no sense, the box chooses by it. Knows no driver.

A wish is one to three parts between colons, in any order, each of another kind:

    count    0 (the run sees no GPU), 1, 2 … 64; 1 where there is none
    model    A100; "A100,H100" is one of either
    memory   24GB.. (at least), ..24GB (at most), 16GB..40GB, 40GB (sold as that)

So 2, "A100:2", "24GB..", "A100:40GB:2": the words of dstack and SkyPilot.

A model is compared word by word with the driver's name: A100 is in "NVIDIA A100-SXM4-80GB" and not
in "NVIDIA RTX A1000"; "RTX4090" and "RTX 4090" are one. A slice of a divided GPU (MIG) goes by its
profile, such as 1g.10gb. Memory is what the maker says, in steps of 1024: that a driver keeps up to
a tenth of it for itself makes a 24 GB card no smaller.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import DevloopError

__all__ = ["MAX_GPUS", "BadWish", "GpuWish", "parse_wish", "size_words"]

MAX_GPUS = 64
MAX_CHARS = 200
# Of what the maker says, a driver shows at least so much.
_SHOWN = 0.9

_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_AMOUNT = r"(\d{1,6}(?:\.\d{1,3})?)\s*([MGT])i?B"
_MEMORY = re.compile(rf"(?:{_AMOUNT})?\s*(\.\.)?\s*(?:{_AMOUNT})?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]*[A-Za-z0-9])?")
_WORD = re.compile(r"[a-z0-9]+(?:\.[a-z0-9]+)*")


class BadWish(DevloopError):
    """The words are no wish for GPUs."""

    hint = 'a count, a model, memory: 1, "A100:2", "24GB..", "A100:40GB:2"; 0 for none'


class GpuWish(NamedTuple):
    """How many GPUs, and which. `names`: any of these models; empty: every one."""

    number: int = 1
    names: tuple[str, ...] = ()
    least_bytes: int = 0
    most_bytes: int = 0  # 0: no upper limit

    def __str__(self) -> str:
        """In the words that `parse_wish` reads."""
        limits = _limits_words(self.least_bytes, self.most_bytes)
        parts = [part for part in (",".join(self.names), limits) if part]
        if self.number != 1 or not parts:
            parts.append(str(self.number))
        return ":".join(parts)

    def fits_memory(self, total_bytes: int) -> bool:
        """A GPU that does not say how much it has, 0, fits no limit."""
        if total_bytes < self.least_bytes * _SHOWN:
            return False
        return not self.most_bytes or 0 < total_bytes <= self.most_bytes

    def fits_name(self, name: str) -> bool:
        return not self.names or any(_is_in(wanted, name) for wanted in self.names)


def parse_wish(text: str) -> GpuWish:
    """Raises BadWish."""
    if len(text) > MAX_CHARS or not text.isprintable():
        raise BadWish("a wish for GPUs is one short line")
    found: dict[str, object] = {}
    for part in map(str.strip, text.split(":")):
        kind, fields = _read(part, text)
        if kind in found:
            raise BadWish(f'"{text}" names {kind} twice')
        found |= {kind: True, **fields}
    wish = GpuWish(**{k: v for k, v in found.items() if k in GpuWish._fields})  # type: ignore[arg-type] # of _read
    if wish.number == 0 and wish != GpuWish(0):
        raise BadWish(f'"{text}" wants no GPU, and says which')
    return wish


def _read(part: str, text: str) -> tuple[str, dict[str, object]]:
    """What a part says, and the fields of a GpuWish for it."""
    if part.isascii() and part.isdigit():
        return "a count", {"number": _count(part)}
    memory = _MEMORY.fullmatch(part)
    if memory is not None and part not in ("", ".."):
        return "memory", _limits(memory, text)
    names = tuple(name.strip() for name in part.split(","))
    if not all(_NAME.fullmatch(name) for name in names):
        raise BadWish(f'"{text}" is no wish for GPUs')
    return "a model", {"names": names}


def _count(digits: str) -> int:
    if len(digits) > 3 or int(digits) > MAX_GPUS:
        hint = f'at most {MAX_GPUS}; a model has a letter in it, as "RTX {digits}"'
        raise BadWish(f"{digits} GPUs are more than a box has", hint=hint)
    return int(digits)


def _limits(found: re.Match[str], text: str) -> dict[str, object]:
    least = _bytes(found[1], found[2])
    most = _bytes(found[4], found[5]) if found[3] else least
    if (found[4] and not found[3]) or (most and least > most):
        raise BadWish(f'"{text}" is no range of memory', hint='such as "24GB..", "16GB..40GB"')
    return {"least_bytes": least, "most_bytes": most}


def _bytes(amount: str | None, unit: str | None) -> int:
    return int(float(amount) * _UNITS[unit.upper()]) if amount and unit else 0


def _limits_words(least: int, most: int) -> str:
    if least and least == most:
        return size_words(least)
    return f"{size_words(least)}..{size_words(most)}" if least or most else ""


def size_words(size_bytes: int) -> str:
    """As the makers count: "80GB"; empty for 0."""
    if not size_bytes:
        return ""
    unit = next(u for u in "TGM" if size_bytes >= _UNITS[u] or u == "M")
    return f"{round(size_bytes / _UNITS[unit], 3):g}{unit}B"


def _is_in(wanted: str, name: str) -> bool:
    """Each word of `wanted` is a word of `name`, or several of its words in a row."""
    words = _WORD.findall(name.lower())
    joined = {
        "".join(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
    }
    return all(word in joined for word in _WORD.findall(wanted.lower()))
