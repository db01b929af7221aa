"""The connection of an async client, by itself."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import msgpack
import pytest

from tests.client.support import PATIENCE
from udsbus.client.aio.link import FULL_BYTES, Link
from udsbus.wire.framing import RESPONSE

pytestmark = pytest.mark.anyio


class Ends:
    """A link, and what it tells of."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.told: list[Any] = []
        self.over = anyio.Event()
        self.link = Link(ours, self.told.extend, self._ended)

    def _ended(self, why: str) -> None:
        self.told.append(why)
        self.over.set()

    async def end(self) -> None:
        with anyio.fail_after(PATIENCE):
            await self.over.wait()


@pytest.mark.parametrize("alone", [True, False])
async def test_who_sends_when_the_peer_is_gone_hears_of_it_later(alone: bool) -> None:
    """He is not ready for the end in the midst of sending; and what the peer has said before it
    went comes first."""
    ends = Ends()
    async with anyio.create_task_group() as tasks:
        ends.link.start(tasks.start_soon)
        said = [RESPONSE, 1, None, "last words"]
        ends.theirs.sendall(msgpack.packb(said))
        ends.theirs.close()
        for _ in range(3):
            assert not (ends.link.send(b"x", alone) and alone), "none of it has left"
            assert ends.told == []
        await ends.end()
    assert ends.told == [said, "the connection ended: Broken pipe"]
    assert ends.link.closed


async def test_a_peer_that_goes_while_much_waits_to_be_sent() -> None:
    ends = Ends()
    async with anyio.create_task_group() as tasks:
        ends.link.start(tasks.start_soon)
        ends.link.send(b"x" * 2 * FULL_BYTES, True)
        assert ends.link.full
        ends.theirs.close()
        with anyio.fail_after(PATIENCE):
            await ends.link.room()
        await ends.end()
    assert len(ends.told) == 1
    assert ends.told[0].startswith("the connection ended")
