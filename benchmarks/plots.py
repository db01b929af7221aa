"""Results as pictures: latency percentiles, and throughput with its p99 over the processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .measures.throughput import PROCESSES, group_of
from .results import REDIS, UDSBUS, Table

COLOURS = {REDIS: "#c0392b", UDSBUS: "#1f6fb2"}
NAMES = {REDIS: "Redis, redis-py with hiredis", UDSBUS: "udsbus"}
PERCENTILES = ("p50", "p90", "p99", "p99.9")


def draw(tables: list[Table], directory: Path) -> list[Path]:
    """Write a PNG for each table that has one; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for table in tables:
        if table.name in _DRAWN:
            path = directory / f"{table.name}.png"
            _DRAWN[table.name](table, path)
            written.append(path)
    return written


def _draw_latency(table: Table, path: Path) -> None:
    figure, axes = _figure(table.title)
    for axis, operation in zip(axes, ("set", "get"), strict=True):
        for side, shift in ((REDIS, -0.2), (UDSBUS, 0.2)):
            heights = [table.find(operation, name).figure(side) for name in PERCENTILES]
            places = [place + shift for place in range(len(PERCENTILES))]
            bars = axis.bar(places, heights, 0.38, color=COLOURS[side], label=NAMES[side])
            axis.bar_label(bars, fmt="%.0f", padding=2)
        axis.set_xticks(range(len(PERCENTILES)), PERCENTILES)
        axis.set_yscale("log")
        axis.set_ylim(bottom=1)
        axis.set_ylabel("microseconds, logarithmic")
        axis.set_title(operation)
        axis.margins(y=0.1)
    _save(figure, axes, path)


def _draw_throughput(table: Table, path: Path) -> None:
    figure, axes = _figure(table.title)
    for axis, name, scale, label in (
        (axes[0], "calls", "linear", "calls a second, all processes"),
        (axes[1], "p99", "log", "p99 of one call, microseconds, logarithmic"),
    ):
        for side in (REDIS, UDSBUS):
            rows = [table.find(group_of(processes), name) for processes in PROCESSES]
            medians = [row.figure(side) for row in rows]
            least = [min(row.samples[side]) for row in rows]
            most = [max(row.samples[side]) for row in rows]
            axis.plot(PROCESSES, medians, "o-", color=COLOURS[side], label=NAMES[side])
            axis.fill_between(PROCESSES, least, most, color=COLOURS[side], alpha=0.15)
        axis.set_xscale("log", base=2)
        axis.set_xticks(PROCESSES, [str(processes) for processes in PROCESSES])
        axis.set_xlabel("client processes")
        axis.set_yscale(scale)
        axis.set_ylim(bottom=0 if scale == "linear" else 10)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.set_title(label)
    _save(figure, axes, path)


def _figure(title: str) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.style.use("default")
    pyplot.rcParams.update({"font.size": 12, "axes.grid": True, "grid.alpha": 0.3})
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), facecolor="white")
    figure.suptitle(title)
    return figure, axes


def _save(figure: Any, axes: Any, path: Path) -> None:
    for axis in axes:
        axis.set_axisbelow(True)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


_DRAWN: dict[str, Callable[[Table, Path], None]] = {
    "latency": _draw_latency,
    "throughput": _draw_throughput,
}
