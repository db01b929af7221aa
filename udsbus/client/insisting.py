"""What has to be carried out whatever happens, because a call was interrupted whose outcome nobody
knows: by a thread of its own, which no signal interrupts, over the lane of what was broken off. So
the broker reads nothing more of that.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import BrokerUnavailable, Error, ProtocolError, RequestTimeout, StorageFailed
from ..limits import RECONNECT_FIRST, RECONNECT_MOST
from . import requests
from .connection import Connection, ConnectionEnded
from .requests import Call

if TYPE_CHECKING:
    from .session import Session

AGAIN = BrokerUnavailable, RequestTimeout, ProtocolError, StorageFailed, ConnectionEnded
"""After these it is tried again; other errors say that there is nothing to be done."""


def make_sure(session: Session, lost: Connection | None, call: Call[Any]) -> None:
    """Until the broker has answered, whatever; or nobody holds the client any more, or it is
    closed, with which all that belongs to it goes anyway."""
    reference = weakref.ref(session)
    threading.Thread(
        target=_make_sure, args=(reference, lost, call), name="udsbus-make-sure", daemon=True
    ).start()


def _make_sure(reference: weakref.ref[Session], lost: Connection | None, call: Call[Any]) -> None:
    again = 0
    while (session := reference()) is not None and not session._closed:
        try:
            lost = session._reconnect(lost)
            again = again or lost.next_msgid()
            try:
                lost.request(call, session.timeout, again)
            finally:
                lost.close()
            return
        except AGAIN:
            pass
        except Error:
            return  # it was never granted, for the same reason
        del session
        time.sleep(RECONNECT_MOST)


def put_right(
    session: Session,
    lost: Connection | None,
    call: Call[Any],
    again: int,
    then: Callable[[Any], Call[Any] | None] | None,
) -> None:
    """Until it is done, also when the client is closed. `again`: the msgid of `call`, if it was
    sent before; `then` makes of its result what is to be carried out after it, if anything.

    The program ends only when that is done, but it does not wait for longer than a request may take
    then, if there is no broker any more.
    """
    threading.Thread(
        target=_put_right, args=(session, lost, call, again, then), name="udsbus-make-sure"
    ).start()


def _put_right(
    session: Session,
    lost: Connection | None,
    call: Call[Any],
    again: int,
    then: Callable[[Any], Call[Any] | None] | None,
) -> None:
    ends_at: float | None = None
    delay = RECONNECT_FIRST
    while True:
        try:
            lost = session._connect(lost, closing=True)
            try:
                again = again or lost.next_msgid()
                result = call.read(lost.request(call, session.timeout, again))
                following = None if then is None else then(result)
                if following is not None:
                    call, again, then = following, lost.next_msgid(), None
                    lost.request(call, session.timeout, again)
                if session._closed:  # this has brought its session back
                    with contextlib.suppress(Error, ConnectionEnded):
                        lost.request(requests.goodbye(), session.timeout)
            finally:
                lost.close()
            return
        except AGAIN:
            pass
        except Error:
            return
        now = time.monotonic()
        if ends_at is None and not threading.main_thread().is_alive():
            ends_at = now + session.timeout
        if ends_at is not None and now > ends_at:
            return
        time.sleep(delay)
        delay = min(2 * delay, RECONNECT_MOST)
