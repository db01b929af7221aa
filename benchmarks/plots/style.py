"""How all pictures look: two themes, no frames, names beside the lines instead of a legend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..markdown import number
from ..results import REDIS, UDSBUS
from .table import Figures

SETTINGS = {
    "font.family": "sans-serif",
    "font.size": 11,
    "svg.fonttype": "none",  # text stays text: small files, and the reader's own font
    "svg.hashsalt": "udsbus",
    "figure.constrained_layout.w_pad": 0.15,
    "figure.constrained_layout.h_pad": 0.08,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


class Theme(NamedTuple):
    ending: str
    """Of the file's name."""
    text: str
    faint: str
    colours: dict[str, str]

    @property
    def settings(self) -> Any:
        words = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
        lines = ("axes.edgecolor", "grid.color")
        return SETTINGS | dict.fromkeys(words, self.text) | dict.fromkeys(lines, self.faint)


LIGHT = Theme("", "#1f2328", "#d1d9e0", {REDIS: "#bc4c00", UDSBUS: "#0969da"})
DARK = Theme("-dark", "#e6edf3", "#3d444d", {REDIS: "#f0883e", UDSBUS: "#58a6ff"})
THEMES = (LIGHT, DARK)
CLOSE = 0.2
"""Of the height of the axes: nearer to each other, what is written beside two lines would meet."""


def panels(count: int, title: str, height: float = 3.8, **options: Any) -> tuple[Any, Any]:
    """A figure with so many axes side by side."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(11, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, **options)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure, axes[0]


def save(figure: Any, path: Path) -> None:
    """The same bytes for the same figures; nothing behind them, so that the page shows through."""
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


Scale = Callable[[Any], None]


def curves(
    axis: Any,
    theme: Theme,
    figures: Figures,
    places: list[float],
    rows: list[tuple[str, str]],
    scale: Scale,
    *,
    each: bool = False,
) -> None:
    """A line for each side through the medians of rows, and a band from least to most round.

    `scale` sets the y axis. The name of a side and its last figure stand at the line's end; with
    `each`, all figures stand at their points and the name at the first.
    """
    medians = {side: [figures.median(*row, side) for row in rows] for side in theme.colours}
    for side, colour in theme.colours.items():
        least, most = zip(*(figures.span(*row, side) for row in rows), strict=True)
        axis.plot(places, medians[side], "o-", color=colour, markersize=5, linewidth=2)
        axis.fill_between(places, least, most, color=colour, alpha=0.15, linewidth=0)
    axis.margins(y=0.2 if each else 0.15)
    axis.grid(axis="y")
    scale(axis)
    for at, place in enumerate(places):
        lower, upper = sorted(medians, key=lambda side: medians[side][at])
        gap = _height(axis, medians[upper][at]) - _height(axis, medians[lower][at])
        for side, direction in ((lower, -1), (upper, 1)):
            point = (place, medians[side][at])
            words = [number(point[1]), figures.names[side]]
            if each:
                text = "\n".join(words[::-direction] if at == 0 else words[:1])
                _write(axis, text, point, theme.colours[side], (0, 6 * direction))
            elif place == places[-1]:
                shift = 3 * direction if gap < CLOSE else 0
                _write(axis, "\n".join(words[::-1]), point, theme.colours[side], (9, shift))


def _height(axis: Any, y: float) -> float:
    """From 0, the lower end of the axis, to 1."""
    lower, upper = axis.transScale.transform([(1, at) for at in axis.get_ylim()])[:, 1]
    found: float = (axis.transScale.transform((1, y))[1] - lower) / (upper - lower)
    return found


def _write(
    axis: Any, text: str, point: tuple[float, float], colour: str, shift: tuple[float, float]
) -> None:
    """So many points to the right of a point of the data, and above it."""
    right, up = shift
    axis.annotate(
        text, point, shift, textcoords="offset points", color=colour,
        ha="left" if right else "center",
        va="bottom" if up > 0 else "top" if up < 0 else "center",
    )  # fmt: skip


def bars(axis: Any, theme: Theme, figures: Figures, row: tuple[str, str], more: bool) -> None:
    """A bar for each side, the better one on top; `more` says which is better."""
    sides = sorted(theme.colours, key=lambda side: figures.median(*row, side), reverse=not more)
    for place, side in enumerate(sides):
        median, colour = figures.median(*row, side), theme.colours[side]
        least, most = figures.span(*row, side)
        axis.barh(place, median, 0.7, color=colour)
        axis.plot([least, most], [place, place], color=theme.text, linewidth=1, alpha=0.6)
        _write(axis, number(median), (max(median, most), place), theme.text, (5, 0))
    axis.set_yticks(range(len(sides)), [figures.names[side] for side in sides])
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)


def times(axis: Any, theme: Theme, ratios: dict[str, float]) -> None:
    """How many times better udsbus is than each other: bars to the right, in its colour.

    Where the other is better, to the left, in the other's colour.
    """
    names = sorted(ratios, key=lambda name: ratios[name])
    for place, name in enumerate(names):
        ratio = ratios[name]
        better = ratio >= 1
        colour = theme.colours[UDSBUS if better else REDIS]
        axis.barh(place, ratio - 1, 0.7, left=1, color=colour)
        text = f"{number(ratio)}×" if better else f"{number(1 / ratio)}× worse"
        _write(axis, text, (max(1, ratio), place), colour, (5, 0))
    axis.set_yticks(range(len(names)), names)
    axis.axvline(1, color=theme.text, linewidth=1)
    axis.set_xscale("log")
    axis.set_xticks([])
    axis.minorticks_off()
    axis.spines["bottom"].set_visible(False)


def logarithmic(axis: Any) -> None:
    axis.set_yscale("log")
    _write_plainly(axis.yaxis)


def from_zero(axis: Any) -> None:
    axis.set_ylim(bottom=0, auto=None)
    axis.yaxis.set_major_formatter("{x:,.0f}")


def _write_plainly(its: Any) -> None:
    """Plain numbers beside a logarithmic axis, more of them where it is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = its.get_view_interval()
    its.set_major_locator(LogLocator(subs=(1,) if high / low > 500 else (1, 2, 5)))
    its.set_minor_locator(NullLocator())
    its.set_major_formatter(FuncFormatter(lambda at, _: f"{at:,.0f}" if at >= 1 else f"{at:g}"))


def mark(axis: Any, places: list[float], names: list[str], base: int) -> None:
    """A logarithmic x axis that has these places, and no others."""
    axis.set_xscale("log", base=base)
    axis.set_xticks(places, names)
    axis.minorticks_off()
