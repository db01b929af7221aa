"""A table as it is in the JSON file, for those who draw it."""

from __future__ import annotations

from typing import Any

from ..results import REDIS, UDSBUS


class NothingToDraw(Exception):
    """A table has not the rows that are asked for."""


class Figures:
    """The figures of one table, by group, name and side."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.title: str = table["title"]
        self.names = {REDIS: table["reference"], UDSBUS: table["own"]}
        self._rows = {(row["group"], row["name"]): row for row in table["rows"]}

    def groups(self, name: str) -> list[str]:
        """Those that have figures of that name for both sides, in the table's order."""
        return [
            group
            for (group, of), row in self._rows.items()
            if of == name and len(row["median"]) == 2
        ]

    def median(self, group: str, name: str, side: str) -> float:
        found: float = self._row(group, name)["median"][side]
        return found

    def span(self, group: str, name: str, side: str) -> tuple[float, float]:
        """The least and the most of all rounds."""
        samples = self._row(group, name)["samples"][side]
        return min(samples), max(samples)

    def _row(self, group: str, name: str) -> Any:
        try:
            return self._rows[group, name]
        except KeyError:
            raise NothingToDraw(group, name) from None


def count_of(group: str) -> int:
    """The number that a group's name begins with: "1,000 keys" is 1000."""
    return int(group.split()[0].replace(",", ""))
