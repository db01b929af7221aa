"""The main program's side: which upstream is current, and how that changes. Needs only udsbus."""

from __future__ import annotations

import contextlib
import re

from udsbus import Client, Entry

CURRENT = "proxy/upstream"
"""Key: the address that new connections go to, "host:port"."""
PREVIOUS = "proxy/previous"
"""Key: the address that it replaced, for `roll_back`."""
WORKERS = "proxy/workers"
"""Keys below: what each worker process of the proxy reports (plugin.py), gone when it is silent."""

Address = tuple[str, int]

_ADDRESS = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]*):([0-9]{1,5})")


def parse_address(value: object) -> Address:
    """(host, port) of "host:port". Raises ValueError for anything else."""
    if isinstance(value, str) and (match := _ADDRESS.fullmatch(value)):
        host, port = match[1], int(match[2])
        if 0 < port < 65536:
            return host, port
    raise ValueError(f"not an address like 127.0.0.1:8080: {value!r}")


def rotate(bus: Client, address: str) -> int:
    """Make `address` the current upstream and return the revision of that.

    When this returns, every connection that begins goes there. Raises ValueError for a malformed
    address, and Conflict when somebody else rotated at the same moment: look again, then decide.
    """
    return _replace(bus, bus.entry(CURRENT), address)


def roll_back(bus: Client) -> int:
    """Make the previous upstream the current one. Raises LookupError if there is none, Conflict."""
    replaced = bus.entry(CURRENT)  # read first: checking its revision guards what is read next
    previous = bus.get(PREVIOUS)
    if previous is None:
        raise LookupError("there is no upstream to roll back to")
    return _replace(bus, replaced, previous)


def _replace(bus: Client, replaced: Entry | None, address: str) -> int:
    parse_address(address)
    with bus.transaction() as change:
        change.check(CURRENT, 0 if replaced is None else replaced.revision)
        written = change.set(CURRENT, address)
        if replaced is not None:
            with contextlib.suppress(ValueError):  # no way back to what somebody wrote by mistake
                parse_address(replaced.value)
                change.set(PREVIOUS, replaced.value)
    return written.value
