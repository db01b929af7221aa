"""What a measure hands back: tables of rows, each with one figure per round for either side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from statistics import median
from typing import Any, NamedTuple

REDIS = "redis"
UDSBUS = "udsbus"
BARE = "bare"


class Goal(NamedTuple):
    """What was promised: a bound on udsbus's figure, or on its ratio to the reference's."""

    bound: float
    text: str
    at_least: bool = False
    of_ratio: bool = True

    def met(self, row: Row) -> bool:
        figure = row.ratio if self.of_ratio else row.udsbus
        return figure >= self.bound if self.at_least else figure <= self.bound


class Row:
    """One figure, measured once a round for the reference and for udsbus."""

    def __init__(self, group: str, name: str, unit: str, goal: Goal | None = None) -> None:
        self.group = group
        self.name = name
        self.unit = unit
        self.goal = goal
        self.samples: dict[str, list[float]] = {}
        """Side → one figure a round."""

    def add(self, side: str, figure: float) -> None:
        self.samples.setdefault(side, []).append(figure)

    def figure(self, side: str) -> float:
        """The median over the rounds."""
        return median(self.samples[side])

    @property
    def udsbus(self) -> float:
        return self.figure(UDSBUS)

    @property
    def ratio(self) -> float:
        """udsbus's median divided by the reference's; infinite when that is 0 or there is none."""
        reference = self.figure(REDIS) if REDIS in self.samples else 0.0
        return self.udsbus / reference if reference else float("inf")

    def as_json(self) -> dict[str, Any]:
        row = {
            "group": self.group,
            "name": self.name,
            "unit": self.unit,
            "samples": self.samples,
            "median": {side: self.figure(side) for side in self.samples},
            "ratio": self.ratio if isfinite(self.ratio) else None,
        }
        if self.goal is not None:
            row["goal"] = {**self.goal._asdict(), "met": self.goal.met(self)}
        return row


class Table:
    """The rows of one measure, in the order in which they were first named."""

    def __init__(
        self, name: str, title: str, *, reference: str = "Redis", own: str = "udsbus"
    ) -> None:
        self.name = name
        self.title = title
        self.reference = reference
        """What the side `REDIS` is in this table, for people."""
        self.own = own
        """What the side `UDSBUS` is."""
        self.notes: list[str] = []
        self._rows: dict[tuple[str, str], Row] = {}

    @property
    def rows(self) -> Iterable[Row]:
        return self._rows.values()

    def row(self, group: str, name: str, unit: str, goal: Goal | None = None) -> Row:
        """The row of that group and name, made at the first call."""
        return self._rows.setdefault((group, name), Row(group, name, unit, goal))

    def find(self, group: str, name: str) -> Row:
        return self._rows[group, name]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "reference": self.reference,
            "own": self.own,
            "notes": self.notes,
            "rows": [row.as_json() for row in self.rows],
        }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of figures that are in order already."""
    rank = -int(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(rank, 1) - 1]
