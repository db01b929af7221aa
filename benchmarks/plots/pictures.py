"""The pictures: what of a table is drawn, and on which axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..measures.rivals import TOGETHER
from ..results import REDIS, UDSBUS
from .style import Scale, Theme, bars, curves, from_zero, logarithmic, mark, panels, times
from .table import Figures, NothingToDraw, count_of

PERCENTILES = ("p50", "p90", "p99", "p99.9")
BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}


class Picture(NamedTuple):
    name: str
    """Of the file."""
    table: str
    title: str
    draw: Callable[[Theme, Figures, str], Any]
    """Makes the figure. Raises `NothingToDraw` when the table has not the rows for it."""


def latency(theme: Theme, figures: Figures, title: str) -> Any:
    figure, axes = panels(2, title, sharey=True)
    for axis, operation in zip(axes, ("set", "get"), strict=True):
        rows = [(operation, name) for name in PERCENTILES]
        places = [float(place) for place in range(len(rows))]
        axis.margins(x=0.1)
        curves(axis, theme, figures, places, rows, logarithmic, each=True)
        axis.set_xticks(places, PERCENTILES)
        axis.set_title(operation)
    return figure


def throughput(theme: Theme, figures: Figures, title: str) -> Any:
    figure, axes = panels(2, title)
    for axis, name, scale, what in (
        (axes[0], "calls", from_zero, "calls a second, all processes"),
        (axes[1], "p99", logarithmic, "p99 of a call, µs"),
    ):
        _over_counts(axis, theme, figures, name, "process", scale)
        axis.set_title(what)
        axis.set_xlabel("client processes")
    return figure


def batches(theme: Theme, figures: Figures, title: str) -> Any:
    rows = [(group, "writes", group, True) for group in figures.groups("writes")]
    return _side_by_side(theme, figures, title, rows)


def values(theme: Theme, figures: Figures, title: str) -> Any:
    groups = _some(figures.groups("through"))
    figure, (axis,) = panels(1, title)
    sizes = [count_of(group) * float(BYTES[group.split()[1]]) for group in groups]
    rows = [(group, "through") for group in groups]
    curves(axis, theme, figures, sizes, rows, logarithmic, each=True)
    mark(axis, sizes, groups, 2)
    axis.set_xlabel("size of the value")
    axis.set_title("MiB a second, both ways together")
    return figure


def rivals(theme: Theme, figures: Figures, title: str) -> Any:
    groups = _some(figures.groups("set, p50"))
    figure, axes = panels(2, title, 1.2 + 0.42 * len(groups))
    for axis, operation in zip(axes, ("set", "get"), strict=True):
        times(axis, theme, _ratios(figures, groups, f"{operation}, p50", more=False))
        axis.set_title(operation)
    return figure


def rivals_together(theme: Theme, figures: Figures, title: str) -> Any:
    groups = _some(figures.groups(TOGETHER))
    figure, (axis,) = panels(1, title, 1.0 + 0.42 * len(groups))
    times(axis, theme, _ratios(figures, groups, TOGETHER, more=True))
    return figure


def calls(theme: Theme, figures: Figures, title: str) -> Any:
    groups = _some([group for group in figures.groups("p50") if group.startswith("against ")])
    figure, (axis,) = panels(1, title, 1.0 + 0.42 * len(groups))
    times(axis, theme, _ratios(figures, groups, "p50", more=False))
    return figure


def locks(theme: Theme, figures: Figures, title: str) -> Any:
    (contended,) = _some(figures.groups("grants"))
    return _side_by_side(
        theme, figures, title,
        [
            ("acquire and release", "p50", "acquire and release, p50, µs", False),
            (contended, "grants", "grants, of those possible", True),
            (contended, "release to next, p50", "release to next, p50, µs", False),
        ],
    )  # fmt: skip


def fanout(theme: Theme, figures: Figures, title: str) -> Any:
    figure, axes = panels(2, title, width_ratios=(2, 1))
    _over_counts(axes[0], theme, figures, "delivered", "watchers", logarithmic)
    axes[0].set_title("changes delivered a second")
    axes[0].set_xlabel("connections that are told")
    bars(axes[1], theme, figures, ("until a function is called", "p50"), more=False)
    axes[1].margins(y=0.6)
    axes[1].set_title("until a function is called, p50, µs")
    return figure


def connections(theme: Theme, figures: Figures, title: str) -> Any:
    figure, axes = panels(2, title, sharey=True)
    for axis, name in zip(axes, ("p50", "p99"), strict=True):
        _over_counts(axis, theme, figures, name, "connection", from_zero)
        axis.set_title(f"{name} of a get, µs")
        axis.set_xlabel("connections")
    return figure


def keys(theme: Theme, figures: Figures, title: str) -> Any:
    figure, axes = panels(2, title, sharey=True)
    for axis, operation in zip(axes, ("set", "get"), strict=True):
        _over_counts(axis, theme, figures, f"{operation}, p50", "keys", from_zero)
        axis.set_title(f"{operation}, p50, µs")
        axis.set_xlabel("keys")
    return figure


def memory(theme: Theme, figures: Figures, title: str) -> Any:
    figure, axes = panels(2, title)
    for axis, name, scale, what in (
        (axes[0], "memory a key", from_zero, "bytes a key"),
        (axes[1], "resident memory", logarithmic, "MiB in all"),
    ):
        _over_counts(axis, theme, figures, name, "keys", scale)
        axis.set_title(what)
        axis.set_xlabel("keys")
    return figure


def restart(theme: Theme, figures: Figures, title: str) -> Any:
    figure, (axis,) = panels(1, title)
    _over_counts(axis, theme, figures, "start to first answer", "keys", logarithmic)
    axis.set_title("seconds from the start of the server to its first answer")
    axis.set_xlabel("keys")
    return figure


PICTURES = (
    Picture("latency", "latency", "How long a call takes, µs", latency),
    Picture("throughput", "throughput", "Many processes, set and get in turn", throughput),
    Picture("batches", "batches", "Batches: writes a second", batches),
    Picture("values", "values", "Small and large values", values),
    Picture(
        "rivals", "rivals",
        "How many times lower the p50 of udsbus is than that of others, logarithmic", rivals,
    ),
    Picture(
        "rivals-together", "rivals",
        "How many times more calls four processes make with udsbus, logarithmic", rivals_together,
    ),
    Picture(
        "calls", "calls",
        "How many times lower the p50 of a call is with udsbus, logarithmic", calls,
    ),
    Picture("locks", "locks", "Locks; the better one on top", locks),
    Picture("fanout", "fanout", "A change told to many", fanout),
    Picture("connections", "connections", "Many connections, most of them idle", connections),
    Picture("keys", "keys", "Few and many keys: how long a call takes", keys),
    Picture("memory", "keys", "Few and many keys: how much memory", memory),
    Picture("restart", "restart", "A server that starts with the keys it kept", restart),
)  # fmt: skip


def _over_counts(
    axis: Any, theme: Theme, figures: Figures, name: str, of: str, scale: Scale
) -> None:
    """Rows of that name over the numbers that their groups begin with."""
    groups = _some([group for group in figures.groups(name) if _counts(group, of)])
    places = [float(count_of(group)) for group in groups]
    curves(axis, theme, figures, places, [(group, name) for group in groups], scale)
    mark(axis, places, [f"{place:,.0f}" for place in places], 10)


def _counts(group: str, of: str) -> bool:
    """Whether a group is named by a number of these, and nothing else: "1,000 keys"."""
    first, _, rest = group.partition(" ")
    return first.replace(",", "").isdigit() and rest.startswith(of) and "," not in rest


def _side_by_side(
    theme: Theme, figures: Figures, title: str, rows: list[tuple[str, str, str, bool]]
) -> Any:
    """A panel of bars for each (group, name, what it is, whether more is better)."""
    figure, axes = panels(len(_some(rows)), title, 1.9)
    for axis, (group, name, what, more) in zip(axes, rows, strict=True):
        bars(axis, theme, figures, (group, name), more)
        axis.set_title(what)
    return figure


def _ratios(figures: Figures, groups: list[str], name: str, more: bool) -> dict[str, float]:
    """How many times better udsbus is, by rival."""
    found = {}
    for group in groups:
        ours, other = (figures.median(group, name, side) for side in (UDSBUS, REDIS))
        found[group.replace("; ", "\n")] = ours / other if more else other / ours
    return found


def _some(found: list[Any]) -> list[Any]:
    if not found:
        raise NothingToDraw
    return found
