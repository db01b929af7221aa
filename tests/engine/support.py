"""What the engine's tests share: how thorough to be, what to count, and names to play with."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.engine.changelog import ChangeLog

T = TypeVar("T")

THOROUGHNESS = int(os.environ.get("UDSBUS_TEST_THOROUGHNESS", "1"))
"""Times as many examples as usual. Above 1 they are also others at each run."""


def examples(number: int, **more: Any) -> settings:
    """Settings for a property: `number` examples, the same ones at each run."""
    return settings(
        max_examples=number * THOROUGHNESS,
        derandomize=THOROUGHNESS == 1,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        **more,
    )


def steps(function: Callable[..., Any], *arguments: Any) -> int:
    """Lines of Python that a call carries out: its cost, the same on every machine and day."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    gc.disable()  # a collection may carry out lines of others' callbacks
    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
        gc.enable()
    return count


def pages(ask: Callable[[str | None], tuple[T, str | None]]) -> Iterator[T]:
    """Page after page, as `ask(after)` gives them together with the next `after`."""
    before = ""
    after = None
    while True:
        page, after = ask(after)
        yield page
        if after is None:
            return
        assert after > before, "the next page must begin further on"
        before = after


class TextNumbers:
    """Numbers as decimal text. The engine does not care how values are encoded."""

    def decode(self, data: bytes) -> Any:
        text = data.decode()
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                pass
        return text

    def encode(self, value: Any) -> bytes:
        return repr(value).encode()


def recorded(effects: list[m.Effect]) -> list[m.Recorded | m.DeadlineMoved | m.Owned]:
    """What a journal gives back of effects."""
    return [
        m.Recorded(*effect[:6]) if isinstance(effect, m.Change) else effect
        for effect in effects
        if not isinstance(effect, m.Message)
    ]


def new_engine(log: ChangeLog | None = None) -> Engine:
    return Engine(TextNumbers(), log)


def joined(*segments: str, most: int = 4) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(segments), min_size=1, max_size=most).map("/".join)


names = joined("a", "b", "a-b", "$a")
"""Few, so that they meet. `-` sorts before `/`, so that `a-b` stands between `a` and `a/b`."""
patterns = joined("a", "b", "a-b", "$a", "*", "**")
