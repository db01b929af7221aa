"""A broker and its standby: whichever dies, the bus goes on."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pytest

import udsbus
from tests.harness import RawClient, wait_until
from tests.pairs import Pair, is_gone
from udsbus import Client, StorageFailed
from udsbus.journal.repair import check

from .support import Command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pair needs pidfds, of Linux")


@pytest.fixture
def pair(address: str, runtime: Path) -> Iterator[Pair]:
    pair = Pair(address, runtime / "state", "--hung-after", "1.5")
    yield pair
    pair.close()


@pytest.fixture
def client(pair: Pair) -> Iterator[Client]:
    with udsbus.connect(pair.address) as client:
        yield client


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_the_standby_serves_when_the_broker_dies_or_hangs(
    pair: Pair, client: Client, how: signal.Signals
) -> None:
    broker, standby = pair.ready(client)
    client.set("a", 1)
    client.set("lease", 1, ttl=1000)
    with client.watch("**") as watch:
        os.kill(broker, how)
        assert client.increment("a") == 2
        assert client.info()["pid"] == standby
        assert is_gone(broker)
        change = watch.get(timeout=20)
        assert change is not None
        assert (change.key, change.value, watch.started_over) == ("a", 2, 0)
    assert client.ttl("lease") is not None
    assert pair.ready(client)[0] == standby
    why = "has said nothing for" if how == signal.SIGSTOP else "is dead"
    pair.told(f"the broker, pid {broker}, {why}")
    pair.told(f"pid {standby}, takes over")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_broker_has_a_new_standby_when_that_dies_or_hangs(
    pair: Pair, client: Client, how: signal.Signals
) -> None:
    """Nobody who is connected notices."""
    broker, standby = pair.ready(client)
    with RawClient(pair.address) as raw:
        raw.call("set", "a", b"\x01")
        os.kill(standby, how)
        wait_until(lambda: client.info()["standby"] not in (standby, None), "another standby")
        assert raw.call("get", "a") == b"\x01"
    assert client.info()["pid"] == broker
    assert is_gone(standby)


def test_one_after_the_other(pair: Pair, client: Client) -> None:
    for number in range(1, 4):
        broker, standby = pair.ready(client)
        os.kill(broker, signal.SIGKILL)
        assert client.increment("a") == number
        assert client.info()["pid"] == standby
    wait_until(lambda: len(pair.members()) <= 2, "those that were killed to be gone")


def test_who_takes_over_has_read_the_journal_before(
    pair: Pair, client: Client, runtime: Path
) -> None:
    """All but the end of it could as well be gone by then."""
    state = runtime / "state"
    for number in range(3):
        client.set_many({f"{number}/{key}": key for key in range(1_000)})
        broker, _ = pair.ready(client)
        os.kill(broker, signal.SIGKILL)
    before = client.items("**")
    broker, _ = pair.ready(client)
    for segment in sorted(state.glob("journal-*.log"))[:-1]:
        segment.unlink(missing_ok=True)
    (state / "state.db").unlink(missing_ok=True)
    os.kill(broker, signal.SIGKILL)
    assert client.items("**") == before
    assert len(before) == 3_000


def test_a_standby_that_cannot_read_takes_over_all_the_same(
    pair: Pair, client: Client, runtime: Path
) -> None:
    """It looks at the files when it has to, and perhaps they can be read then."""
    broker, standby = pair.ready(client)
    client.set("a", 1)
    database = runtime / "state" / "state.db"
    assert not database.exists()
    database.write_bytes(b"this is no database" * 100)
    os.kill(standby, signal.SIGKILL)
    pair.told("the standby cannot read")
    _, standby = pair.ready(client)
    database.unlink()
    os.kill(broker, signal.SIGKILL)
    assert client.get("a") == 1
    assert client.info()["pid"] == standby


def test_both_at_once(pair: Pair, client: Client, address: str, runtime: Path) -> None:
    for pid in pair.ready(client):
        client.set("a", pid)
        last = pid
    os.killpg(pair.process.pid, signal.SIGKILL)
    pair.process.wait()
    again = Pair(address, runtime / "state")
    try:
        assert client.get("a") == last
    finally:
        again.close()


def test_nobody_is_refused_while_it_happens(pair: Pair, client: Client) -> None:
    """Those who connect meanwhile wait in the listen queue."""
    broker, standby = pair.ready(client)
    os.kill(standby, signal.SIGSTOP)  # so that the moment is as long as we like
    os.kill(broker, signal.SIGKILL)
    wait_until(lambda: is_gone(broker), "the end of the broker")
    waiting = [RawClient(pair.address) for _ in range(50)]
    os.kill(standby, signal.SIGCONT)
    for raw in waiting:
        with raw:
            assert raw.call("get", "nothing") is None


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
def test_stopping_it_stops_both(pair: Pair, client: Client, how: str) -> None:
    pair.ready(client)
    if how == "SIGTERM":
        pair.process.send_signal(signal.SIGTERM)
    else:  # which a terminal sends to the whole group
        os.killpg(pair.process.pid, signal.SIGINT)
    assert pair.process.wait(20) == 0
    wait_until(lambda: not pair.members(), "the end of the standby")
    assert not os.path.exists(pair.address)
    assert "takes over" not in pair.log()


def test_who_has_taken_over_has_the_address(pair: Pair, client: Client, runtime: Path) -> None:
    broker, standby = pair.ready(client)
    os.kill(broker, signal.SIGKILL)
    assert client.info()["pid"] == standby
    command = Command(pair.address)
    code, _, err = command("serve", "--durability", "none")
    assert (code, f"pid {standby}" in err) == (3, True)
    code, _, err = command(
        "serve", "--socket", str(runtime / "other.sock"), "--state", str(runtime / "state")
    )
    assert (code, f"pid {standby}" in err) == (3, True)
    os.kill(standby, signal.SIGTERM)
    wait_until(lambda: not pair.members(), "the end")
    assert not os.path.exists(pair.address)


def test_a_takeover_while_the_disk_is_full(pair: Pair, client: Client, runtime: Path) -> None:
    """Reads go on, and so do writes when there is room; a torn tail is no reason to stop either."""
    client.set("a", 1)
    broker, standby = pair.ready(client)
    before = resource.prlimit(standby, resource.RLIMIT_FSIZE)
    resource.prlimit(standby, resource.RLIMIT_FSIZE, (5, before[1]))
    os.kill(broker, signal.SIGSTOP)
    (segment,) = (runtime / "state").glob("journal-*.log")
    with segment.open("ab") as file:
        file.write(b"\xc1udr half a record")
    os.kill(broker, signal.SIGKILL)
    assert client.get("a") == 1
    with pytest.raises(StorageFailed, match="reads go on"):
        client.set("a", 2)
    assert client.info()["pid"] == standby
    resource.prlimit(standby, resource.RLIMIT_FSIZE, before)

    def writable() -> bool:
        try:
            return client.set("a", 3) > 0
        except StorageFailed:
            return False

    wait_until(writable, "room again")
    broker, standby = pair.ready(client)
    os.kill(broker, signal.SIGKILL)
    assert client.get("a") == 3
    assert not list((runtime / "state" / "damaged").iterdir())
    assert check(str(runtime / "state")).fault is None


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_on_either_event_loop(address: str, runtime: Path, backend: str) -> None:
    pair = Pair(address, runtime / "state", "--backend", backend)
    try:
        with udsbus.connect(address) as client:
            broker, standby = pair.ready(client)
            os.kill(broker, signal.SIGKILL)
            assert client.set("a", 1)
            broker, standby = pair.ready(client)
            os.kill(standby, signal.SIGKILL)
            wait_until(lambda: client.info()["standby"] not in (None, standby), "another standby")
            assert Command(address)("takeover").code == 0
            assert client.get("a") == 1
    finally:
        pair.close()


def test_takeover_on_purpose(pair: Pair, client: Client) -> None:
    broker, standby = pair.ready(client)
    client.set("a", 1)
    with RawClient(pair.address) as raw:
        raw.call("ping")
        outcome = Command(pair.address)("takeover")
        assert (outcome.code, outcome.err) == (0, "")
        told = raw.rest()
    assert told[-1][1:] == ["closing", ["takeover", "another broker process goes on"]]
    info = client.info()
    assert int(outcome.out) == info["pid"]
    assert info["pid"] not in (broker, standby), "a process that was started now"
    assert client.get("a") == 1
    assert "is dead" not in pair.log()
    wait_until(lambda: is_gone(broker), "the end of the one before")
    pair.ready(client)


def test_the_new_process_dies_while_the_old_one_takes_its_leave(pair: Pair, client: Client) -> None:
    """Then there is another one."""
    broker, standby = pair.ready(client)
    client.set("large", bytes(8_000_000))
    with RawClient(pair.address) as slow, RawClient(pair.address) as told:
        slow.send(*([0, number, "get", ["large"]] for number in range(4)))  # and never reads them
        told.call("ping")
        os.kill(broker, signal.SIGUSR2)
        assert told.rest()[-1][2][0] == "takeover"
        (candidate,) = set(pair.members()) - {broker, standby}
        os.kill(candidate, signal.SIGKILL)
        assert client.set("a", 1)
        assert client.info()["pid"] not in (broker, standby, candidate)
    wait_until(lambda: is_gone(broker), "the end of the old one")


def test_a_broker_that_dies_of_the_first_thing_it_is_asked(pair: Pair, client: Client) -> None:
    """It has a standby before: what kills one broker after the other must not be the end."""
    pid, _ = pair.ready(client)
    for _ in range(4):
        os.kill(pid, signal.SIGKILL)
        pid = client.info()["pid"]
    assert client.set("a", 1)


def one_pair_is_left(pair: Pair, client: Client) -> None:
    """And never were there two brokers: what each has acknowledged is there."""
    pair.ready(client)
    wait_until(lambda: len(pair.members()) == 2, "the end of all but two")
    assert set(pair.ready(client)) == set(pair.members())


@pytest.mark.parametrize("milliseconds", [0, 5, 20, 60, 120, 200, 250, 300, 350, 450])
def test_the_broker_dies_while_it_starts_the_process_to_hand_over_to(
    pair: Pair, client: Client, runtime: Path, milliseconds: int
) -> None:
    """Then both that process and the standby see it dead. One of them goes on."""
    broker, _ = pair.ready(client)
    os.kill(broker, signal.SIGUSR2)
    sleep(milliseconds / 1000)  # anywhere within the start of a process
    os.kill(broker, signal.SIGKILL)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(udsbus.connect(pair.address)) for _ in range(6)]
        for number in range(60):
            writers[number % 6].set(f"k/{number}", number)
        one_pair_is_left(pair, client)
        os.killpg(pair.process.pid, signal.SIGKILL)  # one by one, the other would start a third
    again = Pair(pair.address, runtime / "state")
    try:
        assert client.items("k/*") == sorted((f"k/{number}", number) for number in range(60))
    finally:
        again.close()


def test_several_takeovers_at_once_are_one(pair: Pair, client: Client) -> None:
    broker, _ = pair.ready(client)
    epoch = client.info()["journal"]["segment"]
    for _ in range(3):
        os.kill(broker, signal.SIGUSR2)
        sleep(0.02)  # so that they are three signals
    wait_until(lambda: client.info()["pid"] != broker, "the takeover")
    client.set("a", 1)
    one_pair_is_left(pair, client)
    assert client.info()["journal"]["segment"] == epoch + 1
    assert pair.log().count("handing over to a new process") == 1


def test_a_takeover_to_a_program_that_does_not_start(pair: Pair, client: Client) -> None:
    """The broker goes on, with the standby that it has, and obeys signals as before."""
    broker, standby = pair.ready(client)
    client.set("a", 1)
    before = resource.prlimit(broker, resource.RLIMIT_NOFILE)
    resource.prlimit(broker, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        os.kill(broker, signal.SIGUSR2)
        pair.told("so this one goes on")
    finally:
        resource.prlimit(broker, resource.RLIMIT_NOFILE, before)
    assert client.get("a") == 1
    assert client.info()["pid"] == broker
    assert client.info()["standby"] == standby
    os.kill(broker, signal.SIGTERM)
    assert pair.process.wait(20) == 0


def test_the_end_of_its_terminal(pair: Pair, client: Client) -> None:
    """Which the kernel tells the whole group by SIGHUP: nothing stays behind."""
    pair.ready(client)
    os.killpg(pair.process.pid, signal.SIGHUP)
    assert pair.process.wait(20) == 0
    wait_until(lambda: not pair.members(), "the end of both")
    assert "takes over" not in pair.log()


def test_a_standby_can_be_told_to_end(pair: Pair, client: Client) -> None:
    """So `kill` of both, one after the other, leaves none."""
    broker, standby = pair.ready(client)
    os.kill(standby, signal.SIGSTOP)
    os.kill(broker, signal.SIGKILL)
    os.kill(standby, signal.SIGTERM)
    os.kill(standby, signal.SIGCONT)
    wait_until(lambda: not pair.members(), "the end of both")


def test_a_takeover_that_cannot_be(lonely: Command) -> None:
    assert lonely("takeover").code == 69
    with lonely.running("serve", "--durability", "none") as broker:
        broker.told("serving")
        code, _, err = lonely("takeover")
        assert (code, "keeps nothing" in err) == (3, True)
        assert lonely("ping").code == 0
        os.kill(broker.process.pid, signal.SIGTERM)
        broker.end()
    with lonely.running("serve", "--alone") as broker:
        broker.told("serving")
        code, _, err = lonely("takeover", "--timeout", "0.2")
        assert (code, "--alone" in err) == (3, True)
        os.kill(broker.process.pid, signal.SIGUSR2)
        broker.told("runs alone")
        assert lonely("ping").code == 0


def test_a_broker_alone_has_its_journal_folded_too(address: str, runtime: Path) -> None:
    state = runtime / "state"
    for number in range(2):
        pair = Pair(address, state, "--alone")
        try:
            with udsbus.connect(address) as client:
                client.set("a", number)
                if number:
                    wait_until(lambda: (state / "state.db").exists(), "the folding")
                    wait_until(lambda: len(list(state.glob("journal-*"))) == 1, "its end")
        finally:
            pair.close()


def test_a_broker_alone(address: str, runtime: Path) -> None:
    pair = Pair(address, runtime / "state", "--alone")
    try:
        with udsbus.connect(address) as client:
            assert client.info()["standby"] is None
            assert len(pair.members()) == 1
    finally:
        pair.close()


def test_crashes_one_after_the_other_are_answered_more_and_more_slowly(pair: Pair) -> None:
    """And the log says so."""
    for number in range(1, 8):
        with udsbus.connect(pair.address) as client:
            broker, _ = pair.ready(client)
            os.kill(broker, signal.SIGKILL)
        pair.told("takes over", number)
        if "brokers died soon after their start" in pair.log():
            break
        pair.told("serving", number + 1)
    pair.told("brokers died soon after their start; waiting 0.2 s before the next")
    with udsbus.connect(pair.address) as client:
        client.set("a", 1)


def test_closed_segments_are_folded(pair: Pair, client: Client, runtime: Path) -> None:
    state = runtime / "state"
    client.set("a", 1)
    broker, _ = pair.ready(client)
    os.kill(broker, signal.SIGKILL)
    client.set("a", 2)

    def folded() -> bool:
        return len(list(state.glob("journal-*.log"))) == 1 and (state / "state.db").exists()

    wait_until(folded, "the folding of what the first broker wrote")
    broker, _ = pair.ready(client)
    os.kill(broker, signal.SIGKILL)
    assert client.get("a") == 2
    with client.watch("a", from_revision=0) as watch:
        kinds = [watch.get(timeout=20) for _ in range(2)]
    assert [change.value for change in kinds if change is not None] == [1, 2]


def test_the_log_of_a_detached_broker_tells_of_its_start(address: str, runtime: Path) -> None:
    command = Command(address)
    for _ in range(2):
        outcome = command("serve", "--detach", "--alone", "--state", str(runtime / "state"))
        broker = int(outcome.out.split()[1].strip(","))
        command.lines("set", "a", "1")
        os.kill(broker, signal.SIGTERM)
        wait_until(lambda pid=broker: is_gone(pid), "its end")
    assert "recovered 1 keys" in outcome.err
    lines = Path(address + ".log").read_text().splitlines()
    told = [line for line in lines if "recovered" in line or "serving" in line]
    assert len(told) == 3
    assert "recovered 1 keys" in told[1], "before it says that it serves, and once"


def test_detached(address: str, runtime: Path) -> None:
    command = Command(address)
    out = command("serve", "--detach", "--state", str(runtime / "state")).out
    broker = int(out.split()[1].strip(","))
    with udsbus.connect(address) as client:
        wait_until(lambda: client.info()["standby"], "a standby")
        standby = client.info()["standby"]
        os.kill(broker, signal.SIGKILL)
        client.set("a", 1)
        assert client.info()["pid"] == standby
        wait_until(lambda: client.info()["standby"], "another standby")
        last = client.info()["standby"]
    os.kill(standby, signal.SIGTERM)
    wait_until(lambda: is_gone(standby) and is_gone(last), "the end of both")
    assert "takes over" in Path(address + ".log").read_text()
