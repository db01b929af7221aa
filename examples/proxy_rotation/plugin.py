"""A plugin for proxy.py that asks the bus where each connection shall go.

    python -m proxy --num-workers 4 --local-executor 0 \\
        --plugins examples.proxy_rotation.plugin.RotatingUpstream

The bus is the one that `UDSBUS_SOCKET` names, else this user's default bus.

proxy.py makes a plugin object for each connection, in whichever of its processes serves it, and
calls `before_upstream_connection` when the request is read and nothing is connected yet. That is
the moment to ask.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading

from proxy.http.exception import HttpRequestRejected
from proxy.http.parser import HttpParser
from proxy.http.proxy import HttpProxyBasePlugin

import udsbus

from .rotation import CURRENT, WORKERS, Address, parse_address

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that a request waits for a broker that has gone: a quick restart is not even noticed."""
BEAT = 1.0
"""Seconds between heartbeats."""


class RotatingUpstream(HttpProxyBasePlugin):
    """Sends each connection, an HTTP request or a CONNECT tunnel, to the current upstream."""

    def before_upstream_connection(self, request: HttpParser) -> HttpParser:
        try:
            host, port = this_worker().upstream()
        except (LookupError, udsbus.Error) as error:
            raise HttpRequestRejected(503, b"No Upstream Known") from error
        request.host, request.port = host.encode(), port
        # One request for each connection, whatever the client would like, so that the next one asks
        # anew: proxy.py cannot change the server under a connection that stays open.
        request.add_header(b"Connection", b"close")
        return request


class Worker:
    """What one process of the proxy knows of the bus. Raises BrokerUnavailable if there is none."""

    def __init__(self) -> None:
        self._bus = self._connect()
        self._away = False
        """The broker did not answer the last time."""
        self._last_good: Address | None = None
        self._trouble: str | None = None
        """Why connections do not go where the bus says."""
        threading.Thread(target=self._report, daemon=True).start()

    def upstream(self) -> Address:
        """The upstream of this moment; without one, the last good one. Raises LookupError if there
        was none yet."""
        try:
            if self._away:
                # Our client would wait for the broker to come back; a new one fails at once. So
                # only the first request of an outage waits.
                self._connect().close()
            value = self._bus.get(CURRENT)
            self._away = False
            if value is None:
                return self._stay("the bus has no upstream: not set yet, or the broker is new")
            address = parse_address(value)
        except ValueError as error:  # malformed, or not even decodable
            return self._stay(f"refused: {error}")
        except udsbus.Error as error:
            self._away = True
            return self._stay(f"no bus: {error}")
        self._last_good, self._trouble = address, None
        return address

    def _stay(self, why: str) -> Address:
        if self._trouble != why:
            log.warning("staying with %s: %s", self._last_good, why)
        self._trouble = why
        if self._last_good is None:
            raise LookupError(why)
        return self._last_good

    def _report(self) -> None:
        """Heartbeats. And a look at each change, so that the last good upstream is not an old one
        where no connection came for a while."""
        while True:
            with contextlib.suppress(udsbus.Error), self._bus.watch(CURRENT) as changes:
                while True:
                    with contextlib.suppress(LookupError):
                        self.upstream()
                    state = {"upstream": self._last_good, "trouble": self._trouble}
                    self._bus.set(f"{WORKERS}/{os.getpid()}", state, ttl=3 * BEAT)
                    changes.get(timeout=BEAT)

    @staticmethod
    def _connect() -> udsbus.Client:
        return udsbus.connect(name=f"proxy worker {os.getpid()}", timeout=PATIENCE)


_workers: dict[int, Worker] = {}
_making = threading.Lock()


def this_worker() -> Worker:
    """The one of this process, made at its first connection: a plugin is told of nothing sooner."""
    with _making:
        pid = os.getpid()
        if pid not in _workers:
            _workers[pid] = Worker()
        return _workers[pid]
