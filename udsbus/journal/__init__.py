"""The journal: what a turn has changed, made safe before anyone can see it, and read again.

The turn knows it as a `Journal`: `MemoryJournal` keeps nothing, `FileJournal` writes segments into
a `StateDirectory`. `Recovery` reads them when a broker starts.
"""

from .directory import StateDirectory
from .journal import Durability, FileJournal, Journal, MemoryJournal
from .records import Header
from .records import Turn as JournalTurn
from .recovery import Recovery

__all__ = [
    "Durability",
    "FileJournal",
    "Header",
    "Journal",
    "JournalTurn",
    "MemoryJournal",
    "Recovery",
    "StateDirectory",
]
