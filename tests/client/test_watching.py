"""The core of a watch against a simulated broker: following it always gives the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from udsbus import InvalidRequest, LimitExceeded
from udsbus.client import watching
from udsbus.client.watching import Missed, WatchCore
from udsbus.limits import CHANGES_BYTES
from udsbus.messages import Watch
from udsbus.terms import KINDS
from udsbus.wire import encoding

from .followed import LOG_CHANGES, Asked, FollowedBus

KEYS = ["a/b", "a/c", "a/d/e", "a", "c"]


def step(function: Callable[..., None], *arguments: Any) -> Any:
    return (function, *arguments)


STEPS: list[Any] = [
    *[step(FollowedBus.set, key) for key in KEYS],
    *[step(FollowedBus.delete, key) for key in KEYS],
    *[step(FollowedBus.transact, *keys) for keys in (KEYS[:3], KEYS[1:4], KEYS)],
    *[step(FollowedBus.set, key, None, True) for key in KEYS],
    step(FollowedBus.delete, "a/b", True),
    step(FollowedBus.transact_mine, "a/c", "a/b"),
    step(FollowedBus.set, "a/b", 2.0),
    step(FollowedBus.pass_time),
    step(FollowedBus.answer),
    step(FollowedBus.end_turn),
    step(FollowedBus.beat),
    *[step(FollowedBus.receive)] * 3,
    *[step(FollowedBus.round_trip)] * 4,
    *[step(FollowedBus.cut_after, frames) for frames in range(4)],
    step(FollowedBus.restart),
    step(FollowedBus.take_over),
    *[step(FollowedBus.forget, ago) for ago in range(3)],
    step(FollowedBus.catch_up),
]


LOSS = step(FollowedBus.restart)
SOME_KINDS = st.none() | st.frozensets(st.sampled_from(KINDS), min_size=1)


@settings(
    max_examples=3_000, derandomize=True, deadline=None, phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(
    pattern=st.sampled_from(["a/**", "**", "a/*", "a/b"]),
    begin=st.sampled_from([(True, None), (True, None), (False, None), (False, 0), (False, 3)]),
    before=st.lists(st.sampled_from(KEYS), max_size=6),
    steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=30),
    asked=st.builds(Asked, st.none(), st.just(False), st.booleans(), st.booleans())
    | st.builds(Asked, SOME_KINDS, st.booleans(), st.booleans(), st.booleans()),
    beside=st.none()
    | st.builds(Watch, st.just("**"), st.none(), SOME_KINDS, st.booleans(), st.booleans()),
    split=st.sampled_from([CHANGES_BYTES, 20]),
)
@example(
    "a/**", (True, None), ["a/b", "a/c"], [*[step(FollowedBus.round_trip)] * 2, LOSS], Asked(),
    None, CHANGES_BYTES,
)  # fmt: skip
def test_following_gives_the_truth(
    pattern: str,
    begin: tuple[bool, int | None],
    before: list[str],
    steps: list[Any],
    asked: Asked,
    beside: Watch | None,
    split: int,
) -> None:
    """Whatever is asked for, and whatever another watch of the connection wants: the bus changes,
    and the connection, the broker or the bus ends, at any place; and the log forgets."""
    initial, since = begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "CHANGES_BYTES", split)
        bus = FollowedBus(
            pattern, initial=initial, since=since, before=before, asked=asked, beside=beside
        )
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


HISTORY: list[Any] = [
    step(FollowedBus.set, "a/b"),
    step(FollowedBus.set, "a/c", 1.0),
    step(FollowedBus.transact, "a/b", "a/d/e", "c"),
    step(FollowedBus.set, "c"),
    step(FollowedBus.delete, "a/d/e"),
    step(FollowedBus.pass_time),
    step(FollowedBus.set, "a/b"),
    step(FollowedBus.delete, "a/b"),
]
"""A revision each; two keys are deleted alone, one in a transaction, and one expires."""


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("forgotten", range(len(HISTORY) + 1))
@pytest.mark.parametrize("seen", range(len(HISTORY) + 1))
def test_the_log_is_cut_at_every_revision(seen: int, forgotten: int, initial: bool) -> None:
    """Of what happens while the watch is away. It starts over only if it must, says what it has
    missed, and tells of keys that are gone too."""
    asked = Asked(previous=True, strict=True)
    bus = FollowedBus("**", initial=initial, since=None, before=[], asked=asked)
    bus.catch_up()
    for number, (function, *arguments) in enumerate(HISTORY):
        if number == seen:
            bus.catch_up()
            bus.cut()
        function(bus, *arguments)
        bus.end_turn()
    if seen == len(HISTORY):
        bus.catch_up()
        bus.cut()
    assert bus.engine.revision == len(HISTORY)
    bus.forget(len(HISTORY) - forgotten)
    bus.catch_up()
    assert bus.engine.log.forgotten >= forgotten
    missed = bus.engine.log.forgotten > seen
    assert bus.core.started_over == missed
    assert bus.missed == ([Missed(seen, len(HISTORY))] if missed else [])


def test_the_parts_of_a_revision_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many notifications they take; and none of it if the connection is lost in between,
    but all when it is back."""
    monkeypatch.setattr(encoding, "CHANGES_BYTES", 20)
    bus = FollowedBus("a/**", initial=False, since=None, before=["a/c"])
    bus.catch_up()
    bus.transact("a/d/e", "a/c", "a/b")
    bus.end_turn()
    bus.receive()
    assert bus.told == []
    bus.receive()
    assert [(change.key, change.revision) for change in bus.told] == [("a/c", 2), ("a/b", 2)]
    bus.transact("a/d/e", "a/c", "a/b")
    bus.cut_after(1)
    assert len(bus.told) == 2
    bus.catch_up()
    assert len(bus.told) == 4


@pytest.mark.parametrize("beside", [None, Watch("**"), Watch("**", previous=True)])
def test_what_is_ones_own_is_known_across_a_takeover(beside: Watch | None) -> None:
    """Also if another watch of the connection wants to be told of it."""
    asked = Asked(ignore_own=True)
    bus = FollowedBus("**", initial=False, since=None, before=[], asked=asked, beside=beside)
    bus.catch_up()
    bus.cut()
    bus.set("a", mine=True)
    bus.set("b")
    bus.transact_mine("a", "c", "b")
    bus.take_over()
    bus.set("c", mine=True)
    bus.catch_up()
    bus.delete("c")
    bus.catch_up()
    assert [(change.kind, change.key) for change in bus.told] == [
        ("created", "b"), ("deleted", "c"),
    ]  # fmt: skip
    assert bus.core.started_over == 0


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        (("created",), [("present", "a/3")]),
        (("deleted", "created"), [("present", "a/3"), ("deleted", "a/1"), ("deleted", "a/2")]),
    ],
)
def test_what_is_gone_is_told_to_those_who_want_to_know_what_goes(
    kinds: tuple[str, ...], told: list[tuple[str, str]]
) -> None:
    """As for what is there, it does not matter who has removed it, nor how it went."""
    asked = Asked(kinds=kinds, ignore_own=True)
    before = ["a/1", "a/2", "a/3"]
    bus = FollowedBus("a/*", initial=True, since=None, before=before, asked=asked)
    bus.catch_up()
    known = len(bus.told)
    bus.cut()
    bus.delete("a/1", mine=True)
    bus.set("a/2", 1.0)
    bus.pass_time()
    bus.forget(0)
    bus.catch_up()
    assert [(change.kind, change.key) for change in bus.told[known:]] == told


@pytest.mark.parametrize(
    "asked", [Asked(ignore_own=True), Asked(kinds=("created", "released"))], ids=["own", "kinds"]
)
def test_a_key_that_goes_unheard_is_forgotten(asked: Asked) -> None:
    """A watch costs no more than there are keys; and nobody is told later that it is gone."""
    bus = FollowedBus("a/*", initial=False, since=None, before=["a/0"], asked=asked)
    bus.catch_up()
    for number in range(100):
        bus.set(f"a/{number}")
        bus.delete(f"a/{number}", mine=True)
    bus.catch_up()
    assert len(bus.told) == 100 - (asked.kinds is not None), "a/0 was there"
    assert not bus.core._known
    bus.cut()
    bus.set("c")
    bus.forget(0)
    bus.catch_up()
    assert bus.core.started_over == 1
    assert len(bus.told) == 100 - (asked.kinds is not None)


def test_who_is_in_doubt_says_what_was_missed_once_more() -> None:
    """The first time that it was said may not have come through."""
    bus = FollowedBus("a/*", initial=False, since=None, before=["a/0"], asked=Asked(strict=True))
    bus.catch_up()
    bus.restart()
    bus.answer()
    bus.end_turn()
    bus.receive()
    assert len(bus.missed) == 1
    bus.missed.clear()
    bus.core.doubt()
    bus.cut()
    bus.catch_up()
    assert len(bus.missed) == bus.core.started_over == 1


def test_what_changes_during_a_list_is_held_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WATCH_BACKLOG", 10)
    keys = [f"a/{number}" for number in range(6)]
    bus = FollowedBus("a/*", initial=True, since=None, before=keys)
    bus.round_trip()
    for _ in range(100):
        bus.transact(*keys[:3])
        bus.set("a/5")
        bus.end_turn()
        while bus._frames:
            bus.receive()
        assert len(bus.core._held) <= 12
    bus.delete("a/4")
    while bus._asked is not None:
        bus.round_trip()
    newest = {change.key: change for change in bus.told}
    entries = bus.engine.keyspace.entries
    assert {key: change.value for key, change in newest.items() if change.value is not None} == {
        key: entry[0] for key, entry in entries.items()
    }
    revisions = [change.revision for change in bus.told if change.kind != "present"]
    assert revisions == sorted(revisions)
    assert bus.core.conflations == 1
    assert bus.core.left_out > 250


def test_changes_that_came_and_went_unseen_are_told_to_be_gone() -> None:
    """Who wants deletions alone gets each of them, also of keys that were created unseen."""
    asked = Asked(kinds=("deleted",))
    bus = FollowedBus("a/*", initial=True, since=None, before=["a/1"], asked=asked)
    bus.catch_up()
    bus.set("a/2")
    bus.delete("a/2")
    bus.catch_up()
    assert [(change.kind, change.key) for change in bus.told] == [
        ("present", "a/1"), ("deleted", "a/2"),
    ]  # fmt: skip


def test_its_state() -> None:
    bus = FollowedBus("a/*", initial=True, since=None, before=["a/1", "a/2", "a/3"])
    states = [bus.core.state]
    for happens in (bus.round_trip, bus.catch_up, bus.core.lost, bus.cut, bus.catch_up):
        happens()
        states.append(bus.core.state)
    assert states == ["starting", "listing", "live", "interrupted", "interrupted", "live"]


@pytest.mark.parametrize("kinds", [["create"], ["created", "present"], [], "created", 7, [None]])
def test_kinds_that_are_none(kinds: Any) -> None:
    with pytest.raises(InvalidRequest, match="created, updated, deleted, expired, released"):
        WatchCore("a", from_revision=None, initial=False, kinds=kinds)


@pytest.mark.parametrize(
    ("pattern", "error"),
    [("a/b*", InvalidRequest), ("", InvalidRequest), ("k" * 2_000, LimitExceeded)],
)
def test_malformed_patterns(pattern: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        WatchCore(pattern, from_revision=None, initial=False)
