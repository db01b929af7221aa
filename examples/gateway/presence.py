"""Who is connected, at any gateway of the bus, and what they hold. Needs only udsbus.

    users/ann      the keys that ann holds; it is there for as long as she has a connection
    users/ann/1    the gateway that has the first of her three places; 2 and 3 likewise (ephemeral)
    seats/12       "ann": a key that she holds

Why this is right, in all races and whenever a gateway is killed:

- Each step is one transaction (to enter, to hold, to release), so nobody dies between two steps.
- "She has no connection" is "her three places are free", and a transaction can check that. So what
  releases her things is refused when she has just come back, and when another has done it already.
- A place is ephemeral: that of a killed gateway goes by itself, and all gateways are told. Each
  looks again after every end of a place, however that came; so somebody looks after the last one.
  The first of them releases, the others are refused.

A semaphore of three would count the places too, but no transaction could check that all are free.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import udsbus

PLACES = 3
"""Connections that a user may have."""


class Place(NamedTuple):
    """What one connection of a user has of the bus."""

    user: str
    key: str
    revision: int
    """That wrote the key: another who has the place later has a higher one."""


def places(user: str) -> list[str]:
    return [f"users/{user}/{number}" for number in range(1, PLACES + 1)]


class Presence:
    """One gateway's view. Every method may raise what requests raise, see `udsbus.Client`."""

    def __init__(self, bus: udsbus.Client, gateway: str) -> None:
        self._bus = bus
        self._gateway = gateway

    def enter(self, user: str) -> Place | None:
        """A connection of hers begins. None: she had all her places at one moment."""
        while True:
            here = self._bus.entry(f"users/{user}")
            taken = self._bus.get_many(places(user))
            if len(taken) == PLACES:
                return None
            place = next(key for key in places(user) if key not in taken)
            with contextlib.suppress(udsbus.Conflict):  # somebody was quicker: look again
                with self._bus.transaction() as entering:
                    entering.set(place, self._gateway, if_revision=0, ephemeral=True)
                    if here is None:
                        entering.set(f"users/{user}", [], if_revision=0)
                    else:  # she stays who she is, with what she holds
                        entering.check(f"users/{user}", here.revision)
                assert entering.revision is not None
                return Place(user, place, entering.revision)

    def hold(self, place: Place, key: str) -> bool:
        """Let her hold a key until her last connection is gone. False: somebody holds it.

        Raises Conflict if the place is hers no longer.
        """
        while True:
            here = self._bus.entry(f"users/{place.user}")
            held, revision = ([], 0) if here is None else (here.value, here.revision)
            try:
                with self._bus.transaction() as holding:
                    holding.check(place.key, place.revision)
                    holding.set(key, place.user, if_revision=0)
                    holding.set(f"users/{place.user}", [*held, key], if_revision=revision)
                return True
            except udsbus.Conflict as conflict:
                if conflict.details["key"] == key:
                    return False
                if conflict.details["key"] == place.key:
                    raise

    def leave(self, place: Place) -> None:
        """A connection of hers has ended."""
        self._bus.delete(place.key, if_revision=place.revision)
        self._release_if_gone(place.user)

    def tend(self) -> None:
        """Release what the users of other gateways held, however these ended. For ever."""
        # The initial state, because there may be users whom nobody was left to tend.
        with self._bus.watch("users/**", initial=True) as changes:
            for change in changes:
                if isinstance(change, udsbus.Change) and change.kind not in ("created", "updated"):
                    self._release_if_gone(change.key.split("/")[1])

    def _release_if_gone(self, user: str) -> None:
        here = self._bus.entry(f"users/{user}")
        if here is None:
            return
        # Refused: she has a place, or another gateway was quicker. Or she came meanwhile, and has
        # left again: whoever tends is told of that, and looks again.
        with contextlib.suppress(udsbus.Conflict), self._bus.transaction() as releasing:
            for place in places(user):
                releasing.check(place, 0)
            for key in here.value:
                releasing.delete(key)
            releasing.delete(f"users/{user}", if_revision=here.revision)
