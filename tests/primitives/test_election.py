"""One leader at a time, and all know who."""

from __future__ import annotations

import os
import signal

import pytest

import udsbus
from tests.client.support import PATIENCE, Child, Task
from tests.harness import BrokerProcess, wait_until
from udsbus import Client, InvalidRequest, Leader, LockLost, NotHeld, UnsupportedValue

from .conftest import Guarded


def wait_for_candidates(client: Client, number: int) -> None:
    wait_until(
        lambda: sum(len(lock.waiting) for lock in client.locks("elections/a")) == number,
        f"{number} to campaign",
    )


def test_one_leads_and_the_next_follows(client: Client, other: Client) -> None:
    mine, theirs = client.election("a"), other.election("a")
    assert mine.leader() is None
    assert mine.campaign("me")
    assert theirs.leader() == Leader(client.session, "me", mine.token)
    assert (mine.is_leader(), theirs.is_leader()) == (True, False)
    assert theirs.campaign("they", timeout=0) is False
    assert theirs.campaign("they", timeout=0.05) is False
    task = Task(lambda: theirs.campaign("they"))
    wait_for_candidates(client, 1)
    assert mine.campaign("me, elsewhere"), "who leads tells something new"
    assert theirs.leader() == Leader(client.session, "me, elsewhere", mine.token)
    before = mine.token
    mine.resign()
    assert task.result() is True
    assert mine.leader() == Leader(other.session, "they", theirs.token)
    assert theirs.token > before
    theirs.resign()
    assert client.locks("elections/**") + client.keys("elections/**") == []


def test_who_observes_sees_each(client: Client, other: Client) -> None:
    with client.election("a").observe() as leaders:
        assert leaders.get() is None
        with other.election("a").leading("they") as leader:
            assert leaders.get(timeout=PATIENCE) == leader
            assert leader.session == other.session
            with client.election("a").observe() as late:
                assert late.get() == leader
                with pytest.raises(TimeoutError):
                    late.get(timeout=0.01)
        assert leaders.get(timeout=PATIENCE) is None
        with pytest.raises(TimeoutError):
            leaders.get(timeout=0)
        other.election("a").campaign(1)
        assert [next(iter(leaders))] == [other.election("a").leader()]
    with pytest.raises(EOFError):
        leaders.get()
    assert list(leaders) == []
    other.election("a").resign()


def test_a_leader_that_dies(client: Client, bus: BrokerProcess, other: Client) -> None:
    def lead() -> None:
        udsbus.connect(bus.address, timeout=PATIENCE).election("a").campaign("first")
        signal.pause()

    child = Child(lead)
    with client.election("a").observe() as leaders:
        while (leader := leaders.get(timeout=PATIENCE)) is None:
            pass
        assert leader.value == "first"
        task = Task(lambda: other.election("a").campaign("second"))
        wait_for_candidates(client, 1)
        child.kill()
        assert task.result()
        seen = [leaders.get(timeout=PATIENCE)]
        if seen == [None]:
            seen.append(leaders.get(timeout=PATIENCE))
        assert seen[-1] is not None
        assert seen[-1].value == "second"
    other.election("a").resign()


def test_who_lost_it_finds_out(client: Client, other: Client) -> None:
    mine = client.election("a")
    mine.campaign()
    token = mine.token
    other.kick(client.session)
    wait_until(lambda: other.election("a").leader() is None, "the end of it")
    with pytest.raises(LockLost):
        client.set("state", 1, fence=token)
    with pytest.raises(LockLost):
        mine.campaign("again")
    with pytest.raises(LockLost):
        mine.resign()
    for method in (mine.resign, lambda: mine.token):
        with pytest.raises(NotHeld):
            method()
    with mine.leading():
        assert mine.is_leader()


def test_what_cannot_be_told(client: Client) -> None:
    election = client.election("a")
    with pytest.raises(UnsupportedValue):
        election.campaign(object())
    assert client.locks("elections/**") == [], "it does not lead, then"
    with pytest.raises(InvalidRequest):
        election.campaign(timeout=-1)


def test_it_outlives_the_broker(guarded: Guarded) -> None:
    pair, client, other = guarded
    election = client.election("a")
    with election.leading("me"), other.election("a").observe() as leaders:
        leader = leaders.get()
        assert leader is not None
        broker, _ = pair.ready(client)
        os.kill(broker, signal.SIGKILL)
        assert other.election("a").leader() == leader
        client.set("state", 1, fence=election.token)
    assert other.election("a").leader() is None
