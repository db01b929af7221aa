"""Starting Python processes that find this very package."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path


def python() -> tuple[str, ...]:
    """What begins a command; -P: without the directory that the program happens to be in."""
    return sys.executable, "-P"


def environment() -> dict[str, str] | None:
    """For a Python that shall find this very package: ours, with its place if need be."""
    place = str(Path(__file__).parents[1])
    if place in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        return None
    places = [place, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
