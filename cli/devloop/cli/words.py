"""Numbers and names for people."""

from __future__ import annotations

__all__ = ["duration", "printable", "seconds", "size"]


def size(size_bytes: int) -> str:
    """Three significant digits at most: "999 B", "1.5 MB"."""
    value = float(size_bytes)
    if value < 1000:
        return f"{size_bytes} B"
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{value / 1000:.3g} TB"


def duration(duration_s: float) -> str:
    """How long something took: "0.021 s", "12.4 s", "3:07", "1:02:03"."""
    if duration_s < 60:
        return seconds(duration_s)
    minutes, rest = divmod(int(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def seconds(duration_s: float) -> str:
    return f"{duration_s:.3f} s" if duration_s < 1 else f"{duration_s:.1f} s"


def printable(text: str) -> str:
    """No byte of a file's name or a command reaches the terminal as a control code."""
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
