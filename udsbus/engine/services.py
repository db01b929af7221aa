"""Who serves what: the keys by which those who call find workers.

A worker is a process with a socket of its own, and a call goes to it directly; the bus only knows
who there is. Each worker is a key that belongs to its session, so it goes with it. The key of the
service changes with each worker that comes or leaves, which whoever calls compares before each
call, in the version page. It does not when a worker dies: those who are connected to it see that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .. import messages as m
from ..errors import InvalidRequest
from ..patterns import SERVICE_KEYS, WORKER_KEYS, check_writable
from ..terms import DELETED
from .keyspace import Entry
from .rules import Codec, check_value


class Keys(Protocol):
    """What this needs of the engine."""

    revision: int

    def hold(self, key: str, value: bytes, session: str | None, origin: int) -> int: ...
    def let_go(self, key: str, origin: int, kind: str) -> None: ...
    def entry(self, key: str) -> Entry | None: ...
    def session_of(self, origin: int, what: str) -> str: ...


class Services:
    def __init__(self, keys: Keys, codec: Codec) -> None:
        self._keys = keys
        self._codec = codec
        self.handlers: dict[type[m.Command], Callable[..., Any]] = {
            m.Offer: self._offer,
            m.Withdraw: self._withdraw,
        }

    def _offer(self, origin: int, now: float, service: str, worker: str, about: bytes) -> int:
        key = self._key(service, worker)
        session = self._keys.session_of(origin, "a worker of a service")
        check_value(key, about)
        before = self._keys.entry(key)
        if before is not None and before[0] == about:
            return before[1]
        self._keys.hold(key, about, session, origin)
        return self._tell(service, origin)

    def _withdraw(self, origin: int, now: float, service: str, worker: str) -> bool:
        key = self._key(service, worker)
        if self._keys.entry(key) is None:
            return False
        self._keys.let_go(key, origin, DELETED)
        self._tell(service, origin)
        return True

    def _tell(self, service: str, origin: int) -> int:
        number = self._codec.encode(self._keys.revision)
        return self._keys.hold(SERVICE_KEYS + service, number, None, origin)

    def _key(self, service: str, worker: str) -> str:
        check_writable(service, "service")
        if not worker or "/" in worker or "*" in worker:
            raise InvalidRequest(f"a worker's name has neither '/' nor '*' in it, not {worker!r}")
        return f"{WORKER_KEYS}{service}/{worker}"
