"""What a sync client's user holds: watches and subscriptions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

from ..limits import SUBSCRIPTION_BACKLOG, WATCH_BACKLOG
from ..wire.values import decode
from .followed import Ask, FollowedChanges, FollowedMessages, Message, What, belong
from .follower import Follower
from .subscribing import RawMessage, SubscriptionCore
from .watching import Step, Told, WatchCore

if TYPE_CHECKING:
    from .base import Base


class Watch(FollowedChanges[What], Follower[Told, What], Generic[What]):
    """The changes of the keys that match a pattern, in order, without a gap.

    Iterate over it, or call `get`. A lost connection is taken up again by itself; when changes
    were missed meanwhile, the present state follows (`kind == "present"`, and `deleted` for keys
    that are gone) and `started_over` counts it. When you take changes more slowly than they come,
    you get the newest of each key and `skipped` counts the others. So you do when this process
    does not take them from the broker: `conflated` counts how often either has begun.

    A `Watch[Change | CaughtUp]` is one that begins with the initial state: `CaughtUp` comes when
    all of it has been told, also when that is told once more. docs/watching.md says more.
    """

    def __init__(
        self,
        client: Base,
        core: WatchCore,
        conflate: bool,
        on_changes: Callable[[Watch[What], int], None] | None,
        read: Callable[[bytes], Any] = decode,
    ) -> None:
        super().__init__(client, core, WATCH_BACKLOG, conflate, read)
        self._on_items = on_changes

    def get_transaction(self, timeout: float | None = None) -> list[What]:
        """All changes of the next revision that has any for this watch; empty when none comes
        within `timeout` seconds or the watch is closed.

        Of an initial state, and of one told after changes were missed, it is what has come of it so
        far; `CaughtUp` comes alone. Changes that were left out for newer ones are missing from
        theirs. Raises like `get`; the other changes of that revision come with the next call.
        """
        group = self._next_of(partial(self._backlog.take_together, belong), timeout)
        return self._read_together(group or [])

    @property
    def _heard(self) -> float:
        return self._events.heard

    # --- called by whoever reads the event connection -----------------------------------------

    def begin(self, ask: Ask, same_bus: bool) -> None:
        self._lateness.connected()
        call = self._core.start(session=self._client.session, same_bus=same_bus)
        ask(call, partial(self._go_on, ask, self._core.started))

    def _go_on(self, ask: Ask, read: Callable[[Any], Step], answer: Any) -> None:
        step = read(answer)
        self._put(step.told)
        if step.next is not None:
            ask(step.next, partial(self._go_on, ask, self._core.listed))
        elif self._core.live:
            self._has_started()

    def notified(self, kind: str, params: list[Any]) -> None:
        told = self._core.notified(kind, params)
        if told:
            self._put(told)
        else:
            self._lateness.notified(kind, params)


class Subscription(FollowedMessages, Follower[RawMessage, Message]):
    """The messages published to the topics that match, from now on; before them, what was retained.

    Iterate over it, or call `get`.

    Messages are not kept by the broker, but for the last one of a topic that was published with
    `retain`. What is published while the connection is lost is missed, and `interruptions` counts
    how often that may have happened; what was retained meanwhile is told afterwards. When you take
    messages more slowly than they come, the oldest are dropped: see `dropped`. When this process
    does not take them from the broker, its `policy` decides.
    """

    def __init__(
        self,
        client: Base,
        core: SubscriptionCore,
        on_messages: Callable[[Subscription, int], None] | None = None,
    ) -> None:
        super().__init__(client, core, SUBSCRIPTION_BACKLOG)
        self._on_items = on_messages
