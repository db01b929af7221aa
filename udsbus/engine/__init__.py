"""State and its rules: a deterministic state machine without I/O, clock or threads."""

from .engine import Engine

__all__ = ["Engine"]
