"""What clients ask of the broker: a method for each request, and for what takes several."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ...errors import Conflict, InvalidRequest, RequestTimeout
from ...limits import TIMEOUT_MOST
from ...patterns import CLIENT_KEYS, RETAINED_KEYS, SCHEMA_KEYS
from .. import requests
from ..cache import CacheInfo
from ..requests import Attempt, Call, ClientInfo, Entry, Page
from .batches import AsyncPipeline, AsyncTransaction
from .session import AsyncSession

if TYPE_CHECKING:
    from datetime import datetime

    from ...errors import SchemaViolation
    from ..past import PastChange

T = TypeVar("T")

GIVE_WAY = 64
"""After so many reads without asking, others have their turn: cancellations, too."""
ROLLBACKS = 10
"""How often a rollback is tried when others write the same keys meanwhile."""


class AsyncMethods(AsyncSession):
    # --- values -----------------------------------------------------------------------------

    async def get(self, key: str, default: Any = None, *, fresh: bool = False) -> Any:
        """The value of `key`; `default` if it is absent.

        What was read before is not asked for again while it is still so, which the broker's version
        page tells. That is no older than what it would answer: docs/caching.md. A list, dict or set
        is made anew each time. `fresh`: ask in any case. So too `entry`, `exists`, `get_many`.
        """
        cache = self._cache
        if not fresh:
            try:
                word, number, value = cache.constants[key]
            except (KeyError, TypeError):  # not known; or no text, as the broker will say
                pass
            else:  # what is read most, without a call
                words = cache.words
                if words[word] == number and words[cache.life] == cache.alive:
                    cache.hits = hits = cache.hits + 1
                    if not hits % GIVE_WAY:
                        await self._give_way()
                    return value
            found = cache.look(key)
            if found is not None:
                value = found.decoded(default)
                cache.note(key, found, value)
                if not cache.hits % GIVE_WAY:
                    await self._give_way()
                return value
        return await self._call(cache.get(key, default))

    async def entry(self, key: str, *, fresh: bool = False) -> Entry | None:
        """The value of `key` with its revision and the time it has left; None if absent."""
        cache = self._cache
        found = None if fresh else cache.look(key)
        if found is None:
            return await self._call(cache.entry(key))
        if not cache.hits % GIVE_WAY:
            await self._give_way()
        return found.entry()

    async def exists(self, key: str, *, fresh: bool = False) -> bool:
        """Whether `key` is there."""
        cache = self._cache
        found = None if fresh else cache.look(key, for_value=False)
        if found is None:
            return await self._call(cache.exists(key))
        if not cache.hits % GIVE_WAY:
            await self._give_way()
        return found.revision != 0

    async def get_many(self, keys: Iterable[str], *, fresh: bool = False) -> dict[str, Any]:
        """The values of those of `keys` that are there, all at one revision."""
        wanted = requests.check_keys(keys)
        cache = self._cache
        if fresh:
            return await self._call(cache.get_many(wanted))
        looked = cache.look_for(wanted)
        values = looked.values
        if looked.missing or not wanted:
            asked: dict[str, Any] = await self._call(cache.get_many(looked.missing))
            values |= asked
        else:
            await self._give_way()
        if looked.compared and not cache.still_so(looked):
            # What was known may be of another revision than what was asked for.
            return await self._call(cache.get_many(wanted))
        return {key: values[key] for key in wanted if key in values}

    def cache_info(self) -> CacheInfo:
        """How often what was asked for was known already, and how much is remembered."""
        return self._cache.info()

    async def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        if_revision: int | None = None,
        if_changed: bool = False,
        ephemeral: bool = False,
        fence: int | None = None,
    ) -> int:
        """Write `key` and return the revision that holds the value.

        `ttl`: it expires after so many seconds; without, it stays, and an earlier time to live is
        gone. `if_revision`: only if the key is at that revision (0: only if it is absent), else
        Conflict is raised. `if_changed`: if the encoded bytes are the same, nothing is written,
        nobody is told, and the revision that holds them is returned. `ephemeral`: it goes when this
        client does, closed or dead; without, it stays, whosever it was. `fence`: only while the
        lock with this token is held (see `Lock.token`), else LockLost is raised.

        Raises UnsupportedValue for a value that cannot be sent; docs/values.md lists what can.
        """
        if ephemeral:
            self._stay()
        return await self._call(
            requests.set(key, value, ttl, if_revision, if_changed, ephemeral, fence)
        )

    async def set_many(self, values: Mapping[str, Any], *, ttl: float | None = None) -> int:
        """Write several keys atomically, at one revision, which is returned."""
        return await self._call(requests.set_many(values, ttl))

    async def delete(
        self, key: str, *, if_revision: int | None = None, fence: int | None = None
    ) -> bool:
        """Remove `key`. True if it was there. Raises Conflict and LockLost like `set`."""
        return await self._call(requests.delete(key, if_revision, fence))

    @overload
    async def increment(self, key: str, by: int = 1) -> int: ...
    @overload
    async def increment(self, key: str, by: float) -> float: ...
    async def increment(self, key: str, by: int | float = 1) -> int | float:
        """Add `by` to the number in `key` and return the sum. An absent key counts as 0.

        Atomic, however many processes do it. Raises InvalidRequest if `key` holds no number.
        """
        number: int | float = await self._call(requests.increment(key, by))
        return number

    async def expire(self, key: str, ttl: float) -> bool:
        """Let `key` expire in `ttl` seconds. False if it is absent."""
        return await self._call(requests.expire(key, ttl))

    async def persist(self, key: str) -> bool:
        """Take the time to live of `key` away. True if it had one."""
        return await self._call(requests.persist(key))

    async def ttl(self, key: str) -> float | None:
        """The seconds that `key` has left; None if it does not expire, or is absent."""
        return await self._call(requests.ttl(key))

    async def update(self, key: str, function: Callable[[Any], T], default: Any = None) -> T:
        """Replace the value of `key` by `function` of it, never losing another's update.

        `function` gets `default` if the key is absent. It is called again when somebody else was
        quicker, so it should do nothing but compute. A time to live is kept as it is, and an
        ephemeral key stays its client's. Returns the new value. Raises RequestTimeout, and has
        changed nothing, when somebody else was quicker each time until the time-out.
        """
        if not callable(function):
            raise InvalidRequest(f"update calls a function, not {type(function).__name__}")
        patience = self._patience
        until = monotonic() + patience
        while True:
            entry = await self.entry(key)
            value = function(default if entry is None else entry.value)
            revision = 0 if entry is None else entry.revision
            with contextlib.suppress(Conflict):
                await self._call(requests.set(key, value, if_revision=revision, keep=True))
                return value
            if monotonic() > until:
                raise RequestTimeout(
                    f"{key!r} was not updated: others wrote it each time within {patience:g} s"
                )

    async def keys(self, pattern: str = "**") -> list[str]:
        """The keys that match, in order.

        Fetched in pages: a key that is there all the while is there once, one that comes or goes
        meanwhile may or may not be.
        """
        return await self._pages(lambda after: requests.keys_page(pattern, after))

    async def items(self, pattern: str = "**") -> list[tuple[str, Any]]:
        """The (key, value) pairs that match, in order of keys; fetched like `keys`."""
        return await self._pages(lambda after: requests.items_page(pattern, after))

    async def count(self, pattern: str = "**") -> int:
        """How many keys match."""
        total = 0
        after: str | None = None
        while True:
            page = await self._call(requests.count_page(pattern, after))
            total, after = total + page.items, page.after
            if after is None:
                return total

    # --- many at once -----------------------------------------------------------------------

    def transaction(self, *, fence: int | None = None) -> AsyncTransaction:
        """Checks, reads and writes that happen together or not at all; a context manager.
        `fence`: not at all unless the lock with this token is held, see `set`."""
        return AsyncTransaction(self._call, self._stay, fence)

    def pipeline(self) -> AsyncPipeline:
        """Requests sent together, carried out one after the other; a context manager."""
        return AsyncPipeline(self._call_many, self._stay)

    # --- messages ---------------------------------------------------------------------------

    async def publish(
        self, topic: str, message: Any, *, wait: float | None = None, retain: bool = False
    ) -> int:
        """Send a message to whoever subscribes to `topic` now. Returns how many clients it was sent
        to; one with several subscriptions counts once.

        `retain`: keep it as the last message of its topic, for those who subscribe later. It is
        kept like a value is, through whatever a value survives. `wait`: while one of those who ask
        for it by the policy `block` does not keep up, wait, at most so many seconds. Raises
        Conflict when that is not enough; then nobody gets it.
        """
        if wait is None:
            return await self._call(requests.publish(topic, message, None, retain))
        requests.check_wait(wait)
        return await self._call_waiting(
            lambda left: requests.publish(topic, message, left, retain),
            min(wait, TIMEOUT_MOST),
            Attempt(),
        )

    async def retained(self, pattern: str = "**") -> dict[str, Any]:
        """The messages that are retained of the topics that match, by topic; fetched like `keys`.

        They stand below `$sys/retained/`, so `watch("$sys/retained/**")` tells what comes and goes.
        """
        found = await self.items(RETAINED_KEYS + pattern)
        return {key.removeprefix(RETAINED_KEYS): message for key, message in found}

    async def unretain(self, topic: str) -> bool:
        """Keep the last message of `topic` no longer. True if one was kept."""
        return await self._call(requests.unretain(topic))

    # --- the past ---------------------------------------------------------------------------

    async def history(
        self,
        pattern: str,
        *,
        limit: int | None = 100,
        after_revision: int = 0,
        since: datetime | float | None = None,
        client: str | None = None,
    ) -> list[PastChange]:
        """The last changes of the keys that match, the oldest first, and who made them.

        `limit`: at most so many; None for all. `after_revision`, `since` (a datetime, or seconds
        since 1970): only later ones. `client`: only those by clients of this name. It is read from
        the files of the bus, without the broker, and goes back as far as `udsbus serve --history`
        says. Raises Conflict if the broker keeps none.
        """
        from ...journal.history import Query
        from ..past import past_changes, seconds_of

        query = Query(pattern, after_revision, since=seconds_of(since) or 0.0, client=client)
        return await self._in_thread(past_changes, await self._state(), query, limit)

    async def rollback(
        self, pattern: str, *, revision: int | None = None, time: datetime | float | None = None
    ) -> int:
        """Let the keys that match hold again what they held at a revision, or at a time.

        That is a new write, one transaction, which the history shows like any other. A time to
        live does not come back. Returns how many keys were written or deleted. Raises
        MissedChanges if the history does not reach back so far, and Conflict if others write the
        same keys all the time.
        """
        from ..past import revision_at, rollback_to, seconds_of

        seconds = seconds_of(time)
        if (revision is None) == (seconds is None):
            raise InvalidRequest("a rollback needs either a revision or a time")
        state = await self._state()
        if revision is None:
            assert seconds is not None
            revision = await self._in_thread(revision_at, state, seconds)
        if type(revision) is not int or revision < 0:
            raise InvalidRequest(f"revision must be a whole number from 0, not {revision!r}")
        if revision > (last := await self.revision()):
            raise InvalidRequest(f"revision {revision} has not been yet; the bus is at {last}")
        for _ in range(ROLLBACKS - 1):
            needed = await self._in_thread(rollback_to, state, pattern, revision)
            if not needed.values:
                return 0
            with contextlib.suppress(Conflict):
                await self._call(needed.call())
                return len(needed.values)
        needed = await self._in_thread(rollback_to, state, pattern, revision)
        await self._call(needed.call())
        return len(needed.values)

    async def snapshot(self, path: str | os.PathLike[str]) -> int:
        """Write all that the bus holds now into a new file at `path`, and return its revision.

        It is an SQLite database like the bus's own (docs/journal.md), with the history, and
        `udsbus serve --from PATH` begins a bus with it. The broker goes on meanwhile. Raises
        Conflict if there is a file already or the broker keeps nothing, AccessDenied if it cannot
        be written.
        """
        from ...journal.snapshot import take_snapshot
        from ...wire.values import decode

        into = os.path.abspath(os.path.expanduser(path))
        return await self._in_thread(take_snapshot, await self._state(), into, decode)

    async def _state(self) -> str:
        """The state directory of the bus."""
        state: str | None = (await self.info())["state"]
        if state is None:
            raise Conflict(f"the broker at {self.address} keeps no history (durability none)")
        return state

    # --- rules ------------------------------------------------------------------------------

    async def set_schema(self, pattern: str, schema: Mapping[str, Any] | bool | None) -> int:
        """Refuse from now on to write a value that does not match, whoever writes: every write of a
        key that matches `pattern` raises SchemaViolation if its value does not match `schema`.

        `schema` is a JSON Schema; None: none any more. It stays like any value does, and setting
        the same again does nothing. What is there already stays as it is: see `violations`.
        Returns the revision that holds it. Raises InvalidRequest for what is no schema, and
        MissingExtra if the broker runs without the extra `schema`.
        """
        return await self._call(requests.set_schema(pattern, schema))

    async def schemas(self) -> dict[str, Any]:
        """The schemas that there are, by pattern."""
        found = await self.items(f"{SCHEMA_KEYS}**")
        return {key.removeprefix(SCHEMA_KEYS): schema for key, schema in found}

    async def violations(
        self, pattern: str, schema: Mapping[str, Any] | bool | None = None
    ) -> list[SchemaViolation]:
        """What is there now that does not match the schema of `pattern`, or `schema`, which it may
        get. Checked in this process, page by page. Raises Conflict if there is no schema, and
        MissingExtra without the extra `schema` here.
        """
        from ..schemas import violations

        if schema is None:
            schema = (await self.schemas()).get(pattern)
            if schema is None:
                raise Conflict(f"there is no schema for {pattern!r}; set_schema sets one")
        items = await self._pages(lambda after: requests.raw_items_page(pattern, after))
        return await self._in_thread(violations, items, pattern, schema)

    # --- clients ----------------------------------------------------------------------------

    async def clients(self) -> list[ClientInfo]:
        """Who is connected to the bus now, this client too; the first to come first.

        They stand below `$sys/clients/`, so `watch("$sys/clients/*")` tells who comes and goes.
        """
        found = [
            ClientInfo.read(key.removeprefix(CLIENT_KEYS), about)
            for key, about in await self.items(f"{CLIENT_KEYS}*")
        ]
        return sorted(found, key=lambda client: (client.since, client.session))

    async def kick(self, session: str) -> bool:
        """End a client's connections, and remove what belongs to it; `session` is as `clients`
        tells it. False: there was none. It may come back, as a new one."""
        return await self._call(requests.kick(session))

    # --- about ------------------------------------------------------------------------------

    async def ping(self) -> float:
        """Ask whether the broker is there. Returns the seconds that it took to answer."""
        began = perf_counter()
        await self._call(requests.ping())
        return perf_counter() - began

    async def revision(self) -> int:
        """The revision of the bus: how many writes it has seen."""
        cache = self._cache
        known = cache.revision()
        if known is None:
            return await self._call(requests.ping())
        if not cache.hits % GIVE_WAY:
            await self._give_way()
        return known

    async def info(self) -> dict[str, Any]:
        """What the broker is and does: pid, version, address, uptime (seconds), revision,
        connections, counters, limits."""
        return await self._call(requests.info())

    # --- inside -----------------------------------------------------------------------------

    async def _pages(self, page_after: Callable[[Any], Call[Page[list[T]]]]) -> list[T]:
        found: list[T] = []
        after: Any = None
        while True:
            page = await self._call(page_after(after))
            found += page[0]  # not by name: some pages are as they came
            after = page[1]
            if after is None:
                return found
