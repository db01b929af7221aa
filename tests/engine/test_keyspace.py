from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udsbus.engine.deadlines import SLACK
from udsbus.engine.keyspace import Keyspace
from udsbus.limits import PAGE_KEYS, PAGE_SCAN

from .model import matches
from .support import examples, joined, names, pages, patterns


def keyspace_of(*keys: str) -> Keyspace:
    keyspace = Keyspace()
    for key in keys:
        keyspace.put(key, (b"1", 1, None))
    return keyspace


def all_pages(
    keyspace: Keyspace, pattern: str, limit: int | None = None, now: float = 0.0
) -> list[list[str]]:
    found = pages(lambda after: keyspace.page(pattern, after, limit, now, sized=False))
    return [[key for key, _ in page] for page in found]


def all_keys(keyspace: Keyspace, pattern: str, now: float = 0.0) -> list[str]:
    return list(chain(*all_pages(keyspace, pattern, now=now)))


def count(keyspace: Keyspace, pattern: str, now: float = 0.0) -> int:
    return sum(pages(lambda after: keyspace.count(pattern, after, now)))


# --- entries --------------------------------------------------------------------------------


def test_an_entry_lives_until_its_deadline() -> None:
    keyspace = Keyspace()
    keyspace.put("a", (b"1", 1, 5.0))
    assert keyspace.live("a", 4.9) == (b"1", 1, 5.0)
    assert keyspace.live("a", 5.0) is None
    assert keyspace.live("b", 0.0) is None
    assert all_keys(keyspace, "**", now=5.0) == []
    assert count(keyspace, "**", now=5.0) == 0
    assert "a" in keyspace.entries, "it is there until the engine has told that it expired"


def test_a_dropped_key_is_gone_from_the_order_too() -> None:
    keyspace = keyspace_of("a", "b")
    keyspace.drop("a")
    assert all_keys(keyspace, "**") == ["b"]
    keyspace.put("a", (b"2", 2, None))
    assert all_keys(keyspace, "**") == ["a", "b"]


def test_a_key_that_is_overwritten_stands_once_in_the_order() -> None:
    assert all_keys(keyspace_of("a", "a"), "**") == ["a"]


def test_deadlines_of_dropped_keys_take_no_memory() -> None:
    """Short-lived keys of ever new names with a long time to live, such as request ids."""
    keyspace = Keyspace()
    for number in range(10 * SLACK):
        key = f"requests/{number}"
        keyspace.put(key, (b"1", number, 86_400.0))
        keyspace.drop(key)
    assert len(keyspace.deadlines._heap) <= 2 * SLACK
    assert len(keyspace.deadlines) <= 2 * SLACK


def test_deadlines_of_keys_that_lost_theirs_take_no_memory() -> None:
    """By `persist`, or by a `set` without a time to live, before they were deleted."""
    keyspace = Keyspace()
    for number in range(10 * SLACK):
        key = f"requests/{number}"
        keyspace.put(key, (b"1", number, 86_400.0))
        keyspace.put(key, (b"1", number, None))
        keyspace.drop(key)
    assert len(keyspace.deadlines._heap) <= 2 * SLACK
    assert len(keyspace.deadlines) <= 2 * SLACK


# --- which keys -----------------------------------------------------------------------------

TREE = ("$sys/a", "$sys/b/c", "a", "a-b", "a/b", "a/b/c", "ab", "b", "b/a")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**", ["a", "a-b", "a/b", "a/b/c", "ab", "b", "b/a"]),
        ("*", ["a", "a-b", "ab", "b"]),
        ("a", ["a"]),
        ("c", []),
        ("a/**", ["a", "a/b", "a/b/c"]),
        ("a/*", ["a/b"]),
        ("*/*", ["a/b", "b/a"]),
        ("**/a", ["a", "b/a"]),
        ("$sys/**", ["$sys/a", "$sys/b/c"]),
        ("$sys/*", ["$sys/a"]),
    ],
)
def test_a_pattern_selects_keys_in_order(pattern: str, found: list[str]) -> None:
    keyspace = keyspace_of(*TREE)
    assert all_keys(keyspace, pattern) == found
    assert list(chain(*all_pages(keyspace, pattern, limit=1))) == found
    assert count(keyspace, pattern) == len(found)


@examples(300)
@given(st.lists(names, unique=True), patterns, st.integers(1, 4))
def test_pages_and_count_agree_with_naive_matching(
    keys: list[str], pattern: str, limit: int
) -> None:
    keyspace = keyspace_of(*keys)
    found = sorted(key for key in keys if matches(pattern, key))
    in_pages = all_pages(keyspace, pattern, limit)
    assert list(chain(*in_pages)) == found
    assert max(map(len, in_pages)) <= limit
    assert count(keyspace, pattern) == len(found)


our_names = joined("a", "b", "a-b")


@examples(300)
@given(
    st.lists(our_names, unique=True),
    joined("a", "b", "*", "**"),
    st.integers(1, 3),
    st.lists(st.lists(st.tuples(st.booleans(), our_names), max_size=3)),
)
def test_what_is_there_throughout_is_found_once_while_others_come_and_go(
    keys: list[str], pattern: str, limit: int, meanwhile: list[list[tuple[bool, str]]]
) -> None:
    keyspace = keyspace_of(*keys)
    stayed, seen = set(keys), set(keys)
    found: list[str] = []
    for page in pages(lambda after: keyspace.page(pattern, after, limit, 0.0, sized=False)):
        found += [key for key, _ in page]
        for put, key in meanwhile.pop() if meanwhile else []:
            if put:
                keyspace.put(key, (b"1", 1, None))
                seen.add(key)
            elif key in keyspace.entries:
                keyspace.drop(key)
                stayed.discard(key)
    assert found == sorted(set(found)), "in order, and none twice"
    assert {key for key in stayed if matches(pattern, key)} <= set(found)
    assert set(found) <= {key for key in seen if matches(pattern, key)}


def test_a_page_can_go_on_after_a_key_that_is_gone() -> None:
    keyspace = keyspace_of("a", "a/b", "a/d")
    assert [key for key, _ in keyspace.page("a/**", "a/c", None, 0.0, sized=False)[0]] == ["a/d"]
    assert [key for key, _ in keyspace.page("a/**", "a-b", None, 0.0, sized=False)[0]] == [
        "a/b",
        "a/d",
    ]


# --- how much at once -----------------------------------------------------------------------


def test_a_page_has_at_most_page_keys() -> None:
    keyspace = keyspace_of(*(f"{number:06}" for number in range(2 * PAGE_KEYS + 1)))
    for limit in (None, 10 * PAGE_KEYS):
        assert [len(page) for page in all_pages(keyspace, "**", limit)] == [
            PAGE_KEYS,
            PAGE_KEYS,
            1,
        ]


def test_a_page_gives_up_its_turn_after_page_scan_keys() -> None:
    total = 2 * PAGE_SCAN + 1
    keyspace = keyspace_of(*(f"{number:06}" for number in range(total)))
    keyspace.put("000000", (b"1", 1, 9.0))  # a deadline keeps `count` from taking the short way
    assert keyspace.page("*/nowhere", None, None, 0.0, sized=False) == ([], f"{PAGE_SCAN - 1:06}")
    assert all_pages(keyspace, "*/nowhere") == [[], [], []]
    assert keyspace.count("**", None, 0.0) == (PAGE_SCAN, f"{PAGE_SCAN - 1:06}")
    assert count(keyspace, "**") == total


def test_a_literal_beginning_spares_looking_at_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udsbus.engine.keyspace.PAGE_SCAN", 2)
    keyspace = keyspace_of(*(f"a/{number}" for number in range(9)), "b/1", "c/1")
    page, after = keyspace.page("b/*", None, None, 0.0, sized=False)
    assert ([key for key, _ in page], after) == (["b/1"], None)
    assert keyspace.count("c/1", None, 0.0) == (1, None)


def test_a_sized_page_ends_once_it_has_page_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udsbus.engine.keyspace.PAGE_BYTES", 10)
    keyspace = Keyspace()
    for key in "abcd":
        keyspace.put(key, (b"123456", 1, None))
    page, after = keyspace.page("**", None, None, 0.0, sized=True)
    assert [key for key, _ in page] == ["a", "b"]
    assert after == "b"
    assert len(all_pages(keyspace, "**")) == 1
