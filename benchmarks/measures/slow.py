"""A reader that is stopped: what does it cost the others, and the broker's memory?"""

from __future__ import annotations

import contextlib
import resource
import select
import signal
import socket
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, monotonic_ns, sleep

import msgpack

import udsbus
from udsbus.limits import (
    BEHIND_KEY_BYTES,
    BEHIND_KEYS,
    BEHIND_MESSAGE_BYTES,
    CHANGE_LOG_BYTES,
    MIB,
    OUTPUT_HARD_BYTES,
)
from udsbus.wire.framing import Decoder

from ..bench import Bench
from ..load import VALUE, percentiles
from ..results import REDIS, UDSBUS, Goal, Table
from ..servers import running_udsbus
from ..workers import Job, run_together

WATCHERS, MANY = 100, 1_000
GAP_SECONDS = 0.002
HOT, FILL = "bench/slow/hot", "bench/slow/fill"
KEYS = 1_000
CHANGED = bytes(1_000)
NOTE_BYTES = 300
ALLOWED = OUTPUT_HARD_BYTES + BEHIND_KEYS * NOTE_BYTES + BEHIND_KEY_BYTES + BEHIND_MESSAGE_BYTES
"""Bytes that the limits let one connection take up that reads nothing, but for the change that goes
beyond (docs/limits.md)."""
SLOWER = Goal(1.25, "1.25 times at most")
BOUNDED = Goal(1.0, "no more")


def measure(bench: Bench) -> Table:
    """Delivery to 99 watchers of a key, while the hundredth reads or is stopped and behind."""
    table = Table(
        "slow", f"Changes told to {WATCHERS - 1} watchers beside one that is stopped",
        reference="it reads", own="it is stopped",
    )  # fmt: skip
    address = bench.servers[1].address
    with udsbus.connect(address) as client, _reader(address, "bench/slow/**") as reader:
        for number in range(bench.scale.rounds):
            for stopped in (False, True) if number % 2 == 0 else (True, False):
                with _stopped(reader, client) if stopped else contextlib.nullcontext():
                    ages = _delivered(address, bench.scale.messages)
                for name, microseconds in percentiles([ages]).items():
                    if name != "p99.9":
                        goal = SLOWER if name != "p90" else None
                        row = table.row("from `set` to each", name, "µs", goal)
                        row.add(UDSBUS if stopped else REDIS, microseconds)
    return table


def measure_memory(bench: Bench) -> Table:
    """The broker's memory, with one stopped reader of everything among many watchers."""
    changes = bench.scale.changes
    table = Table(
        "slow_memory", f"Memory of the broker: {MANY:,} watchers, {changes:,} changes of "
        f"{len(CHANGED):,} bytes", reference="limits allow", own="one is stopped",
    )  # fmt: skip
    directory = bench.directory / "slow"
    directory.mkdir(exist_ok=True)
    with (
        running_udsbus(directory) as server,
        udsbus.connect(server.address) as client,
        _reader(server.address, "**") as reader,
        _watchers(server.address, MANY - 1) as watchers,
    ):
        _change(client, CHANGE_LOG_BYTES // len(CHANGED) + KEYS)  # which is full from now on
        before = _rss(server.pid)
        reader.send_signal(signal.SIGSTOP)
        _change(client, changes)
        after, peak = _rss(server.pid), _rss(server.pid, "VmHWM")
        info = client.info()
        reader.send_signal(signal.SIGCONT)
        _until(lambda: not client.info()["behind"])
        watchers.terminate()
        caught_up = _rss(server.pid)
    row = table.row("resident", "before", "MiB")
    row.add(UDSBUS, before / MIB)
    for name, size in (("after", after), ("peak", peak), ("when it has caught up", caught_up)):
        row = table.row("resident", name, "MiB", BOUNDED if name == "peak" else None)
        row.add(REDIS, (before + ALLOWED) / MIB)
        row.add(UDSBUS, size / MIB)
    counters = info["counters"]
    table.notes.append(
        f"behind then: {info['behind']}; changes left out: {counters['left_out']:,}; "
        f"connections ended as slow: {counters['closed'].get('slow_reader', 0)}"
    )
    return table


# --- in processes of their own ------------------------------------------------------------------


def follow(ready: Callable[[], object], address: str, watchers: int, count: int) -> array[int]:
    """How old each change is when each watcher has it: nanoseconds."""
    poll, decoders = select.poll(), {}
    for _ in range(watchers):
        sock = _watching(address, HOT)
        poll.register(sock, select.POLLIN)
        decoders[sock.fileno()] = sock, Decoder()
    ages = array("q")
    ready()
    while len(ages) < watchers * count:
        for fd, _ in poll.poll():
            sock, decoder = decoders[fd]
            data = sock.recv(1 << 16)
            now = monotonic_ns()
            for message in decoder.feed(data):
                if message[1] == "change":
                    ages.append(now - int.from_bytes(message[2][3][-8:]))
    return ages


def set_now_and_then(ready: Callable[[], object], address: str, count: int) -> None:
    """Write the time, again and again."""
    with udsbus.connect(address) as client:
        client.ping()
        ready()
        for _ in range(count):
            sleep(GAP_SECONDS)
            client.set(HOT, VALUE + monotonic_ns().to_bytes(8))


def _delivered(address: str, count: int) -> array[int]:
    ages: array[int]
    ages, _ = run_together(
        [
            Job(follow, (address, WATCHERS - 1, count)),
            Job(set_now_and_then, (address, count)),
        ]
    )
    return ages


READ = """
import socket, sys, msgpack
address, patterns = sys.argv[1], sys.argv[2:]
sockets = []
for pattern in patterns:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    sock.sendall(msgpack.packb([0, 1, "watch", [pattern]]))
    sock.recv(1024)
    sockets.append(sock)
print("watches", flush=True)
import select
poll = select.poll()
for sock in sockets:
    poll.register(sock, select.POLLIN)
by_fd = {sock.fileno(): sock for sock in sockets}
while True:
    for fd, _ in poll.poll():
        if not by_fd[fd].recv(1 << 20):
            sys.exit()
"""


@contextlib.contextmanager
def _reader(address: str, *patterns: str) -> Iterator[subprocess.Popen[str]]:
    """A process that watches, one connection for each pattern, and throws away what comes."""
    command = [sys.executable, "-c", READ, address, *patterns]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "watches\n"
        yield process
    finally:
        process.kill()
        process.wait()


def _watchers(
    address: str, number: int
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Each of them watches a key of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, number + 1_000)), hard))
    return _reader(address, *(f"bench/{each}" for each in range(number)))


@contextlib.contextmanager
def _stopped(reader: subprocess.Popen[str], client: udsbus.Client) -> Iterator[None]:
    """The reader is stopped, and so far behind as can be, until the end."""
    reader.send_signal(signal.SIGSTOP)
    try:
        number = 0
        while not client.info()["behind"]:
            number += 1
            client.set(FILL, number.to_bytes(8) + bytes(MIB))
        yield
        assert client.info()["behind"] == 1
    finally:
        reader.send_signal(signal.SIGCONT)
    _until(lambda: not client.info()["behind"])


# --- inside ---------------------------------------------------------------------------------


def _watching(address: str, pattern: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    sock.sendall(msgpack.packb([0, 1, "watch", [pattern]]))
    sock.recv(1024)
    return sock


def _change(client: udsbus.Client, number: int) -> None:
    for start in range(0, number, KEYS):
        with client.pipeline() as pipeline:
            for key in range(min(KEYS, number - start)):
                pipeline.set(f"bench/{key}", CHANGED)


def _rss(pid: int, field: str = "VmRSS") -> int:
    """Bytes that a process has resident now, or had at most (`VmHWM`)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"the system does not tell {field}")


def _until(condition: Callable[[], bool]) -> None:
    until = monotonic() + 60
    while not condition():
        assert monotonic() < until
        sleep(0.005)
