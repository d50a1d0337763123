"""Numbers for people, in few columns. Knows no screen."""

from __future__ import annotations

import time

__all__ = ["clock", "milliseconds", "plain", "seconds", "size", "stamp"]


def size(size_bytes: float) -> str:
    """Three significant digits at most: "999B", "1.5M", "80G"."""
    value = float(size_bytes)
    if value < 1000:
        return f"{int(value)}B"
    for unit in "kMGT":
        value /= 1000
        if value < 999.5 or unit == "T":
            break
    return f"{value:.3g}{unit}"


def seconds(duration_s: float) -> str:
    """ "0.021s", "12.4s", "3:07", "1:02:03"."""
    if duration_s < 1:
        return f"{duration_s:.3f}s"
    if duration_s < 60:
        return f"{duration_s:.1f}s"
    return clock(duration_s).partition(".")[0].lstrip("0").lstrip(":")


def clock(duration_s: float) -> str:
    """A stopwatch: "00:12.4", "1:02:03"."""
    minutes, rest_s = divmod(max(duration_s, 0.0), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours}:{minutes:02}:{int(rest_s):02}"
    return f"{minutes:02}:{int(rest_s * 10) / 10:04.1f}"


def milliseconds(duration_s: float) -> str:
    """ "0.4", "21", "1,204"."""
    ms = duration_s * 1000
    return f"{ms:.1f}" if ms < 9.95 else f"{ms:,.0f}"


def stamp(time_ns: int) -> str:
    """The time of day here, "12:00:11"."""
    return time.strftime("%H:%M:%S", time.localtime(time_ns / 1e9))


def plain(text: str) -> str:
    """No character of a name or a message is a control code, or ends the line."""
    return "".join(c if c.isprintable() else " " for c in text)
