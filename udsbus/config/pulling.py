"""What the bus holds, as a file: the reverse of a push."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..patterns import check_name
from .files import pattern_of
from .formats import Format, written

if TYPE_CHECKING:
    from ..client.sync import Client


def pull(client: Client, key: str, form: Format, *, split: bool) -> bytes | None:
    """The content of a file that holds the value of `key`, or with `split` those right below it.
    None: there are none.

    Raises UnsupportedValue, naming the place, for what the format lacks, MissingExtra, and what a
    client does.
    """
    check_name(key)
    if split:
        found = dict(client.items(pattern_of(key, split)))
        value = {name.removeprefix(f"{key}/"): item for name, item in found.items()}
        return written(value, form, key) if value else None
    entry = client.entry(key)
    return None if entry is None else written(entry.value, form, key)
