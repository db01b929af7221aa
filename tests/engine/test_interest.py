from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udsbus.engine.interest import REMEMBERED, REMEMBERED_SUBSCRIBERS, Interest

from .model import matches
from .support import examples, names, patterns, steps

subscriptions = st.lists(st.tuples(patterns, st.integers(1, 4)), max_size=12)


def interest_of(*pairs: tuple[str, int]) -> Interest:
    interest = Interest()
    for pattern, subscriber in pairs:
        interest.add(pattern, subscriber)
    return interest


# --- who is found ---------------------------------------------------------------------------


def test_what_is_remembered_is_bounded() -> None:
    """Else topics that never come again would stay for ever."""
    interest = interest_of(("**", 1))
    for number in range(REMEMBERED + 1):
        assert interest.find(f"job/{number}") == (1,)
    assert not interest.remembers("job/0")
    assert interest.remembers(f"job/{REMEMBERED}")


def test_who_wants_what_everybody_wants_is_not_remembered() -> None:
    """4,096 names times 10,000 subscribers would be much memory."""
    crowd = interest_of(*(("**", number) for number in range(REMEMBERED_SUBSCRIBERS + 1)))
    assert len(crowd.find("a")) == REMEMBERED_SUBSCRIBERS + 1
    assert not crowd.remembers("a")


def test_nobody_wants_to_know() -> None:
    assert Interest().find("a") == ()
    assert not Interest()


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        ("a/b", ["a/b"], ["a", "a/b/c", "b"]),
        ("a/*", ["a/b", "a/$b"], ["a", "a/b/c"]),
        ("a/**", ["a", "a/b", "a/b/c"], ["ab", "a-b"]),
        ("*", ["a"], ["a/b", "$a"]),
        ("**", ["a", "a/b"], ["$a", "$a/b"]),
        ("**/b", ["b", "a/b", "a/a/b"], ["a", "$a/b"]),
        ("*/**/b", ["a/b", "a/a/b"], ["b", "$a/b"]),
        ("**/**", ["a", "a/b"], ["$a"]),
        ("$a/*", ["$a/b"], ["a/b", "$a"]),
        ("**/$a", ["b/$a"], ["$a"]),
    ],
)
def test_a_pattern_finds(pattern: str, found: list[str], not_found: list[str]) -> None:
    interest = interest_of((pattern, 7))
    for name in found:
        assert interest.find(name) == (7,), name
    for name in not_found:
        assert interest.find(name) == (), name


def test_each_subscriber_is_found_once() -> None:
    interest = interest_of(("a/b", 1), ("a/*", 1), ("**", 1), ("a/**", 2), ("c", 3))
    assert sorted(interest.find("a/b")) == [1, 2]


@examples(400)
@given(subscriptions, names)
def test_finds_whom_naive_matching_finds(pairs: list[tuple[str, int]], name: str) -> None:
    found = interest_of(*pairs).find(name)
    assert sorted(found) == sorted({who for pattern, who in pairs if matches(pattern, name)})


# --- taking back ----------------------------------------------------------------------------


def test_a_pattern_asked_for_twice_is_taken_back_twice() -> None:
    interest = interest_of(("a", 1), ("a", 1))
    interest.remove("a", 1)
    assert interest.find("a") == (1,)
    interest.remove("a", 1)
    assert interest.find("a") == ()


@examples(200)
@given(subscriptions, st.randoms(use_true_random=False), names)
def test_what_is_taken_back_is_gone_and_nothing_else(
    pairs: list[tuple[str, int]], random: Random, name: str
) -> None:
    interest = interest_of(*pairs)
    left = list(pairs)
    random.shuffle(left)
    while left:
        interest.remove(*left.pop())
        assert len(interest) == len(left)
        expected = {who for pattern, who in left if matches(pattern, name)}
        assert sorted(interest.find(name)) == sorted(expected)
    assert not interest._root.is_needed, "a node has leaked"
    assert interest._segments == {}


# --- what it costs --------------------------------------------------------------------------


def test_finding_costs_the_same_however_many_others_there_are() -> None:
    """Counted in steps. The others share the way as far as they can without matching."""

    def cost_beside(others: int) -> int:
        interest = interest_of(("jobs/**", 1), ("jobs/*/state", 2), ("jobs/7/state", 3))
        for number in range(others):
            other = ("jobs/7/{}", "jobs/*/{}", "other/{}/**", "**/{}", "*/7/{}")[number % 5]
            interest.add(other.format(f"x{number}"), number + 10)
        assert sorted(interest.find("jobs/7/state")) == [1, 2, 3]
        return steps(interest._search, "jobs/7/state")

    assert cost_beside(100_000) == cost_beside(10)


def test_no_pattern_makes_finding_exponential() -> None:
    """At most every node is looked at for every segment, and a node has few ways on."""
    depth = 100
    pattern = "/".join(["**", "a", "*"] * depth + ["b"])
    interest = interest_of((pattern, 1))
    name = "/".join(["a"] * 2 * depth)
    assert interest.find(name) == ()
    assert steps(interest._search, name) < 20 * len(pattern.split("/")) * len(name.split("/"))


def test_a_long_row_of_double_stars_is_walked_once_for_each_segment() -> None:
    interest = interest_of(("/".join(["**"] * 300), 1))
    assert interest.find("/".join(["a"] * 300)) == (1,)
    assert steps(interest._search, "/".join(["a"] * 300)) < 10 * 300 * 300
