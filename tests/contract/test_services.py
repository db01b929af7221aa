"""Services: functions that one client serves and others call."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.abc
import pytest

import udsbus
from udsbus import (
    AsyncClient,
    AsyncServed,
    AsyncStream,
    BadArguments,
    Conflict,
    InvalidRequest,
    LimitExceeded,
    RemoteError,
    RequestTimeout,
    ServiceUnavailable,
    UnknownMethod,
    UnsupportedValue,
)

from .conftest import Connect
from .support import Task, until

pytestmark = pytest.mark.anyio


class Calc:
    """As many would write it: it knows nothing of udsbus."""

    constant = 7

    def __init__(self) -> None:
        self.sums = 0

    def add(self, a: int, b: int = 1, *, double: bool = False) -> int:
        """Add them.

        Or nearly."""
        self.sums += 1
        return 2 * (a + b) if double else a + b

    def divide(self, a: int, b: int) -> float:
        return a / b

    def back(self, *values: Any, **named: Any) -> Any:
        return [list(values), named]

    def count(self, up_to: int) -> Iterator[int]:
        yield from range(up_to)

    @property
    def dangerous(self) -> int:
        raise AssertionError("a property is not carried out")

    def _inside(self) -> None:
        raise AssertionError("this is not offered")


class Odd(Exception):
    """Known where this module is imported."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


async def served(client: AsyncClient, name: str, target: Any, **options: Any) -> AsyncServed:
    found = client.service(name, target, **options)
    await found.offered()
    return found


async def streamed(client: AsyncClient, name: str, *args: Any) -> AsyncStream:
    found: AsyncStream = await client.call(name, *args)
    return found


async def test_methods_of_an_object_are_called(client: AsyncClient, other: AsyncClient) -> None:
    calc = Calc()
    await served(client, "calc", calc)
    assert await other.call("calc/add", 2, 3) == 5
    assert await other.call("calc/add", 2, b=5, double=True) == 14
    assert await other.call("calc/back", (1, 2), {3}, x=b"4") == [[(1, 2), {3}], {"x": b"4"}]
    assert await client.call("calc/add", 2) == 3, "its own too"
    assert calc.sums == 3


async def test_a_class_is_made_one_object_of(client: AsyncClient, other: AsyncClient) -> None:
    @client.service("sums")
    class Sums(Calc):
        def how_many(self) -> int:
            return self.sums

    assert Sums.__name__ == "Sums", "the decorator leaves it as it is"
    await client.call("sums/add", 1)
    assert await other.call("sums/add", 1) == 2
    assert await other.call("sums/how_many") == 2


async def test_a_function_is_called_by_the_name_of_its_service(
    client: AsyncClient, other: AsyncClient
) -> None:
    @client.service("texts/shout")
    def shout(text: str) -> str:
        return text.upper()

    assert await client.call("texts/shout", "a") == "A"
    assert await other.call("texts/shout", text="b") == "B"
    with pytest.raises(UnknownMethod, match="is one function, and has no method 'loud'"):
        await other.call("texts/shout/loud", "c")
    assert shout("d") == "D"


async def test_coroutine_functions(client: AsyncClient, other: AsyncClient) -> None:
    class Slow:
        async def twice(self, number: int) -> int:
            await anyio.sleep(0)
            return 2 * number

        async def count(self, up_to: int) -> AsyncIterator[int]:
            for number in range(up_to):
                yield number

        def plain(self) -> str:
            return "beside them"

    await served(client, "slow", Slow())
    assert await other.call("slow/twice", 4) == 8
    assert await other.call("slow/plain") == "beside them"
    assert [item async for item in await other.call("slow/count", 200)] == list(range(200))


async def test_a_service_as_an_object(client: AsyncClient, other: AsyncClient) -> None:
    await served(client, "calc", Calc())
    await served(client, "double", lambda number: 2 * number)
    calc = other.service_proxy("calc", timeout=5.0)
    assert await calc.add(2, b=3) == 5
    assert await other.service_proxy("double")(4) == 8
    assert "calc" in repr(calc)
    with pytest.raises(AttributeError):
        calc._private  # noqa: B018
    with pytest.raises(InvalidRequest):
        other.service_proxy("")


# --- what goes wrong -------------------------------------------------------------------------


async def test_nobody_serves_it(client: AsyncClient, other: AsyncClient, kind: str) -> None:
    rare = f"rare-{kind}"
    with anyio.fail_after(5), pytest.raises(ServiceUnavailable, match="has ever offered") as never:
        await client.call(f"{rare}/add", 1, 2, timeout=60)
    assert never.value.details == {"service": rare}
    service = await served(other, rare, Calc())
    assert await client.call(f"{rare}/add", 1, 2) == 3
    await service.stop()
    with anyio.fail_after(5), pytest.raises(ServiceUnavailable, match="have all ended"):
        await client.call(f"{rare}/add", 1, 2, timeout=60)
    await served(other, rare, Calc())
    assert await client.call(f"{rare}/add", 1, 2) == 3, "it is found again"


async def test_it_goes_with_its_client(client: AsyncClient, connect: Connect) -> None:
    async with connect() as leaving:
        await served(leaving, "calc", Calc())
        assert await client.call("calc/add", 1, 2) == 3
    assert [found.name for found in await client.services()] == []
    with pytest.raises(ServiceUnavailable):
        await client.call("calc/add", 1, 2)


async def test_unknown_and_private_methods(client: AsyncClient, other: AsyncClient) -> None:
    await served(client, "calc", Calc())
    known = "it has calc/add, calc/back, calc/count, calc/divide"
    for method in ("nothing", "_inside", "__init__", "constant", "dangerous"):
        with pytest.raises(UnknownMethod, match=known):
            await other.call(f"calc/{method}")
    with pytest.raises(UnknownMethod, match="has several functions"):
        await other.call("calc")
    for wrong in ("", "calc//add", "*/add", "$sys/x/add"):
        with pytest.raises((InvalidRequest, ServiceUnavailable)):
            await other.call(wrong)


async def test_arguments_are_checked_before_the_call(
    client: AsyncClient, other: AsyncClient
) -> None:
    calc = Calc()
    await served(client, "calc", calc)
    for args, kwargs, why in (
        ((), {}, "missing a required argument: 'a'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"c": 2}, "unexpected keyword argument 'c'"),
        ((1,), {"a": 2}, "multiple values for argument 'a'"),
    ):
        with pytest.raises(BadArguments, match=why) as refused:
            await other.call("calc/add", *args, **kwargs)
        assert isinstance(refused.value, TypeError)
        assert "(a: " in str(refused.value), "it says what would be right"
    assert calc.sums == 0
    with pytest.raises(UnsupportedValue, match=r"an argument of calc/add.*type object"):
        await other.call("calc/add", object())
    with pytest.raises(LimitExceeded, match="the arguments of calc/add take"):
        await other.call("calc/add", b"x" * 40_000_000)
    assert await other.call("calc/add", 1) == 2


async def test_exceptions_come_back_as_what_they_were(
    client: AsyncClient, other: AsyncClient
) -> None:
    def fail(how: str) -> None:
        class Local(Exception):
            pass

        kinds: dict[str, BaseException] = {
            "built in": KeyError("a", 2), "shared": Odd(3), "of the bus": Conflict("other"),
            "ends": StopIteration(3), "unknown": Local("hidden"), "the end": SystemExit(4),
            "large": ValueError("x" * 10**6), "strange": ValueError(object()),
        }  # fmt: skip
        raise kinds[how]

    await served(client, "fail", fail)
    with pytest.raises(KeyError) as built_in:
        await other.call("fail", "built in")
    assert built_in.value.args == ("a", 2)
    cause = built_in.value.__cause__
    assert isinstance(cause, RemoteError)
    assert "raise kinds[how]" in str(cause)
    assert "worker.py" not in str(cause), "without the frames of udsbus itself"
    with pytest.raises(Odd, match="code 3"):
        await other.call("fail", "shared")
    with pytest.raises(Conflict, match="other"):
        await other.call("fail", "of the bus")
    with pytest.raises(RemoteError, match="Local: hidden") as unknown:
        await other.call("fail", "unknown")
    assert unknown.value.details["type"].endswith("fail.<locals>.Local")
    assert "raise kinds[how]" in unknown.value.details["traceback"]
    with pytest.raises((RemoteError, RuntimeError), match="StopIteration"):  # as Python has it
        await other.call("fail", "ends")
    with pytest.raises(RemoteError, match="SystemExit: 4"):
        await other.call("fail", "the end")
    with pytest.raises(ValueError, match="xxx"):
        await other.call("fail", "large")
    with pytest.raises(ValueError, match="object object"):
        await other.call("fail", "strange")
    with pytest.raises(KeyError):
        await other.call("fail", "built in")  # it still serves


async def test_results_that_cannot_be_sent(client: AsyncClient, other: AsyncClient) -> None:
    await served(client, "odd", lambda: object())
    await served(client, "large", lambda: b"x" * 40_000_000)
    with pytest.raises(UnsupportedValue, match="what odd returned"):
        await other.call("odd")
    with pytest.raises(LimitExceeded, match="the results of large take"):
        await other.call("large")


async def test_large_arguments_and_results(client: AsyncClient, other: AsyncClient) -> None:
    await served(client, "echo", lambda value: value)
    for size in (100_000, 5_000_000):
        assert await other.call("echo", b"x" * size) == b"x" * size


async def test_wrong_options(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest, match="retry is how often"):
        client.service("x", Calc(), retry=-1)
    with pytest.raises(InvalidRequest, match="concurrency is how many"):
        client.service("x", Calc(), concurrency=0)
    with pytest.raises(udsbus.AccessDenied):
        client.service("$sys/x", Calc())
    with pytest.raises(InvalidRequest, match="no public methods"):
        client.service("x", object())
    with pytest.raises(InvalidRequest, match="timeout"):
        await client.call("x", timeout=0)


# --- several workers -------------------------------------------------------------------------


async def test_workers_get_calls_in_turn(client: AsyncClient, connect: Connect) -> None:
    async with connect() as first, connect() as second, connect() as third:
        for number, each in enumerate((first, second, third)):
            await served(each, "who", partial(int, number))
        found = [await client.call("who") for _ in range(9)]
        assert sorted(found[:3]) == [0, 1, 2]
        assert found == 3 * found[:3]


async def test_a_busy_worker_is_passed_over(
    client: AsyncClient, other: AsyncClient, connect: Connect, tasks: anyio.abc.TaskGroup
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert go_on.wait(20)
        return "waited"

    class Waits:
        def __init__(self, name: str) -> None:
            self.name = name

        def who(self) -> str:
            return self.name

        def wait(self) -> str:
            return wait()

    async with connect() as first, connect() as second:
        await served(first, "who", Waits("first"))
        await served(second, "who", Waits("second"))
        waiting = Task(tasks, partial(client.call, "who/wait"))
        await anyio.to_thread.run_sync(begun.wait, 20)
        found = {await other.call("who/who") for _ in range(10)}
        assert len(found) == 1, "only the one that is free"
        (service,) = await other.services("who")
        assert sorted(worker.free or 0 for worker in service.workers) == [0, 1]
        go_on.set()
        assert await waiting.result() == "waited"
        assert {await other.call("who/who") for _ in range(10)} == {"first", "second"}


async def test_when_all_are_busy_one_waits_for_the_first_that_is_free(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def work(number: int) -> int:
        if number < 0:
            begun.set()
            assert go_on.wait(20)
        done.append(number)
        return number

    await served(other, "work", work)
    first = Task(tasks, partial(client.call, "work", -1))
    await anyio.to_thread.run_sync(begun.wait, 20)
    with pytest.raises(RequestTimeout, match="work: its worker is busy"):
        await client.call("work", 5, timeout=0.2)
    others = [Task(tasks, partial(client.call, "work", number)) for number in range(10)]
    go_on.set()
    assert await first.result() == -1
    assert [await each.result() for each in others] == list(range(10))
    assert sorted(done) == list(range(-1, 10)), "and what timed out was never begun"


async def test_as_many_at_once_as_is_said(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    together = threading.Barrier(3)
    await served(other, "meet", lambda: together.wait(20), concurrency=3)
    meeting = [Task(tasks, partial(client.call, "meet")) for _ in range(3)]
    assert sorted([await each.result() for each in meeting]) == [0, 1, 2]
    together.reset()
    meeting = [Task(tasks, partial(client.call, "meet")) for _ in range(3)]
    assert sorted([await each.result() for each in meeting]) == [0, 1, 2]


async def test_coroutines_at_once(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    there: list[anyio.Event] = []

    async def meet() -> int:
        mine = anyio.Event()
        there.append(mine)
        if len(there) == 3:
            for each in there:
                each.set()
        await mine.wait()
        return len(there)

    await served(other, "meet", meet, concurrency=3)
    meeting = [Task(tasks, partial(client.call, "meet")) for _ in range(3)]
    assert [await each.result() for each in meeting] == [3, 3, 3]


async def test_services_are_listed(client: AsyncClient, connect: Connect) -> None:
    async with connect(name="worker one") as first:
        await served(first, "calc", Calc(), retry=2, concurrency=4)
        await served(client, "a/shout", str.upper)
        calc, shout = (await client.services())[1], (await client.services("a/*"))[0]
        assert (calc.name, calc.retry) == ("calc", 2)
        assert calc.methods["add"] == (
            "(a: int, b: int = 1, *, double: bool = False) -> int", "Add them.",
        )  # fmt: skip
        assert [worker.client for worker in calc.workers] == ["worker one"]
        assert [(worker.concurrency, worker.free) for worker in calc.workers] == [(4, 4)]
        assert (shout.name, list(shout.methods)) == ("a/shout", [""])
        assert await client.services("nothing/*") == []


# --- time-outs, ends and streams -------------------------------------------------------------


async def test_a_time_out_reaches_the_worker(client: AsyncClient, other: AsyncClient) -> None:
    told: list[tuple[float | None, bool, str]] = []
    begun, over = threading.Event(), threading.Event()

    def slow() -> None:
        call = udsbus.current_call()
        left = call.seconds_left
        begun.set()
        while not call.cancelled:
            threading.Event().wait(0.005)
        told.append((left, call.cancelled, call.function))
        over.set()
        threading.Event().wait(0.1)  # else the answer could come before whoever called has given up

    await served(other, "slow", slow)
    with pytest.raises(RequestTimeout, match="slow: no answer from the worker"):
        await client.call("slow", timeout=0.3)
    assert await anyio.to_thread.run_sync(over.wait, 20)
    left, cancelled, function = told[0]
    assert left is not None
    assert 0 < left <= 0.3
    assert (cancelled, function) == (True, "slow")
    with pytest.raises(InvalidRequest, match="no call of a service"):
        udsbus.current_call()


async def test_an_answer_that_is_late_is_not_sent(client: AsyncClient, other: AsyncClient) -> None:
    """Whoever called gets a time-out, however late it looks."""

    def late() -> str:
        while not udsbus.current_call().cancelled:
            time.sleep(0.001)
        return "as soon as nobody waits"

    await served(other, "late", late)
    for _ in range(20):
        with pytest.raises(RequestTimeout):
            await client.call("late", timeout=0.05)


async def test_a_coroutine_is_cancelled_when_nobody_waits(
    client: AsyncClient, other: AsyncClient
) -> None:
    ended = threading.Event()

    async def slow() -> None:
        try:
            await anyio.sleep(60)
        finally:
            ended.set()

    await served(other, "slow", slow)
    with pytest.raises(RequestTimeout):
        await client.call("slow", timeout=0.2)
    assert await anyio.to_thread.run_sync(ended.wait, 20)


async def test_whoever_leaves_ends_the_call(
    client: AsyncClient, connect: Connect, tasks: anyio.abc.TaskGroup, kind: str
) -> None:
    if kind == "sync":
        pytest.skip("a thread of a sync client cannot be cancelled")
    begun, ended = threading.Event(), threading.Event()

    async def slow() -> None:
        begun.set()
        try:
            await anyio.sleep(60)
        finally:
            ended.set()

    await served(client, "slow", slow)
    async with connect() as leaving, anyio.create_task_group() as group:
        group.start_soon(partial(leaving.call, "slow"))
        assert await anyio.to_thread.run_sync(begun.wait, 20)
        group.cancel_scope.cancel()
    assert await anyio.to_thread.run_sync(ended.wait, 20)


async def test_a_generator_streams(client: AsyncClient, other: AsyncClient) -> None:
    await served(client, "calc", Calc())
    stream = await streamed(other, "calc/count", 1000)
    assert [item async for item in stream] == list(range(1000))
    async with await streamed(other, "calc/count", 3) as few:
        assert [item async for item in few] == [0, 1, 2]
    assert await other.call("calc/add", 1) == 2, "the connection is used again"


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_time_of_a_stream_is_for_each_item(
    client: AsyncClient, other: AsyncClient, is_async: bool
) -> None:
    def slowly() -> Iterator[tuple[bool, float | None]]:
        for _ in range(3):
            time.sleep(1.0)
            yield udsbus.current_call().cancelled, udsbus.current_call().seconds_left

    async def slowly_async() -> AsyncIterator[tuple[bool, float | None]]:
        for _ in range(3):
            await anyio.sleep(1.0)
            yield udsbus.current_call().cancelled, udsbus.current_call().seconds_left

    await served(client, "slowly", slowly_async if is_async else slowly)
    found = [item async for item in await other.call("slowly", timeout=2.5)]
    assert [cancelled for cancelled, _ in found] == 3 * [False]
    assert all(0 < left < 2 for _, left in found)


async def test_a_stream_that_fails(client: AsyncClient, other: AsyncClient) -> None:
    def count(at: int) -> Iterator[Any]:
        for number in range(10):
            if number == at:
                raise LookupError(number)
            if number == 2 * at:
                yield object()
            yield number

    await served(client, "count", count)
    found = []
    with pytest.raises(LookupError):
        async for item in await other.call("count", 4):
            found.append(item)
    assert found == [0, 1, 2, 3]
    with pytest.raises(UnsupportedValue, match="what count returned"):
        async for _ in await other.call("count", 0.5):
            pass


async def test_a_stream_waits_for_whoever_takes_it(client: AsyncClient, other: AsyncClient) -> None:
    made = 0
    closed = threading.Event()

    def large() -> Iterator[bytes]:
        nonlocal made
        try:
            while True:
                made += 1
                yield b"x" * 100_000
        finally:
            closed.set()

    await served(client, "large", large)
    stream = await streamed(other, "large")
    assert len(await anext(aiter(stream))) == 100_000

    seen = -1

    async def settled() -> bool:
        nonlocal seen
        seen, before = made, seen
        await anyio.sleep(0.2)
        return made == before

    await until(settled, "the worker to wait")
    assert made < 200, "it does not go on when nobody takes it"
    stream.close()
    assert await anyio.to_thread.run_sync(closed.wait, 20), "and ends with the stream"


async def test_a_worker_that_is_stopped_finishes_what_it_has(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert go_on.wait(20)
        return "finished"

    service = await served(other, "wait", wait)
    assert "serving" in repr(service)
    calling = Task(tasks, partial(client.call, "wait"))
    assert await anyio.to_thread.run_sync(begun.wait, 20)
    stopping = Task(tasks, partial(service.stop, 20.0))

    async def withdrawn() -> bool:
        return not await client.services("wait")

    await until(withdrawn, "it to be withdrawn")
    with pytest.raises(ServiceUnavailable):
        await client.call("wait")
    go_on.set()
    assert await calling.result() == "finished"
    await stopping.result()
    assert "leaving" in repr(service)


async def test_it_serves_until_sigterm(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup, kind: str
) -> None:
    await served(client, "calc", Calc())
    if kind == "sync":  # which the test asks in another thread
        with pytest.raises(InvalidRequest, match="only the main thread"):
            await client.serve(grace=5.0)
        return
    before = signal.getsignal(signal.SIGTERM)
    serving = Task(tasks, partial(client.serve, grace=5.0))

    async def waits() -> bool:
        return signal.getsignal(signal.SIGTERM) is not before

    await until(waits, "it to wait for signals")
    assert await other.call("calc/add", 1) == 2
    os.kill(os.getpid(), signal.SIGTERM)
    await serving.result()
    with pytest.raises(ServiceUnavailable):
        await other.call("calc/add", 1)


class Evil(Exception):
    """Of somebody who has not thought of those who would look at it."""

    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no arguments")

    def __str__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_whatever_is_raised_the_worker_lives(
    client: AsyncClient, other: AsyncClient, asynchronous: bool
) -> None:
    kinds: dict[str, BaseException] = {
        "surrogate": ValueError("bad name \udcff"), "evil": Evil(), "the end": SystemExit(3),
    }  # fmt: skip

    def fail(how: str) -> None:
        raise kinds[how]

    def stream(how: str) -> Iterator[int]:
        yield 1
        raise kinds[how]

    async def fail_async(how: str) -> None:
        raise kinds[how]

    async def stream_async(how: str) -> AsyncIterator[int]:
        yield 1
        raise kinds[how]

    await served(client, "fail", fail_async if asynchronous else fail)
    await served(client, "stream", stream_async if asynchronous else stream)
    for how in kinds:
        with pytest.raises((ValueError, RemoteError)):
            await other.call("fail", how)
        found = []
        with pytest.raises((ValueError, RemoteError)):
            async for item in await streamed(other, "stream", how):
                found.append(item)
        assert found == [1]

    async def all_free() -> bool:
        free = [worker.free for each in await other.services() for worker in each.workers]
        assert max(number or 0 for number in free) == 1, "a byte too many"
        return free == [1, 1]

    await until(all_free, "both to be free again")


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_one_call_at_a_time(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup, asynchronous: bool
) -> None:
    inside = most = 0

    def enter() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)

    async def short() -> None:
        nonlocal inside
        enter()
        await anyio.sleep(0.001)
        inside -= 1

    def short_sync() -> None:
        nonlocal inside
        enter()
        threading.Event().wait(0.001)
        inside -= 1

    await served(client, "short", short if asynchronous else short_sync)

    async def many() -> None:
        for _ in range(150):
            await other.call("short")

    for task in [Task(tasks, many) for _ in range(3)]:
        await task.result()
    assert most == 1


async def test_a_thread_that_nobody_waits_for_still_counts(
    client: AsyncClient, other: AsyncClient
) -> None:
    go_on = threading.Event()
    inside = most = 0

    class Mixed:
        async def other(self) -> int:
            return 1

        def wait(self) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            go_on.wait(20)
            inside -= 1

    await served(client, "mixed", Mixed())
    for _ in range(3):
        with pytest.raises(RequestTimeout):
            await other.call("mixed/wait", timeout=0.2)
    assert most == 1
    go_on.set()
    assert await other.call("mixed/other") == 1


async def test_it_can_be_stopped_in_its_own_call(client: AsyncClient, other: AsyncClient) -> None:
    def end() -> str:
        service._of.stop(20.0)  # type: ignore[attr-defined]  # in the thread that carries it out
        return "ended"

    async def end_async() -> str:
        await service.stop(20.0)
        return "ended"

    is_sync = not isinstance(client, AsyncClient)
    service = await served(client, "end", end if is_sync else end_async)
    with anyio.fail_after(10):
        assert await other.call("end") == "ended"


async def test_a_stream_that_is_left_ends(client: AsyncClient, other: AsyncClient) -> None:
    await served(client, "calc", Calc())
    async for item in await streamed(other, "calc/count", 10**9):
        assert item == 0
        break
    gc.collect()
    assert await other.call("calc/add", 1) == 2


async def test_nothing_is_left_of_calls_and_services(
    client: AsyncClient, other: AsyncClient
) -> None:
    async def round_of_calls(number: int) -> None:
        service = await served(client, "calc", Calc(), concurrency=3)
        assert await other.call("calc/add", 1) == 2
        with pytest.raises(ServiceUnavailable):
            await other.call(f"nobody/{number}/nothing")
        with pytest.raises(UnknownMethod):
            await other.call(f"calc/nothing{number}")
        await service.stop()

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    await round_of_calls(0)
    gc.collect()
    before = descriptors()
    for number in range(20):
        await round_of_calls(number)
    gc.collect()
    assert descriptors() <= before + 4

    async def threads_have_ended() -> bool:
        return not any(thread.name.startswith("udsbus calc") for thread in threading.enumerate())

    await until(threads_have_ended, "the threads to end")


async def test_a_name_is_served_once_by_a_client(client: AsyncClient) -> None:
    await served(client, "calc", Calc())
    with pytest.raises(InvalidRequest, match="serves 'calc' already"):
        client.service("calc", Calc())
    with pytest.raises(InvalidRequest, match="needs the name of the service"):
        client.service(Calc)  # type: ignore[call-overload]
