from __future__ import annotations

import pytest
from hypothesis import given

from udsbus.errors import AccessDenied, Error, InvalidRequest, LimitExceeded
from udsbus.limits import KEY_BYTES, KEY_SEGMENTS
from udsbus.patterns import check_name, check_pattern, check_writable, literal_prefix, matcher

from .engine.model import matches
from .engine.support import examples, joined, names, patterns, steps

# --- what a name may be ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "a/b", "a b", "é/ü", "$sys/a", ".", "..", "k" * KEY_BYTES])
def test_good_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "/", "/a", "a/", "a//b", "//"])
def test_a_name_has_no_empty_segment(name: str) -> None:
    for check in (check_name, check_writable):
        with pytest.raises(InvalidRequest) as caught:
            check(name)
        why = f"key {name!r} has an empty segment: something must stand on both sides of "
        assert str(caught.value) == (f"{why}each slash" if name else "the key is empty")
    with pytest.raises(InvalidRequest, match=r"pattern .* has an empty|pattern is empty$"):
        check_pattern(name)


@pytest.mark.parametrize("name", ["*", "**", "a/*", "*/a", "a/**/b"])
def test_a_pattern_is_no_name(name: str) -> None:
    for check in (check_name, check_writable):
        with pytest.raises(InvalidRequest) as caught:
            check(name)
        assert str(caught.value) == (
            f"key {name!r} contains '*', which only patterns do; here a single name is needed"
        )
    check_pattern(name)


@pytest.mark.parametrize("name", ["a*", "a*b/c", "***"])
def test_a_name_has_no_star_at_all(name: str) -> None:
    """Or there would be a key that no pattern selects alone."""
    with pytest.raises(InvalidRequest, match="contains '\\*'"):
        check_name(name)
    with pytest.raises(InvalidRequest, match="is mixed"):
        check_pattern(name)


def test_the_size_of_a_name_is_counted_in_bytes() -> None:
    check_name("é" * (KEY_BYTES // 2))
    for check in (check_name, check_pattern):
        with pytest.raises(
            LimitExceeded, match=f"of {KEY_BYTES + 2} bytes; the limit is"
        ) as caught:
            check("é" * (KEY_BYTES // 2 + 1))
        assert caught.value.details == {
            "limit": "key_bytes",
            "maximum": KEY_BYTES,
            "actual": KEY_BYTES + 2,
        }


@pytest.mark.parametrize("long", ["k" * 10**6, "$" + "k" * 1000, "/" * 1000, "*" * 1000])
def test_a_message_does_not_repeat_what_is_long(long: str) -> None:
    with pytest.raises(Error) as caught:
        check_writable(long)
    assert len(str(caught.value)) < 200


def test_the_brokers_own_names_are_not_for_writing() -> None:
    check_writable("a/$sys")
    for name in ("$", "$sys", "$sys/a"):
        check_name(name)
        with pytest.raises(AccessDenied) as caught:
            check_writable(name)
        assert str(caught.value) == f"key {name!r} begins with '$' and is the broker's own"


def test_a_message_says_what_the_name_is_for() -> None:
    with pytest.raises(InvalidRequest, match=r"^topic '/' has an empty segment"):
        check_name("/", "topic")
    with pytest.raises(AccessDenied, match=r"^topic '\$a' begins with"):
        check_writable("$a", "topic")


@pytest.mark.parametrize("pattern", ["a", "*", "**", "a/*/b/**", "**/**", "$sys/**"])
def test_good_patterns(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize("pattern", ["a*", "a/b*/c", "***", "a/**b"])
def test_a_star_stands_for_a_whole_segment(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_pattern(pattern)
    assert f"pattern {pattern!r}: '*' and '**' stand for whole segments" in str(caught.value)


# --- what a pattern matches -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        ("a/b", ["a/b"], ["a", "a/b/c", "a/c"]),
        ("a/*", ["a/b", "a/$b"], ["a", "a/b/c", "b/a"]),
        ("a/**", ["a", "a/b", "a/b/c"], ["ab", "a-b", "b/a"]),
        ("**", ["a", "a/b"], ["$a", "$a/b"]),
        ("*", ["a"], ["$a", "a/b"]),
        ("**/a", ["a", "b/a", "b/b/a", "b/$a/a"], ["$a/a", "a/b"]),
        ("*/**", ["a", "a/b"], ["$a/b"]),
        ("a/**/b", ["a/b", "a/x/b", "a/b/b", "a/b/x/b"], ["a", "a/b/x"]),
        ("**/a/**/b/**", ["a/b", "x/a/y/b/z", "a/a/b/b"], ["b/a", "a"]),
        ("$a/**", ["$a", "$a/b"], ["a", "$ab"]),
    ],
)
def test_a_pattern_matches(pattern: str, found: list[str], not_found: list[str]) -> None:
    test = matcher(pattern)
    for name in found:
        assert test(name), name
    for name in not_found:
        assert not test(name), name


@examples(600)
@given(joined("a", "b", "$a", "*", "**", most=7), joined("a", "b", "$a", most=7))
def test_matches_what_naive_recursion_matches(pattern: str, name: str) -> None:
    assert matcher(pattern)(name) == matches(pattern, name)


@examples(300)
@given(patterns, names)
def test_every_match_is_the_literal_prefix_or_lies_below_it(pattern: str, name: str) -> None:
    prefix = literal_prefix(pattern)
    if matches(pattern, name) and prefix:
        assert name == prefix or name.startswith(prefix + "/")
    if "*" not in pattern:
        assert prefix == pattern


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [("a/b", "a/b"), ("a/b/*", "a/b"), ("a/**/b", "a"), ("*/a", ""), ("**", "")],
)
def test_literal_prefix(pattern: str, prefix: str) -> None:
    assert literal_prefix(pattern) == prefix


@pytest.mark.parametrize("part", [["**", "a"], ["**", "*", "a"], ["**", "a", "**"]])
def test_no_pattern_makes_matching_exponential(part: list[str]) -> None:
    """Backtracking into each `**` would take more steps here than there are atoms."""
    segments = [*part * (300 // len(part)), "b"]
    name = "/".join(["a"] * 500)
    test = matcher("/".join(segments))
    assert not test(name)
    assert steps(test, name) < 20 * len(segments) * 500


def test_a_name_has_so_many_segments_and_no_more() -> None:
    check_name("/".join("a" * KEY_SEGMENTS))
    check_pattern("/".join("*" * KEY_SEGMENTS))
    for check in (check_name, check_pattern):
        with pytest.raises(LimitExceeded, match=f"of {KEY_SEGMENTS + 1} segments") as raised:
            check("/".join("a" * (KEY_SEGMENTS + 1)))
        assert raised.value.details == {
            "limit": "key_segments", "maximum": KEY_SEGMENTS, "actual": KEY_SEGMENTS + 1,
        }  # fmt: skip


def test_what_is_below_a_key_without_itself() -> None:
    below = matcher("a/b/*/**")
    for name, expected in (
        ("a/b/c", True), ("a/b/c/d", True), ("a/b", False), ("a/bc/d", False), ("a/b-c", False),
    ):  # fmt: skip
        assert below(name) is expected
        assert matches("a/b/*/**", name) is expected
    assert matcher("$sys/*/**")("$sys/a")
    assert not matcher("*/**")("$sys/a")
