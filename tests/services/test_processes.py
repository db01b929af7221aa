"""Workers that are killed, stopped, forked and come back: with real processes."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgpack
import pytest

from tests.harness import BrokerProcess, running_broker, wait_until
from udsbus import (
    Client,
    Error,
    RequestTimeout,
    ServiceUnavailable,
    WorkerLost,
    connect_async,
    current_call,
)
from udsbus.client import requests
from udsbus.services.endpoint import Endpoint, folder_of
from udsbus.services.frames import call_frame
from udsbus.services.free import IDLE_SECONDS
from udsbus.wire.values import decode, encode

from .conftest import PATIENCE, Start


@pytest.mark.parametrize("program", ["work", "work_async", "work_asyncio"])
def test_a_call_whose_worker_is_killed_fails(client: Client, start: Start, program: str) -> None:
    process = start(program)
    with pytest.raises(WorkerLost, match="nobody knows whether it was carried out") as lost:
        client.call("work/die")
    assert lost.value.details == {
        "service": "work", "worker": process.pid, "attempts": 1, "dead_letters": None,
    }  # fmt: skip
    assert process.wait(PATIENCE) == -signal.SIGKILL
    with pytest.raises(ServiceUnavailable, match="have all ended"):
        client.call("work/pid")
    other = start(program)
    assert client.call("work/pid") == other.pid


def test_a_call_is_tried_again_as_often_as_the_service_says(
    client: Client, start: Start, tmp_path: Path
) -> None:
    processes = [start("work", 1) for _ in range(3)]
    survivor = client.call("work/die_once", str(tmp_path / "marker"))
    assert survivor in [process.pid for process in processes]
    wait_until(lambda: any(each.poll() is not None for each in processes), "one to be dead")
    assert sum(process.poll() is not None for process in processes) == 1
    with pytest.raises(WorkerLost, match=r"and so had 1 before it.*dead-letters/work") as lost:
        client.call("work/die")
    assert lost.value.details["attempts"] == 2
    letter = client.queue(lost.value.details["dead_letters"]).get(timeout=PATIENCE)
    assert letter["call"] == "work/die"
    assert (letter["args"], letter["kwargs"], letter["attempts"]) == ([], {}, 2)
    for process in processes:
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_a_call_to_be_tried_again_waits_for_a_worker_that_is_started_again(
    client: Client, start: Start, tmp_path: Path
) -> None:
    process = start("work", 1)
    found: list[int] = []
    calling = threading.Thread(
        target=lambda: found.append(client.call("work/die_once", str(tmp_path / "marker")))
    )
    calling.start()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    other = start("work", 1)
    calling.join(PATIENCE)
    assert found == [other.pid]


def test_a_stream_whose_worker_is_killed(client: Client, start: Start) -> None:
    start("work", 5)
    found = []
    with pytest.raises(WorkerLost, match="before its stream was at its end"):
        for item in client.call("work/die_after", 3):
            found.append(item)
    assert found == [0, 1, 2], "what has come is not made again by another"


def test_a_stopped_worker_is_a_time_out(client: Client, start: Start) -> None:
    process = start("work")
    assert client.call("work/pid") == process.pid
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    with pytest.raises(RequestTimeout):
        client.call("work/pid", timeout=0.3)
    process.send_signal(signal.SIGCONT)
    assert client.call("work/pid") == process.pid


def test_sigterm_lets_it_finish(client: Client, start: Start, tmp_path: Path) -> None:
    process = start("work")
    begun = tmp_path / "begun"
    found: list[int] = []
    calling = threading.Thread(
        target=lambda: found.append(client.call("work/sleep", 0.5, str(begun)))
    )
    calling.start()
    wait_until(begun.exists, "the call to begin")
    process.terminate()
    calling.join(PATIENCE)
    assert found == [process.pid]
    assert process.wait(PATIENCE) == 0
    assert process.stdout is not None
    assert process.stdout.read() == "ended\n"
    with pytest.raises(ServiceUnavailable):
        client.call("work/pid")


@pytest.mark.parametrize("program", ["work", "work_async"])
def test_no_call_is_dropped_when_workers_come_and_go(
    client: Client, start: Start, program: str
) -> None:
    """Each worker is told to end while calls go on, and another is started before."""
    start(program)
    stop = threading.Event()
    failed: list[Exception] = []
    done = [0, 0, 0]

    def call(number: int) -> None:
        while not stop.is_set():
            try:
                client.call("work/echo", number)
                done[number] += 1
            except Exception as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    before = start(program)
    for _ in range(5):
        other = start(program)
        before.terminate()
        assert before.wait(PATIENCE) == 0
        before = other
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert failed == []
    assert min(done) > 10


def test_calls_go_on_while_the_broker_is_away(tmp_path: Path) -> None:
    address = tmp_path / "bus.sock"
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(running_broker(address))
        serving = stack.enter_context(Client(address, timeout=PATIENCE))
        client = stack.enter_context(Client(address, timeout=PATIENCE))
        serving.service("echo", lambda value: value)
        assert client.call("echo", 1) == 1
        broker.kill()
        stack.enter_context(running_broker(address))
        # It knows nothing of what was before: the worker has to say again that it serves.
        wait_until(lambda: client.services("echo"), "the service to be offered again")
        assert client.call("echo", 2) == 2


def test_a_client_that_serves_is_closed_while_the_broker_is_away(tmp_path: Path) -> None:
    with running_broker(tmp_path / "bus.sock") as broker:
        client = Client(broker.address, timeout=60 * PATIENCE)
        service = client.service("echo", lambda value: value)
        assert client.call("echo", 1) == 1
        broker.kill()
        closing = threading.Thread(target=client.close)
        closing.start()
        closing.join(PATIENCE)
        assert not closing.is_alive()
        assert service.ended.is_set()


def test_after_a_fork_the_child_calls_over_connections_of_its_own(
    client: Client, start: Start
) -> None:
    process = start("work", 0, 2)
    assert client.call("work/pid") == process.pid
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(client.call("work/echo", "from the child")).encode())
        finally:
            os._exit(0)
    os.close(writing)
    assert client.call("work/echo", "from the parent") == "from the parent"
    with os.fdopen(reading) as answer:
        assert answer.read() == "from the child"
    os.waitpid(child, 0)
    assert client.call("work/pid") == process.pid


def test_connections_that_the_worker_has_closed_are_made_again(
    client: Client, start: Start
) -> None:
    process = start("work")
    assert client.call("work/pid") == process.pid
    (worker,) = client._calls._services["work"].workers
    (conversation,) = worker.idle
    conversation._socket.shutdown(socket.SHUT_RDWR)
    assert client.call("work/pid") == process.pid
    assert client._calls._services["work"].workers == [worker], "it is not taken for dead"


@pytest.mark.parametrize("size", [10, 2**20], ids=["small", "larger than a socket holds"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_call_that_a_dead_worker_had_not_read_is_given_to_another(
    client: Client, start: Start, is_async: bool, size: int
) -> None:
    """Though nothing said that it may be tried again: nobody has begun with it."""
    stopped = start("work")
    other: list[subprocess.Popen[str]] = []

    def kill(sock: socket.socket) -> None:
        """When a part of the call is on its way."""
        wait_until(lambda: _unread(sock) > 0, "the call to be sent")
        other.append(start("work"))
        stopped.kill()

    def stop() -> None:
        stopped.send_signal(signal.SIGSTOP)
        os.waitpid(stopped.pid, os.WUNTRACED)

    async def call() -> object:
        async with connect_async(client.address, timeout=PATIENCE) as calling:
            await calling.call("work/pid")
            ((conversation,),) = (w.idle for w in calling._calls._services["work"].workers)
            stop()
            killing = threading.Thread(target=kill, args=(conversation._link._socket,))
            killing.start()
            return await calling.call("work/echo", b"x" * size)

    if is_async:
        answer = anyio.run(call)
    else:
        client.call("work/pid")
        ((conversation,),) = (worker.idle for worker in client._calls._services["work"].workers)
        stop()
        killing = threading.Thread(target=kill, args=(conversation._socket,))
        killing.start()
        answer = client.call("work/echo", b"x" * size)
        killing.join(PATIENCE)
    assert answer == b"x" * size
    assert client.call("work/pid") == other[0].pid


def _unread(sock: socket.socket) -> int:
    """Bytes that were sent and that the other side has not read."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, count)
    return count[0]


FILES = 30
"""That a worker may have open."""


@contextlib.contextmanager
def crowded(client: Client, process: subprocess.Popen[str], first: bytes = b"") -> Iterator[Any]:
    """More connections to a worker than it can have; yields the first, over which `first` was sent
    and received."""
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
    client.call("work/pid")
    (worker,) = client._calls._services["work"].workers
    with contextlib.ExitStack() as stack:
        connected = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(40)]
        for sock in connected:
            sock.settimeout(PATIENCE)
            sock.connect(worker.path + ".sock")
            if first and sock is connected[0]:
                sock.send(first)
                wait_until(lambda: _unread(connected[0]) == 0, "it to be received")
        yield connected[0]


@pytest.mark.parametrize("program", ["work", "work_async"])
def test_a_worker_without_room_for_files_makes_some(
    client: Client, start: Start, program: str
) -> None:
    process = start(program)
    with crowded(client, process):
        with Client(client.address, timeout=PATIENCE) as other:
            assert other.call("work/pid") == process.pid
        assert client.call("work/pid") == process.pid


@pytest.mark.parametrize("program", ["work", "work_async"])
def test_no_more_room_is_made_than_somebody_waits_for(
    client: Client, start: Start, program: str
) -> None:
    """A process that can open no more files is not told whether anybody wants to connect."""
    process = start(program)
    with crowded(client, process):
        assert client.call("work/pid") == process.pid
        assert len(os.listdir(f"/proc/{process.pid}/fd")) == FILES


@pytest.mark.parametrize("program", ["work", "work_async"])
def test_to_make_room_no_connection_is_closed_with_a_part_of_a_call(
    client: Client, start: Start, program: str
) -> None:
    process = start(program)
    frame = call_frame(1, "pid", encode([[], {}]), PATIENCE)
    with crowded(client, process, frame[:5]) as slow:
        with Client(client.address, timeout=PATIENCE) as other:
            assert other.call("work/pid") == process.pid
        slow.send(frame[5:])
        assert msgpack.unpackb(slow.recv(4096))[:3] == [1, 1, None]


def test_one_that_cannot_connect_takes_no_place(
    broker: BrokerProcess, client: Client, start: Start
) -> None:
    process = start("work")
    process.send_signal(signal.SIGSTOP)  # so that it cannot put a byte back
    os.waitpid(process.pid, os.WUNTRACED)
    run = subprocess.run(
        [sys.executable, "-m", "tests.services.programs", "call_without_files", broker.address],
        stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    process.send_signal(signal.SIGCONT)
    assert run.stdout.split() == 5 * ["BrokerUnavailable"], "and not that all are busy"
    assert client.call("work/pid") == process.pid


def test_whoever_takes_no_answer_holds_up_nobody(
    client: Client, start: Start, tmp_path: Path
) -> None:
    start("work")
    begun = tmp_path / "begun"
    client.call("work/pid")
    (worker,) = client._calls._services["work"].workers
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.connect(worker.path + ".sock")
        assert worker.free.take()
        payload = encode([[8_000_000, str(begun)], {}])
        stopped.send(call_frame(1, "large", payload, PATIENCE))
        other = start("work")
        assert stopped.recv(1, socket.MSG_PEEK), "the answer begins to come"
        for _ in range(4):
            assert client.call("work/pid") == other.pid


def test_a_worker_whose_socket_was_removed_serves_nobody(client: Client, start: Start) -> None:
    start("work")
    for socket_file in folder_of(client.address).glob("*.sock"):
        socket_file.unlink()
    with pytest.raises(ServiceUnavailable):
        client.call("work/pid")


def test_the_grace_is_kept_though_a_generator_hangs(client: Client, start: Start) -> None:
    process = start("stuck")
    stream = client.call("stuck/items")
    assert next(stream) == 1
    process.terminate()
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_client_that_is_closed_while_a_call_waits_leaves_others_alone(
    client: Client, start: Start, backend: str, tmp_path: Path
) -> None:
    start("work")

    async def close_and_go_on() -> None:
        begun = tmp_path / "begun"
        async with anyio.create_task_group() as tasks:
            closing = connect_async(client.address, timeout=PATIENCE)
            async with closing as busy, connect_async(client.address, timeout=PATIENCE) as other:
                tasks.start_soon(other.call, "work/sleep", 0.5, str(begun))
                while not begun.exists():
                    await anyio.sleep(0.001)

                async def wait() -> None:
                    with contextlib.suppress(Error):
                        await busy.call("work/pid")

                tasks.start_soon(wait)
                line: Any = None
                while line is None or not line._first.locked():
                    await anyio.sleep(0.001)
                    line = busy._calls._lines.get("work")
                await busy.close()
                for _ in range(4):
                    async with connect_async(client.address, timeout=PATIENCE) as new:
                        assert await new.call("work/echo", 1) == 1

    anyio.run(close_and_go_on, backend=backend)


def test_what_others_offer_that_is_no_worker_is_left_alone(client: Client, start: Start) -> None:
    process = start("work")
    for number, odd in enumerate((None, 1, {}, {"pid": 1, "path": 2}, {"pid": 1, "path": "/x"})):
        client._call(requests.offer("work", f"odd{number}", odd))
    like_one = {"pid": 1, "path": "/x", "retry": 0, "concurrency": 1, "methods": {}}
    methods: list[Any] = [{"a": "sig"}, {"a": [1, None]}, {1: ["()", None]}, {"a": ["()", 2]}]
    for number, about in enumerate(
        [{**like_one, "path": "/x\0"}, *({**like_one, "methods": each} for each in methods)]
    ):
        client._call(requests.offer("work", f"nearly{number}", about))
    assert client.call("work/pid") == process.pid
    assert [worker.pid for worker in client.services("work")[0].workers] == [process.pid]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_worker_is_dead_though_its_child_lives(
    client: Client, start: Start, is_async: bool
) -> None:
    """A child has all of its parent open, of which the kernel does not say that it is closed."""
    process = start("forks", is_async)
    with pytest.raises(WorkerLost):
        client.call("forks/die", timeout=10)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    with pytest.raises(ServiceUnavailable):
        client.call("forks/die", timeout=10)


def test_whoever_calls_gives_up_though_its_child_lives(client: Client) -> None:
    given_up = threading.Event()

    def wait() -> None:
        call = current_call()
        begun.set()
        while not call._given_up():  # and not because the time is over
            time.sleep(0.005)
        given_up.set()

    begun = threading.Event()
    client.service("wait", wait)
    with Client(client.address) as other:

        def call() -> None:
            with contextlib.suppress(RequestTimeout):
                other.call("wait", timeout=1)

        calling = threading.Thread(target=call)
        calling.start()
        assert begun.wait(PATIENCE)
        child = os.fork()
        if not child:
            try:
                time.sleep(PATIENCE)
            finally:
                os._exit(0)
        calling.join(PATIENCE)
        assert given_up.wait(PATIENCE / 2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("program", ["work", "work_async"])
def test_a_place_that_somebody_takes_and_never_uses_comes_back(
    client: Client, start: Start, program: str
) -> None:
    start(program)
    client.call("work/pid")
    (service,) = client._calls._services["work"].workers
    assert service.free.take(), "as a caller that dies now"
    with pytest.raises(RequestTimeout, match="is busy"):
        client.call("work/pid", timeout=IDLE_SECONDS / 4)
    assert client.call("work/pid")


def test_what_killed_workers_leave_is_removed(client: Client, start: Start) -> None:
    folder = folder_of(client.address)
    with pytest.raises(WorkerLost):
        start("work")
        client.call("work/die")
    os.mkfifo(folder / "of-one-killed-sooner.free.new")
    left = set(folder.iterdir())
    assert len(left) == 3
    alive = start("work")
    assert not left & set(folder.iterdir())
    assert client.call("work/pid") == alive.pid
    alive.terminate()
    assert alive.wait(PATIENCE) == 0
    assert not folder.exists()


def test_a_long_address_has_its_workers_elsewhere() -> None:
    address = "/tmp/" + "a" * 90
    endpoint = Endpoint(address, 1)
    folder = Path(endpoint.path).parent
    assert not endpoint.path.startswith(address)
    assert len(endpoint.path + ".sock") < 104
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder_of(address + "b") != folder, "each bus has its own"
    endpoint.close()
    assert not folder.exists()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xc1", b"\x93\x02\x01\x90", b"GET / HTTP/1.1\r\n\r\n",
        b"\x94\x00\x01\xa4call\x93\x01\x02\x03", b"\x94\x00\x01\xa3get\x91\xa1a",
    ],
)  # fmt: skip
def test_a_worker_bears_rubbish(client: Client, start: Start, garbage: bytes) -> None:
    process = start("work")
    client.call("work/pid")
    (worker,) = client._calls._services["work"].workers
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(PATIENCE)
        stranger.connect(worker.path + ".sock")
        stranger.send(garbage)
        assert stranger.recv(100) == b"", "the connection is closed"
    assert client.call("work/pid") == process.pid


def test_many_processes_call_at_once(broker: BrokerProcess, client: Client, start: Start) -> None:
    workers = {start("work").pid for _ in range(2)}
    program = (
        "import sys, udsbus\n"
        "client = udsbus.connect(sys.argv[1])\n"
        "print(*[client.call('work/pid') for _ in range(300)])\n"
    )
    callers = [
        subprocess.Popen(
            [sys.executable, "-c", program, broker.address], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for caller in callers:
        output, _ = caller.communicate(timeout=60)
        assert caller.returncode == 0
        pids = [int(pid) for pid in output.split()]
        assert len(pids) == 300
        assert set(pids) == workers


def test_workers_that_begin_together_leave_each_other_what_they_make(tmp_path: Path) -> None:
    address = str(tmp_path / "bus.sock")
    begun: list[str] = []

    def begin() -> None:
        for _ in range(100):
            endpoint = Endpoint(address, 1)
            if os.path.exists(endpoint.path + ".free") and os.path.exists(endpoint.path + ".sock"):
                begun.append(endpoint.name)
            endpoint.close()

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 400
    assert not folder_of(address).exists()


@pytest.mark.parametrize(
    ("program", "args"), [("work", ()), ("work", (0, 2)), ("work_async", ())]
)  # fmt: skip
def test_an_answer_on_its_way_is_sent_before_the_end(
    client: Client, start: Start, tmp_path: Path, program: str, args: tuple[int, ...]
) -> None:
    process = start(program, *args)
    begun = tmp_path / "begun"
    found: list[bytes] = []
    size = 20_000_000
    calling = threading.Thread(
        target=lambda: found.append(client.call("work/large", size, str(begun)))
    )
    calling.start()
    wait_until(begun.exists, "the call to begin")
    process.terminate()
    calling.join(PATIENCE)
    assert [len(each) for each in found] == [size]
    assert process.wait(PATIENCE) == 0


def test_what_may_have_been_carried_out_says_so(client: Client, start: Start) -> None:
    """Though no other worker came before the time was over."""
    start("work", 3)
    with pytest.raises(WorkerLost, match="nobody knows"):
        client.call("work/die", timeout=1)


def test_answers_that_nobody_has_asked_for(client: Client, tmp_path: Path) -> None:
    """A worker of somebody else answers twice."""
    endpoint = Endpoint(client.address, 1)
    about = {"pid": 1, "path": endpoint.path, "retry": 0, "concurrency": 1, "methods": {}}
    client._stay()
    client._call(requests.offer("twice", endpoint.name, about))

    def answer() -> None:
        endpoint.socket.setblocking(True)
        for _ in range(3):
            endpoint.slots.give(1, 0)
            line, _ = endpoint.socket.accept()
            with line:
                _, msgid, _, (_, payload, _) = msgpack.unpackb(line.recv(10_000))
                (value,), _ = decode(payload)
                one = msgpack.packb([1, msgid, None, encode(value)])
                line.sendall(one + one)
                line.recv(1)

    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    assert [client.call("twice", number) for number in range(3)] == [0, 1, 2]
    client.close()
    answering.join(PATIENCE)
    endpoint.close()


def test_a_service_is_offered_as_soon_as_there_is_a_broker(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(running_broker(tmp_path / "bus.sock"))
        serving = stack.enter_context(Client(broker.address, timeout=0.3))
        serving.service("echo", lambda value: value)
        broker.kill()
        threading.Event().wait(1.5)  # longer than it waits for one
        stack.enter_context(running_broker(tmp_path / "bus.sock"))
        client = stack.enter_context(Client(broker.address, timeout=PATIENCE))
        wait_until(lambda: client.services("echo"), "the service to be offered again")
        assert client.call("echo", 2) == 2


def test_a_call_that_waits_and_is_given_up_leaves_nothing_behind(
    client: Client, start: Start, tmp_path: Path
) -> None:
    """Of somebody who calls though nothing is free."""
    process = start("work_async")
    assert client.call("work/pid") == process.pid
    (worker,) = client._calls._services["work"].workers
    begun = str(tmp_path / "begun")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as first:
        first.connect(worker.path + ".sock")
        first.send(call_frame(1, "large", encode([[10, begun], {}]), 20.0))
        wait_until(lambda: os.path.exists(begun), "the call to begin")
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as second:
            second.connect(worker.path + ".sock")
            second.send(call_frame(1, "pid", encode([[], {}]), 20.0))
        assert msgpack.unpackb(first.recv(1000))[:3] == [1, 1, None]
    assert client.call("work/pid") == process.pid
