"""The sync client behind the face of the async one, so that one test is for both.

What is awaited the async class says; the sync object is asked in a thread. A task is to the async
client what a thread is to the sync one: each task has a thread of its own here. So what depends on
who asks (who may acquire an RLock again, a connection for each thread) stays as it is, and what two
tasks do at once two threads do.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Generator, MappingView
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self, TypeVar, cast

import anyio
import anyio.to_thread

import udsbus
from udsbus import AsyncClient

T = TypeVar("T")

TWINS: dict[type, type] = {
    getattr(udsbus, name.removeprefix("Async")): getattr(udsbus, name)
    for name in udsbus._WHERE
    if name.startswith("Async")
}
"""Sync class → the async one that it is to look like."""
END = object()


class Threads:
    """A thread for each task."""

    def __init__(self) -> None:
        self._of_tasks: dict[int, ThreadPoolExecutor] = {}
        self._left: list[ThreadPoolExecutor] = []
        """Those that still did something for their tasks when these were cancelled."""

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """In the thread of this task. When the task is cancelled, the thread goes on alone, and the
        task gets another."""
        future = self._mine().submit(function, *args)
        try:
            return await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True)
        finally:
            if not future.done():
                self._left.append(self._of_tasks.pop(anyio.get_current_task().id))

    def call_at_once(self, function: Callable[..., T], *args: Any) -> T:
        """The same for what the async client does without waiting."""
        return self._mine().submit(function, *args).result()

    def join(self) -> None:
        for thread in [*self._of_tasks.values(), *self._left]:
            thread.shutdown()

    def _mine(self) -> ThreadPoolExecutor:
        task = anyio.get_current_task().id
        if task not in self._of_tasks:
            self._of_tasks[task] = ThreadPoolExecutor(1)
        return self._of_tasks[task]


class Adapted:
    """A sync object, as if it were of the class `twin`."""

    def __init__(self, of: Any, twin: type, threads: Threads) -> None:
        self._of = of
        self._twin = twin
        self._threads = threads

    def __getattr__(self, name: str) -> Any:
        found = inspect.getattr_static(self._twin, name, None)
        if found is None and hasattr(self._twin, "__getattr__"):  # of a proxy, whose methods wait
            return partial(self._awaited, getattr(self._of, name))
        is_property = isinstance(found, property)
        waits = inspect.iscoroutinefunction(found.fget if isinstance(found, property) else found)
        if is_property and waits:
            return self._awaited(getattr, self._of, name)
        if is_property:
            return self._at_once(getattr, self._of, name)
        if callable(found):
            return partial(self._awaited if waits else self._at_once, getattr(self._of, name))
        return self._seen(getattr(self._of, name))

    async def _awaited(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        return self._seen(await self._threads.call(_call_of(function, args, options)))

    def _at_once(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        return self._seen(self._threads.call_at_once(_call_of(function, args, options)))

    def _seen(self, value: Any) -> Any:
        """What a test gets of it."""
        if value is self._of:
            return self
        if isinstance(value, MappingView):  # of a dict; the async one, which is none, has lists
            return self._threads.call_at_once(list, value)
        if inspect.ismethod(value) and type(value.__self__) in TWINS:
            return getattr(self._seen(value.__self__), value.__name__)
        twin = TWINS.get(type(value))
        if twin is None and isinstance(value, contextlib.AbstractContextManager):
            twin = contextlib.AbstractAsyncContextManager
        return value if twin is None else Adapted(value, twin, self._threads)

    def __call__(self, *args: Any, **options: Any) -> Any:
        self._check_is_there("__call__")
        return self._awaited(self._of, *args, **options)

    async def __aenter__(self) -> Any:
        self._check_is_there("__aenter__")
        return await self._awaited(self._of.__enter__)

    async def __aexit__(self, *error: Any) -> Any:
        return await self._awaited(self._of.__exit__, *error)

    def __enter__(self) -> Any:
        """Of what is a plain context manager with both clients."""
        return self._at_once(self._of.__enter__)

    def __exit__(self, *error: Any) -> Any:
        return self._at_once(self._of.__exit__, *error)

    def __await__(self) -> Generator[Any, Any, Self]:
        self._check_is_there("__await__")
        yield from ()
        return self

    def __aiter__(self) -> Iteration:
        self._check_is_there("__aiter__")
        return Iteration(self._of, self._threads)

    def _check_is_there(self, name: str) -> None:
        assert hasattr(self._twin, name), f"{self._twin.__name__} has no {name}"

    def __repr__(self) -> str:
        return repr(self._of)


class Iteration:
    def __init__(self, over: Any, threads: Threads) -> None:
        self._over = over
        self._items: Any = None
        self._threads = threads

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._items is None:
            self._items = await self._threads.call(iter, self._over)
        item = await self._threads.call(next, self._items, END)
        if item is END:
            raise StopAsyncIteration
        return item


def _call_of(
    function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
) -> Callable[[], Any]:
    def plain(value: Any) -> Any:
        return value._of if isinstance(value, Adapted) else value

    return partial(
        function, *map(plain, args), **{name: plain(value) for name, value in options.items()}
    )


@contextlib.asynccontextmanager
async def connect(threads: Threads, *args: Any, **options: Any) -> AsyncIterator[AsyncClient]:
    """`udsbus.connect_async`, of a sync client."""
    client = await threads.call(partial(udsbus.connect, *args, **options))
    try:
        yield cast(AsyncClient, Adapted(client, AsyncClient, threads))
    finally:
        threads.call_at_once(client.close)  # which ends what waits, too
