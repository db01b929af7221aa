"""The journal: what a turn has changed, made safe before anyone can see it.

For now the state lives in memory only, and `MemoryJournal` stands where the file will be.
"""

from .journal import Journal, MemoryJournal

__all__ = ["Journal", "MemoryJournal"]
