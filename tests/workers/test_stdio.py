"""Programs in any language, asked over their stdin: echo, calculate, unknown, malformed, quit."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import BrokerProcess, wait_until
from tests.pairs import is_gone
from udsbus import (
    Client,
    InvalidRequest,
    ProtocolError,
    RemoteError,
    RequestTimeout,
    ServiceUnavailable,
    WorkerLost,
)
from udsbus.workers.program import ENDED, RENEW

from .conftest import PATIENCE, Pool, StartPool
from .lone import Lone, processes_of
from .test_pools import run

PROGRAM = (sys.executable, "-m", "tests.workers.asked")
MSGPACK = """
import sys, msgpack
unpacker = msgpack.Unpacker(sys.stdin.buffer, read_size=1, strict_map_key=False)
said = {
    "rubbish": b"\\xc1 rubbish",
    "text": b"hello",
    "too much": b"\\xdd\\x04\\x00\\x00\\x00" + 33 * 2**20 * b"\\xcc\\x80",
    "unfinished": b"\\x82\\xa2",
}
for request in unpacker:
    if request["method"] in said:
        sys.stdout.buffer.write(said[request["method"]])
    else:
        answer = msgpack.packb({"id": request["id"], "result": request["args"]})
        stray = b"\\xff\\x00stray\\n" if request["method"] == "after" else b""
        sys.stdout.buffer.write(answer + stray)
    sys.stdout.buffer.flush()
"""
PRINTING = """
import os, threading, udsbus
def chatter():
    while True:
        print("chatter", flush=True)
threading.Thread(target=chatter, daemon=True).start()
class Tasks:
    def do(self, number):
        assert "UDSBUS_REQUESTS" not in os.environ, "it is not for what this starts"
        os.write(1, b'asked: {"id": 1, "result": "wrong"}\\n')
        return "done"
udsbus.serve_stdio(Tasks())
print("the end")
"""
WORKERS_PAGE = (Path(__file__).parents[2] / "docs" / "workers.md").read_text()
IN_MSGPACK = (sys.executable, "-c", MSGPACK)

StartLone = Callable[..., Lone]


@pytest.fixture
def lone(broker: BrokerProcess, tmp_path: Path) -> Iterator[StartLone]:
    started: list[Lone] = []

    def start(*command: str, **options: object) -> Lone:
        log = tmp_path / f"lone-{len(started)}.log"
        started.append(Lone(broker.address, log, *command, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.close()


def another(client: Client, pool: Pool, pid: int) -> int:
    """Wait for another worker than that one; its pid."""
    wait_until(lambda: pool.ready(client, name="tasks") != [pid], "another", PATIENCE)
    (found,) = pool.ready(client, name="tasks")
    return found


def test_echo_calculate_unknown_malformed_quit(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--stdio", "--", *PROGRAM)
    (pid,) = pool.ready(client, name="tasks")
    assert client.call("tasks/echo", {"a": [1, None, "ü"]}) == {"a": [1, None, "ü"]}
    assert client.call("tasks/add", 2, 3) == 5
    assert client.call("tasks/named", x=1) == {"x": 1}
    with pytest.raises(RemoteError) as unknown:
        client.call("tasks/fly")
    assert str(unknown.value) == "unknown task fly"
    with pytest.raises(ProtocolError, match="without a result"):
        client.call("tasks/empty")
    assert client.call("tasks/after") == 1
    assert client.call("tasks/add", 2, 3) == 5, "what is printed after an answer is nobody's"
    client.call("tasks/log", "to the log")
    pool.told("to the log")
    assert pool.ready(client, name="tasks") == [pid], "none of that needs another program"
    with pytest.raises(ProtocolError, match="the program answered with b'stray print'"):
        client.call("tasks/stray")
    other = another(client, pool, pid)
    assert client.call("tasks/add", 2, 3) == 5
    with pytest.raises(WorkerLost):
        client.call("tasks/quit", 4)
    pool.told("has ended (exit code 4)")
    another(client, pool, other)
    assert client.call("tasks/add", 2, 3) == 5
    assert pool.end() == 0


@pytest.mark.parametrize(
    ("method", "args", "match"),
    [
        ("stray", (), "b'stray print', which is no JSON"),
        ("text", ("\n",), "b'', which is no JSON"),
        ("text", ("[" * 100_000 + "\n",), "which is no JSON"),
        ("text", ("[1]\n",), "which is no answer"),
        ("text", ('{"id": "1", "result": 1}\n',), "which is no answer"),
        ("text", ('{"id": true, "result": 1}\n',), "which is no answer"),
        ("text", ('{"id": 2, "result": 1}\n',), "which is no answer"),
        ("other", (), "which is no answer"),
        ("late", (1,), "b'before', which is no JSON"),
        ("too much", (), "with more than 68157440 bytes"),
    ],
)
def test_after_a_malformed_answer_another_begins_afresh(
    client: Client, lone: StartLone, method: str, args: tuple[str, ...], match: str
) -> None:
    worker = lone(*PROGRAM)
    with pytest.raises(ProtocolError, match=match):
        client.call(f"tasks/{method}", *args)
    assert worker.ended() == RENEW
    (line,) = worker.log.read_text().splitlines()
    assert line.endswith("; another is started in its place")
    assert match in line


@pytest.mark.parametrize(
    ("method", "match"),
    [
        ("rubbish", "no MessagePack"),
        ("text", "answered with 104, which is no answer"),
        ("too much", "with more than 68157440 bytes"),
    ],
)
def test_after_malformed_messagepack_too(
    client: Client, lone: StartLone, method: str, match: str
) -> None:
    worker = lone(*IN_MSGPACK, form="msgpack")
    with pytest.raises(ProtocolError, match=match):
        client.call(f"tasks/{method}")
    assert worker.ended() == RENEW


def test_an_answer_to_an_earlier_call_is_left_out(client: Client, lone: StartLone) -> None:
    worker = lone(*PROGRAM)
    twice = '{"id": 1, "result": 1}\n{"id": 1, "result": 1}\n'
    assert client.call("tasks/text", twice) == 1
    both = '{"id": 1, "result": 1}\n{"id": 2.0, "result": 2}\n'
    assert client.call("tasks/text", both) == 2
    assert client.call("tasks/echo", 3) == 3
    assert worker.end() == 0


def test_no_call_is_begun_after_a_malformed_answer(client: Client, lone: StartLone) -> None:
    """Those that have been sent meanwhile are not lost: nobody has begun with them."""
    worker = lone(*PROGRAM)

    def stray() -> None:
        with pytest.raises(ProtocolError):
            client.call("tasks/begin", 0.5, "stray\n")

    found: list[type] = []

    def call() -> None:
        with Client(client.address, timeout=PATIENCE) as other:
            try:
                other.call("tasks/log", "carried out")
            except Exception as error:
                found.append(type(error))

    threads = [threading.Thread(target=stray), *(threading.Thread(target=call) for _ in range(4))]
    threads[0].start()
    worker.told("begun")
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [ServiceUnavailable] * 4
    assert worker.ended() == RENEW
    assert "carried out" not in worker.log.read_text()


def test_two_programs_lose_no_call_by_malformed_answers(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--processes", 2, "--stdio", "--", *PROGRAM)
    pool.ready(client, 2, name="tasks")
    found: list[object] = []

    def call() -> None:
        with Client(client.address, timeout=PATIENCE) as other:
            for number in range(200):
                try:
                    found.append(other.call("tasks/echo", number))
                except ServiceUnavailable:  # both begin afresh
                    pool.ready(other, 2, name="tasks")
                except Exception as error:
                    found.append(type(error))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        before = pool.ready(client, 2, name="tasks")
        with pytest.raises(ProtocolError):
            client.call("tasks/stray")
        wait_until(lambda: pool.ready(client, 2, name="tasks") != before, "another", PATIENCE)  # noqa: B023
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert set(found) == set(range(200)), "and none was lost"


# --- nobody waits any more ------------------------------------------------------------------


def test_a_time_out_gets_no_late_answer(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--stdio", "--", "sh", "-c", " ".join(PROGRAM) + "; true")
    (pid,) = pool.ready(client, name="tasks")
    program = client.call("tasks/pid")
    with pytest.raises(RequestTimeout):
        client.call("tasks/sleep", 60, timeout=0.3)
    wait_until(lambda: is_gone(program), "it to be gone, with what has started it", PATIENCE)
    another(client, pool, pid)
    assert client.call("tasks/echo", "mine") == "mine"
    assert [each["restarts"] for each in pool.status(client, "tasks")] == [0], "it has not crashed"


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("begin", "(nothing at all; does it flush its answers?)"),
        ("unfinished", "(nothing but b'{\"id\": 1' without a newline)"),
    ],
)
def test_a_time_out_says_what_was_said(
    client: Client, lone: StartLone, method: str, why: str
) -> None:
    worker = lone(*PROGRAM)
    with pytest.raises(RequestTimeout):
        client.call(f"tasks/{method}", 60, timeout=1.0)
    assert worker.ended() == RENEW
    said = f"has not answered tasks/{method} in time {why}; another is started in its place"
    worker.told(said)


def test_a_time_out_says_what_was_said_in_messagepack(client: Client, lone: StartLone) -> None:
    worker = lone(*IN_MSGPACK, form="msgpack")
    with pytest.raises(RequestTimeout):
        client.call("tasks/unfinished", timeout=1.0)
    assert worker.ended() == RENEW
    worker.told("in time (nothing but 2 bytes, which are no whole answer)")


def test_whoever_called_is_gone(broker: BrokerProcess, lone: StartLone) -> None:
    worker = lone(*PROGRAM)
    command = [sys.executable, "-m", "udsbus", "call", "tasks/begin", "60"]
    calling = subprocess.Popen(command, env={**os.environ, "UDSBUS_SOCKET": broker.address})
    worker.told("begun")
    calling.kill()
    calling.wait()
    assert worker.ended() == RENEW
    worker.told("has not answered tasks/begin before whoever called was gone")


# --- programs that do not read, or write, or do both at once --------------------------------


def test_one_that_never_reads(client: Client, lone: StartLone) -> None:
    worker = lone("sleep", "60")
    with pytest.raises(RequestTimeout):
        client.call("tasks/echo", "x" * 300_000, timeout=0.5)
    assert worker.ended() == RENEW
    worker.told("(it has not read all of the call)")


def test_one_that_writes_while_it_reads(client: Client, lone: StartLone) -> None:
    worker = lone("cat")
    for _ in range(3):
        with pytest.raises(ProtocolError, match="without a result"):
            client.call("tasks/echo", "x" * 300_000)
    assert worker.end() == 0
    worker = lone("sed", "-u", 's/"kwargs".*$/"result": 1}/')
    assert client.call("tasks/echo", "x" * 300_000) == 1


def test_one_that_prints_for_ever(client: Client, lone: StartLone) -> None:
    worker = lone("yes")
    with pytest.raises(ProtocolError, match="b'y', which is no JSON"):
        client.call("tasks/echo", 1)
    assert worker.ended() == RENEW


@pytest.mark.parametrize(("descriptor", "name"), [(0, "stdin"), (1, "stdout")])
def test_one_that_closes_its_end_and_lives_on(
    client: Client, lone: StartLone, descriptor: int, name: str
) -> None:
    worker = lone(*PROGRAM)
    program = client.call("tasks/pid")
    client.call("tasks/answer and close", descriptor)
    assert worker.ended() == ENDED, "though nobody asks it"
    worker.told(f"has closed its {name}, and is killed")
    wait_until(lambda: is_gone(program), "the program to be gone", PATIENCE)


@pytest.mark.parametrize(("descriptor", "name"), [(0, "stdin"), (1, "stdout")])
def test_one_that_closes_its_end_during_a_call(
    client: Client, lone: StartLone, descriptor: int, name: str
) -> None:
    close = f"import os, time; os.read(0, 10); os.close({descriptor}); time.sleep(60)"
    worker = lone(sys.executable, "-c", close)
    with pytest.raises(WorkerLost):
        client.call("tasks/echo", "x" * 300_000)
    assert worker.ended() == ENDED
    worker.told(f"has closed its {name}, and is killed")


@pytest.mark.parametrize("answers", [True, False])
def test_one_that_is_dead_while_a_child_has_its_stdout(
    client: Client, lone: StartLone, answers: bool
) -> None:
    worker = lone(*PROGRAM)
    if answers:
        assert client.call("tasks/leave a child", True) == "last"
    else:
        with pytest.raises(WorkerLost):
            client.call("tasks/leave a child", False)
    assert worker.ended() == ENDED
    worker.told("has ended (exit code 3)")
    os.killpg(worker.process.pid, signal.SIGKILL)  # as the pool does


LAST_WORDS = """
import os, signal, sys, time
sys.stdin.readline()
worker, program = os.getppid(), os.getpid()
os.kill(worker, signal.SIGSTOP)
print('{"id": 1, "result": "last"}', flush=True)
if os.fork():
    os._exit(0)
while os.getppid() == program:
    time.sleep(0.01)
time.sleep(0.2)
os.kill(worker, signal.SIGCONT)
time.sleep(60)
"""


def test_what_it_said_before_it_was_seen_to_be_dead_counts(client: Client, lone: StartLone) -> None:
    worker = lone(sys.executable, "-c", LAST_WORDS)
    assert client.call("tasks/echo") == "last"
    assert worker.ended() == ENDED
    os.killpg(worker.process.pid, signal.SIGKILL)  # as the pool does


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (35, "35")])
def test_the_signal_is_named(client: Client, lone: StartLone, number: int, name: str) -> None:
    worker = lone(*PROGRAM)
    with pytest.raises(WorkerLost):
        client.call("tasks/kill", number)
    assert worker.ended() == ENDED
    worker.told(f"has ended (signal {name})")


# --- what it is asked, and what it says -----------------------------------------------------


@pytest.mark.parametrize(
    "value", [b"bytes", {1: 2}, [{"a": ({None: 1},)}], math.nan, math.inf, {"a": [-math.inf]}, {1}]
)
def test_what_has_no_form_in_json(client: Client, lone: StartLone, value: object) -> None:
    lone(*PROGRAM)
    with pytest.raises(InvalidRequest, match="no form in json"):
        client.call("tasks/echo", value)
    with pytest.raises(InvalidRequest, match="no form in json"):
        client.call("tasks/named", x=value)
    assert client.call("tasks/echo", 1) == 1


def test_messagepack(client: Client, lone: StartLone) -> None:
    lone(*IN_MSGPACK, form="msgpack")
    value = {1: 2, b"bytes": [1.5, None], "inf": math.inf}
    assert client.call("tasks/echo", b"bytes", value) == [b"bytes", value]
    with pytest.raises(InvalidRequest, match="no form in msgpack"):
        client.call("tasks/echo", {1})


def test_what_is_printed_between_calls_is_logged(client: Client, lone: StartLone) -> None:
    worker = lone(*PROGRAM)
    stray = "".join(f"{text}\n" for text in ["x" * 600, *(f"line {n}" for n in range(12))])
    for number in (1, 2):
        text = f'{{"id": {number}, "result": {number}}}\n{stray}and so on'
        assert client.call("tasks/text", text) == number
    assert client.call("tasks/echo", 3) == 3
    assert worker.end() == 0
    lines = [line.partition(": ")[2] for line in worker.log.read_text().splitlines()]
    shown = ["x" * 500, *(f"line {n}" for n in range(9))]
    once = [f"has printed what is no answer: {text}" for text in shown]
    once.append(f"… and {100 + len('line 9 line 10 line 11 and so on')} bytes more")
    assert lines == 2 * once


def test_what_is_printed_between_calls_in_messagepack(client: Client, lone: StartLone) -> None:
    worker = lone(*IN_MSGPACK, form="msgpack")
    assert [client.call("tasks/after", number) for number in range(3)] == [[0], [1], [2]]
    assert worker.end() == 0
    assert worker.log.read_text().count("what is no answer: \\xff\x00stray\n") == 3


# --- its end --------------------------------------------------------------------------------


def test_it_may_save_what_it_has(client: Client, lone: StartLone, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    worker = lone(*PROGRAM, str(saved), "0.5")
    found: list[str] = []
    calling = threading.Thread(target=lambda: found.append(client.call("tasks/begin", 0.5)))
    calling.start()
    worker.told("begun")
    assert worker.end() == 0
    calling.join(PATIENCE)
    assert found == ["slept"], "the call in hand is finished"
    assert saved.read_text() == "saved"
    worker.told("has printed what is no answer: saving")
    worker.told(" bytes more")


def test_it_has_what_is_left_of_the_grace(client: Client, lone: StartLone, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    worker = lone(*PROGRAM, str(saved), "1.5", grace=2.0)
    program = client.call("tasks/pid")
    found: list[str] = []
    calling = threading.Thread(target=lambda: found.append(client.call("tasks/begin", 1.5)))
    calling.start()
    worker.told("begun")
    assert worker.end() == 0
    calling.join(PATIENCE)
    assert found == ["slept"]
    worker.told("it has not ended within the grace, and is killed")
    wait_until(lambda: is_gone(program), "the program to be gone", PATIENCE)
    assert not saved.exists()


@pytest.mark.parametrize("seconds", [0.3, 60])
def test_without_a_pool_it_ends_with_all_that_it_has_started(
    client: Client, lone: StartLone, tmp_path: Path, seconds: float
) -> None:
    saved = tmp_path / "saved"
    command = " ".join([*PROGRAM, str(saved), str(seconds)])
    worker = lone("sh", "-c", f"sleep 60 & {command}; sleep 60", grace=1.0)
    program = client.call("tasks/pid")
    worker.control.close()  # without having read what it was told
    worker.ended()
    wait_until(lambda: is_gone(program), "the program to end", PATIENCE)
    wait_until(lambda: not processes_of(worker.process.pid), "all others to end", PATIENCE)
    assert saved.exists() == (seconds < 1)


def test_what_a_killed_pool_leaves_ends(client: Client, start: StartPool, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    command = f"sleep 60 & {' '.join(PROGRAM)} {saved} 0.2; sleep 60"
    pool = start("--service", "tasks", "--grace", 1, "--stdio", "--", "sh", "-c", command)
    (pid,) = pool.ready(client, name="tasks")
    program = client.call("tasks/pid")
    pool.process.kill()  # so nobody reads what the worker says of that
    wait_until(lambda: is_gone(pid) and not processes_of(pid), "all to end", PATIENCE)
    wait_until(lambda: is_gone(program), "the program to be gone", PATIENCE)
    assert saved.exists()


def test_without_a_pool_a_malformed_answer_leaves_nothing(client: Client, lone: StartLone) -> None:
    worker = lone("sh", "-c", f"sleep 60 & {' '.join(PROGRAM)}; sleep 60")

    def stray() -> None:
        with pytest.raises(ProtocolError):
            client.call("tasks/begin", 0.5, "stray\n")

    calling = threading.Thread(target=stray)
    calling.start()
    worker.told("begun")
    worker.control.close()
    calling.join(PATIENCE)
    worker.ended()
    wait_until(lambda: not processes_of(worker.process.pid), "all to end", PATIENCE)


def test_its_memory_counts_with_that_of_its_children(client: Client, start: StartPool) -> None:
    command = " ".join(PROGRAM) + "; true"
    pool = start("--service", "tasks", "--max-memory", 300, "--stdio", "--", "sh", "-c", command)
    (pid,) = pool.ready(client, name="tasks")
    client.call("tasks/keep", 1)
    assert pool.ready(client, name="tasks") == [pid]
    client.call("tasks/keep", 400_000_000)

    def told() -> bool:
        with contextlib.suppress(ServiceUnavailable):
            client.call("tasks/keep", 1)  # it looks after a call, but not after each
        return "MiB of memory" in pool.log.read_text()

    wait_until(told, "it to be replaced", PATIENCE)
    another(client, pool, pid)


def test_several_programs_at_once(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--processes", 2, "--stdio", "--", *PROGRAM)
    pool.ready(client, 2, name="tasks")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(client.call("tasks/sleep", 0.5)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == ["slept", "slept"]


def test_there_is_no_such_program(start: StartPool, client: Client) -> None:
    pool = start("--service", "tasks", "--stdio", "--", "/there/is/no/such/program")
    assert pool.process.wait(PATIENCE) == 3
    assert "cannot start '/there/is/no/such/program'" in pool.log.read_text()


def test_a_program_that_dies_while_nobody_asks(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--stdio", "--", *PROGRAM)
    (pid,) = pool.ready(client, name="tasks")
    program = client.call("tasks/pid")
    os.kill(program, signal.SIGKILL)
    another(client, pool, pid)
    assert client.call("tasks/add", 2, 3) == 5


def test_its_last_words_count(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--stdio", "--", *PROGRAM)
    pool.ready(client, name="tasks")
    assert client.call("tasks/bye") == "bye"
    pool.told("has ended (exit code 0)")


PERL = """
use JSON::PP;
STDOUT->autoflush(1);
while (<STDIN>) {
    my $request = decode_json($_);
    print encode_json({id => $request->{id}, result => $request->{args}}), "\\n";
}
"""
NODE = """
require("readline").createInterface({input: process.stdin}).on("line", line => {
    const request = JSON.parse(line);
    process.stdout.write(JSON.stringify({id: request.id, result: request.args}) + "\\n");
});
"""


@pytest.mark.parametrize("command", [("perl", "-e", PERL), ("node", "-e", NODE)])
def test_other_languages(client: Client, lone: StartLone, command: tuple[str, ...]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    worker = lone(*command)
    for value in (1, "x" * 1_000_000, {"a": [None, True, 1.5]}):
        assert client.call("tasks/echo", value) == [value]
    assert worker.end() == 0
    assert worker.log.read_text() == ""


# --- private pipes --------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["sh", "python"])
def test_what_prints_before_during_and_after_answers_over_private_pipes(
    client: Client, start: StartPool, tmp_path: Path, language: str
) -> None:
    """Nothing that is printed can be taken for an answer."""
    if language == "sh":
        (script,) = re.findall(r"```sh\n(# tasks\.sh.*?)```", WORKERS_PAGE, re.S)
        program = tmp_path / "tasks.sh"
        program.write_text(script + "echo the end\n")
        command: tuple[str, ...] = ("sh", str(program))
    else:
        command = (sys.executable, "-c", PRINTING)
    pool = start("--service", "tasks", "--stdio", "--private", "--", *command)
    (pid,) = pool.ready(client, name="tasks")
    for _ in range(20):
        assert client.call("tasks/do", 1) == "done"
    assert pool.ready(client, name="tasks") == [pid], "it goes on"
    pool.told("asked: ")
    assert pool.end() == 0
    pool.told("the end")


def test_without_a_program_there_are_no_private_pipes(broker: BrokerProcess) -> None:
    assert run(broker, "tests.workers.apps:app", "--private").returncode == 2
