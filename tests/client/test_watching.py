"""The core of a watch against a simulated broker: following it always gives the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from udsbus import InvalidRequest, LimitExceeded
from udsbus.client.watching import WatchCore

from .followed import LOG_CHANGES, FollowedBus

KEYS = ["a/b", "a/c", "a/d/e", "a", "c"]


def step(function: Callable[..., None], *arguments: Any) -> Any:
    return (function, *arguments)


STEPS: list[Any] = [
    *[step(FollowedBus.set, key) for key in KEYS],
    *[step(FollowedBus.delete, key) for key in KEYS],
    *[step(FollowedBus.transact, *keys) for keys in (KEYS[:3], KEYS[1:4], KEYS)],
    step(FollowedBus.set, "a/b", 2.0),
    step(FollowedBus.pass_time),
    step(FollowedBus.answer),
    step(FollowedBus.end_turn),
    step(FollowedBus.beat),
    *[step(FollowedBus.receive)] * 3,
    *[step(FollowedBus.round_trip)] * 4,
    *[step(FollowedBus.cut)] * 2,
    step(FollowedBus.restart),
    step(FollowedBus.catch_up),
]


LOSS = step(FollowedBus.restart)


@settings(
    max_examples=1_500, derandomize=True, deadline=None, phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(
    pattern=st.sampled_from(["a/**", "**", "a/*", "a/b"]),
    begin=st.sampled_from([(True, None), (True, None), (False, None), (False, 0), (False, 3)]),
    before=st.lists(st.sampled_from(KEYS), max_size=6),
    steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=30),
)
@example("a/**", (True, None), ["a/b", "a/c"], [*[step(FollowedBus.round_trip)] * 2, LOSS])
def test_following_gives_the_truth(
    pattern: str, begin: tuple[bool, int | None], before: list[str], steps: list[Any]
) -> None:
    initial, since = begin
    bus = FollowedBus(pattern, initial=initial, since=since, before=before)
    for function, *arguments in steps:
        function(bus, *arguments)
    bus.catch_up()


def test_a_key_that_was_not_told_of_is_not_updated() -> None:
    """It was, while the keys were listed, and then it was deleted before its page."""
    bus = FollowedBus("a/*", initial=True, since=None, before=["a/1", "a/2", "a/3"])
    bus.round_trip()
    bus.round_trip()
    bus.set("a/3")
    bus.delete("a/3")
    bus.catch_up()
    kinds = [(change.kind, change.key) for change in bus.told if change.key == "a/3"]
    assert ("updated", "a/3") not in kinds


def test_what_was_told_of_is_told_to_be_gone_on_another_bus() -> None:
    bus = FollowedBus("a/*", initial=True, since=None, before=["a/1", "a/2"])
    bus.catch_up()
    bus.restart()
    bus.catch_up()
    assert [(change.kind, change.key) for change in bus.told] == [
        ("present", "a/1"),
        ("present", "a/2"),
        ("deleted", "a/1"),
        ("deleted", "a/2"),
    ]
    assert bus.core.started_over == 1


@pytest.mark.parametrize("beats", [True, False])
def test_an_idle_watch_goes_on_from_the_last_beat(beats: bool) -> None:
    """The broker has long forgotten where it began."""
    bus = FollowedBus("a/*", initial=True, since=None, before=["a/1"])
    bus.catch_up()
    for _ in range(2 * LOG_CHANGES):
        bus.set("c")
    if beats:
        bus.beat()
        bus.receive()
    bus.cut()
    bus.set("a/2")
    bus.catch_up()
    assert bus.core.started_over == (0 if beats else 1)
    assert [change.kind for change in bus.told if change.key == "a/2"] == (
        ["created"] if beats else ["present"]
    )


def test_a_beat_between_the_pages_of_a_list_is_no_news() -> None:
    """What is listed later may be of before it."""
    bus = FollowedBus("a/*", initial=True, since=None, before=["a/1", "a/2", "a/3"])
    bus.round_trip()
    bus.beat()
    bus.receive()
    bus.cut()
    bus.catch_up()
    assert {change.key for change in bus.told} == {"a/1", "a/2", "a/3"}


@pytest.mark.parametrize(
    ("pattern", "error"),
    [("a/b*", InvalidRequest), ("", InvalidRequest), ("k" * 2_000, LimitExceeded)],
)
def test_malformed_patterns(pattern: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        WatchCore(pattern, from_revision=None, initial=False)
