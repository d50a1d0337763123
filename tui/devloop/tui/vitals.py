"""What the box does: its GPUs, or where it has none its processors, as rows of figures and bars.

From the view to spans. "No GPU" and a driver that does not answer are states like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.sync.metrics import GpuState

from .series import plot, sparkline
from .spans import Line, Part, Span, Style, cut, dimmed, fit, width_of
from .words import clock, plain, size

if TYPE_CHECKING:
    from devloop.sync.metrics import GpuSample, SampleProcess

    from .series import Series
    from .state import GpuHistory, HostHistory, View

__all__ = ["gpu_pane", "gpu_title", "vitals_line"]

LABEL_COLUMNS = 7
VALUE_COLUMNS = 11
HOT_C = 83.0
FULL = 0.93  # of a memory or a disk: worth a colour
PROCESSES_SHOWN = 6
SPARK_COLUMNS = 14
PLOT_ROWS = (3, 8)  # of a plot in the zoomed pane, at least and at most


def vitals_line(view: View, width: int, now_s: float) -> Line:
    """One line: " GPU 87% ▅▅▆▇▇▇  mem 61.2/80.0G ▄▄▄▄  64°C  412/700W  py 60.9G"."""
    if view.host is None:
        return [Span(" waiting for the first figures of the box", "dim")]
    spark = min(SPARK_COLUMNS, max((width - 50) // 2, 4))
    if view.gpus and view.gpu_state is GpuState.OK:
        parts = _gpu_parts(view, next(iter(view.gpus.values())), spark)
    else:
        parts = [Part([Span(_gpu_word(view), "dim")]), *_host_parts(view.host, spark)]
    mark = [Span(" "), *_stale_mark(view, now_s)]
    line = fit(parts, width - width_of(mark) - 1)
    return cut([*mark, *(dimmed([line])[0] if len(mark) > 1 else line)], width)


def _gpu_parts(view: View, gpu: GpuHistory, spark: int) -> list[Part]:
    now = gpu.now
    busiest = max(now.processes, key=lambda process: process.memory_bytes, default=None)
    more = f"+{len(view.gpus) - 1} more" if len(view.gpus) > 1 else ""
    return [
        Part([Span(f"GPU {_percent(now)}", _busy_style(now)), _spark(gpu.utilization, spark, 100)]),
        Part([*_memory_words(now), _spark(gpu.memory, spark, now.memory_total_bytes)], 1),
        Part([Span(_temperature(now), _temperature_style(now))], 2),
        Part([Span(_power(now))], 3),
        Part([Span(more, "dim")] if more else [], 4),
        Part([Span(f"{_command(busiest, 10)} {size(busiest.memory_bytes)}")] if busiest else [], 5),
    ]


def _host_parts(host: HostHistory, spark: int) -> list[Part]:
    now = host.now
    used, total = now.memory_used_bytes, now.memory_total_bytes
    disk_used, disk_total = now.disk_used_bytes, now.disk_total_bytes
    return [
        Part([Span(f"cpu {now.cpu_percent:.0f}%"), _spark(host.cpu, spark, 100)]),
        Part(
            [
                Span(f"mem {_of(used, total)}", _full(used, total)),
                _spark(host.memory, spark, total),
            ],
            1,
        ),
        Part([Span(f"disk {_of(disk_used, disk_total)}", _full(disk_used, disk_total))], 2),
    ]


def gpu_title(view: View) -> str:
    if view.gpu_state is GpuState.OK and view.gpus:
        return "GPU" if len(view.gpus) == 1 else f"GPU · {len(view.gpus)}"
    return f"GPU · {_gpu_word(view)}"


def _gpu_word(view: View) -> str:
    if view.gpu_state is None:
        return "GPU not known yet"
    if view.gpu_state is GpuState.UNAVAILABLE:
        return "GPU driver does not answer"
    return "no GPU"


def gpu_pane(view: View, width: int, height: int, now_s: float, *, zoomed: bool) -> list[Line]:
    """The pane's lines: each GPU, then the host. `zoomed`: plots over time."""
    if view.host is None:
        return [[Span("waiting for the first figures", "dim")]]
    rows = _plot_rows(view, height) if zoomed else 0
    lines = _gpu_lines(view, width, height, rows)
    lines += _host_lines(view.host, width, rows)
    if zoomed:
        lines += [[], _time_axis(view.host.cpu, width)]
    mark = _stale_mark(view, now_s)
    return [cut(line, width) for line in ([mark, *dimmed(lines)] if mark else lines)]


def _plot_rows(view: View, height: int) -> int:
    """So that all plots have a place in the pane, if they can."""
    plots = 4 * len(view.gpus) + 2
    others = 8 + sum(1 + min(len(gpu.now.processes), PROCESSES_SHOWN) for gpu in view.gpus.values())
    least, most = PLOT_ROWS
    return min(max((height - others) // plots, least), most)


def _time_axis(history: Series, width: int) -> Line:
    """Below the plots: how far back their left edge is. Samples come every second."""
    columns = width - LABEL_COLUMNS - VALUE_COLUMNS - 2
    drawn = len(history.condensed(columns))
    start = f"{clock(len(history)).partition('.')[0]} ago"
    line = f"{start:<{max(drawn - 3, 0)}}now" if drawn > len(start) + 4 else "now"
    return cut([Span(line.rjust(width - 1), "dim")], width)


def _stale_mark(view: View, now_s: float) -> Line:
    stale_s = view.stale_s(now_s)
    return [Span(f"stale {stale_s:.0f} s  ", "warn")] if stale_s else []


def _gpu_lines(view: View, width: int, height: int, plot_rows: int) -> list[Line]:
    """`plot_rows`: 0 for one row of bars."""
    if view.gpu_state is not GpuState.OK or not view.gpus:
        detail = f": {plain(view.gpu_detail)}" if view.gpu_detail else ""
        style: Style = "warn" if view.gpu_state is GpuState.UNAVAILABLE else "dim"
        return [cut([Span(f"{_gpu_word(view)}{detail}", style)], width), []]
    is_short = not plot_rows and height < len(view.gpus) * 7
    lines: list[Line] = []
    for gpu in view.gpus.values():
        lines += _gpu_block(gpu, width, plot_rows, is_short=is_short)
    return [*lines, []]


def _gpu_block(gpu: GpuHistory, width: int, plot_rows: int, *, is_short: bool) -> list[Line]:
    now = gpu.now
    name = plain(now.name.removeprefix("NVIDIA "))
    throttled = ", ".join(now.throttle_reasons)
    title = [
        Part([Span(f"{now.label} {name}", "strong")]),
        Part([Span(f"throttled: {plain(throttled)}", "warn")] if throttled else [], 1),
    ]
    utilization = Span(_percent(now), _busy_style(now))
    util = _row("util", utilization, gpu.utilization, 100, width, plot_rows)
    memory = _row(
        "mem",
        Span(_of(now.memory_used_bytes, now.memory_total_bytes), _memory_style(now)),
        gpu.memory,
        now.memory_total_bytes,
        width,
        plot_rows,
    )
    if is_short:
        heat = Span(f"{_temperature(now)} {_power(now)}", _temperature_style(now))
        return [fit([*title, Part([heat], 2)], width), *util, *memory]
    heat_row = _row(
        "temp",
        Span(_temperature(now), _temperature_style(now)),
        gpu.temperature,
        100,
        width,
        plot_rows,
    )
    top = now.power_limit_w or gpu.power.highest
    power = _row("power", Span(_power(now)), gpu.power, top, width, plot_rows)
    lines = [fit(title, width), *util, *memory, *heat_row, *power]
    lines += [_slice_line(part, width) for part in now.slices]
    return lines + _process_lines(now, width)


def _slice_line(part: GpuSample, width: int) -> Line:
    memory = Span(_of(part.memory_used_bytes, part.memory_total_bytes), _memory_style(part))
    return fit(
        [Part([Span(f" {part.label}")]), Part([memory]), Part([Span(plain(part.name))])], width
    )


def _process_lines(gpu: GpuSample, width: int) -> list[Line]:
    all_ = [*gpu.processes, *(process for part in gpu.slices for process in part.processes)]
    shown = sorted(all_, key=lambda process: -process.memory_bytes)[:PROCESSES_SHOWN]
    lines = [_process_line(process, width) for process in shown]
    if len(all_) > len(shown):
        lines.append([Span(f" and {len(all_) - len(shown)} more processes", "dim")])
    return lines


def _process_line(process: SampleProcess, width: int) -> Line:
    """One of a run of ours has its mark; others have their user's name."""
    mark = "▶" if process.run else " "
    style: Style = "accent" if process.run else "dim"
    spans = [
        Span(f"{mark}{process.pid:>7} ", style),
        Span(f"{plain(process.user)[:9]:<9}"),
        Span(f"{size(process.memory_bytes) if process.memory_bytes else '?':>6} "),
        Span(_command(process, 200), "" if process.computes else "dim"),
    ]
    return cut(spans, width)


def _host_lines(host: HostHistory, width: int, plot_rows: int) -> list[Line]:
    now = host.now
    used, total = now.memory_used_bytes, now.memory_total_bytes
    disk, disk_total = now.disk_used_bytes, now.disk_total_bytes
    net_top = max(host.received.highest, host.sent.highest, 1e6)
    load = Part([Span(f"load {now.load_1m:.2f}", "dim")], 1)
    return [
        fit([Part([Span("host", "strong")]), load], width),
        *_row("cpu", Span(f"{now.cpu_percent:.0f}%"), host.cpu, 100, width, plot_rows),
        *_row(
            "mem", Span(_of(used, total), _full(used, total)), host.memory, total, width, plot_rows
        ),
        _meter(
            "disk", Span(_of(disk, disk_total), _full(disk, disk_total)), disk, disk_total, width
        ),
        *_row("net ↓", Span(f"{size(host.received.last)}/s"), host.received, net_top, width, 0),
        *_row("net ↑", Span(f"{size(host.sent.last)}/s"), host.sent, net_top, width, 0),
    ]


def _row(
    label: str, value: Span, history: Series, top: float, width: int, plot_rows: int
) -> list[Line]:
    """Label, value and its history; with rows for a plot, all of its history."""
    head = [
        Span(f" {label:<{LABEL_COLUMNS - 1}}", "dim"),
        Span(f"{value.text:<{VALUE_COLUMNS}} ", value.style),
    ]
    columns = width - LABEL_COLUMNS - VALUE_COLUMNS - 2
    if not plot_rows:
        return [
            cut([*head, Span(sparkline(history.newest(columns), columns, top), "accent")], width)
        ]
    rows = plot(history.condensed(columns), columns, plot_rows, top)
    pad = Span(" " * (LABEL_COLUMNS + VALUE_COLUMNS + 1))
    first: Line = [*head, Span(rows[0], "accent")]
    return [cut(line, width) for line in (first, *([pad, Span(r, "accent")] for r in rows[1:]))]


def _meter(label: str, value: Span, used: float, total: float, width: int) -> Line:
    columns = max(width - LABEL_COLUMNS - VALUE_COLUMNS - 2, 0)
    full = round(used / total * columns) if total else 0
    return cut(
        [
            Span(f" {label:<{LABEL_COLUMNS - 1}}", "dim"),
            Span(f"{value.text:<{VALUE_COLUMNS}} ", value.style),
            Span("█" * full, "accent"),
            Span("░" * (columns - full), "dim"),
        ],
        width,
    )


def _spark(history: Series, columns: int, top: float) -> Span:
    return Span(f" {sparkline(history.newest(columns), columns, top)}", "accent")


def _percent(gpu: GpuSample) -> str:
    return "divided" if gpu.slices else f"{gpu.utilization_percent:.0f}%"


def _busy_style(gpu: GpuSample) -> Style:
    return "good" if gpu.utilization_percent >= 50 else ""


def _memory_words(gpu: GpuSample) -> Line:
    return [Span(f"mem {_of(gpu.memory_used_bytes, gpu.memory_total_bytes)}", _memory_style(gpu))]


def _memory_style(gpu: GpuSample) -> Style:
    return _full(gpu.memory_used_bytes, gpu.memory_total_bytes)


def _full(used: float, total: float) -> Style:
    return "warn" if total and used / total >= FULL else ""


def _of(used: float, total: float) -> str:
    """ "61.2/80.0G", in the unit of the whole."""
    whole = size(total)
    unit = whole[-1]
    divisor = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(unit, 1.0)
    digits = 0 if total / divisor >= 99.95 or divisor == 1.0 else 1
    return f"{used / divisor:.{digits}f}/{total / divisor:.{digits}f}{unit}"


def _temperature(gpu: GpuSample) -> str:
    return f"{gpu.temperature_c:.0f}°C" if gpu.temperature_c else "–°C"


def _temperature_style(gpu: GpuSample) -> Style:
    return "warn" if gpu.temperature_c >= HOT_C else ""


def _power(gpu: GpuSample) -> str:
    if not gpu.power_w:
        return "–W"
    limit = f"/{gpu.power_limit_w:.0f}" if gpu.power_limit_w else ""
    return f"{gpu.power_w:.0f}{limit}W"


def _command(process: SampleProcess, columns: int) -> str:
    """Without its folders: "python train.py"."""
    first, space, rest = plain(process.command).partition(" ")
    return (first.rpartition("/")[2] + space + rest)[:columns]
