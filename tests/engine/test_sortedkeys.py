from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udsbus.engine.sortedkeys import LOAD, SortedKeys

from .support import examples

words = st.text("ab", max_size=4)


def sorted_keys(keys: list[str]) -> SortedKeys:
    order = SortedKeys()
    for key in keys:
        order.add(key)
    return order


def test_empty() -> None:
    assert list(SortedKeys().after("")) == []


def test_keys_come_in_order_whatever_the_order_they_came_in() -> None:
    order = sorted_keys(["b", "c", "a"])
    assert list(order.after("")) == ["a", "b", "c"]
    assert list(order.after("a")) == ["b", "c"]
    assert list(order.after("aa")) == ["b", "c"]
    assert list(order.after("c")) == []


@examples(300)
@given(st.lists(st.tuples(st.booleans(), words)), words)
def test_like_a_sorted_list(steps: list[tuple[bool, str]], after: str) -> None:
    """With such a small LOAD every few keys split a bucket, and some buckets become empty."""
    keys: set[str] = set()
    order = SortedKeys()
    with patch("udsbus.engine.sortedkeys.LOAD", 2):
        for add, key in steps:
            if add and key not in keys:
                keys.add(key)
                order.add(key)
            elif not add and key in keys:
                keys.remove(key)
                order.remove(key)
            assert [bucket[-1] for bucket in order._buckets] == order._lasts
            assert all(0 < len(bucket) <= 4 for bucket in order._buckets)
    everything = [key for bucket in order._buckets for key in bucket]
    assert everything == sorted(keys)
    assert list(order.after(after)) == sorted(key for key in keys if key > after)


@pytest.mark.parametrize("direction", [1, -1])
def test_no_bucket_grows_beyond_twice_the_load(direction: int) -> None:
    keys = [f"{number:06}" for number in range(20 * LOAD)][::direction]
    order = sorted_keys(keys)
    assert list(order.after("")) == sorted(keys)
    assert max(map(len, order._buckets)) <= 2 * LOAD
    for key in keys:
        order.remove(key)
    assert not order._buckets
    assert not order._lasts
