"""The `udsbus` command: click commands, one file a group. No logic that a library user would want.

Commands are loaded when they are called, so that `udsbus get` does not pay for `udsbus serve`.
"""

from __future__ import annotations

from .main import main

__all__ = ["main"]
