"""Memory that has been freed is kept for what comes next."""

from __future__ import annotations

from typing import Final

_MOST: Final = 31 * 1024 * 1024
"""glibc does not learn from blocks of 32 MiB and more."""
_kept = 0


def keep_freed(size: int) -> None:
    """To be called before something of `size` bytes is handled, of which there will be copies.

    glibc returns freed memory to the system when more of it lies at the end of the heap than twice
    the largest block that it has seen freed so far. With copies of a MiB that can be each time, and
    each time the system makes the same pages anew, zeroed one by one: half of the time of a `set`.
    It learns from a block that was never touched, too (mallopt(3), M_MMAP_THRESHOLD): the heap then
    keeps up to eight times `size`, 62 MiB at most. Other allocators do not mind.
    """
    global _kept
    wanted = min(4 * size, _MOST)
    if wanted > _kept:
        _kept = wanted
        bytes(wanted)  # zeros from the system, which it does not make before one looks
