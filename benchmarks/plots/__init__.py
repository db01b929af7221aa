"""Results as pictures: SVGs for light and for dark pages, drawn from the JSON results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .pictures import PICTURES, Picture
from .style import THEMES, save
from .table import Figures, NothingToDraw


def draw(tables: Iterable[dict[str, Any]], directory: Path) -> list[Picture]:
    """Write `NAME.svg` and `NAME-dark.svg` for all pictures of which there are rows."""
    import matplotlib

    directory.mkdir(parents=True, exist_ok=True)
    by_name = {table["name"]: Figures(table) for table in tables}
    drawn = []
    for picture in PICTURES:
        figures = by_name.get(picture.table)
        if figures is None:
            continue
        with contextlib.suppress(NothingToDraw):
            for theme in THEMES:
                with matplotlib.rc_context(theme.settings):
                    path = directory / f"{picture.name}{theme.ending}.svg"
                    save(picture.draw(theme, figures, picture.title), path)
            drawn.append(picture)
    return drawn
