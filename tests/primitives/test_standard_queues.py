"""The tests that CPython has for its queues, with ours in their place.

docs/queues.md lists what is not as in `queue`.
"""

from __future__ import annotations

import queue
from typing import Any

from .standard import OnABus, of_cpython

standard: Any = of_cpython("test_queue")


class Named(OnABus):
    """The tests make queues of `type2test`; ours are made by a client."""

    queue = queue
    kind = "queue"

    def __init_subclass__(cls) -> None:
        # Python 3.13 can shut a queue; these belong to nobody who could.
        for name in dir(cls):
            if name.startswith("test_shutdown"):
                setattr(cls, name, None)

    def type2test(self, maxsize: int = 0) -> Any:
        return getattr(self.client, self.kind)(self.name(), maxsize)


class TestQueue(standard.BaseQueueTestMixin, Named):  # type: ignore[misc]
    pass


class TestLifoQueue(standard.BaseQueueTestMixin, Named):  # type: ignore[misc]
    kind = "lifo_queue"


class TestPriorityQueue(standard.BaseQueueTestMixin, Named):  # type: ignore[misc]
    kind = "priority_queue"


class TestSimpleQueue(standard.BaseSimpleQueueTest, Named):  # type: ignore[misc]
    # An item is an object of its own for each who gets it.
    test_references = None
