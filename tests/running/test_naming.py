"""Which name the value of a key has."""

from __future__ import annotations

from typing import Any

import pytest

from udsbus.running.naming import (
    VARIABLE_BYTES,
    Held,
    Unusable,
    Value,
    environment,
    values,
)
from udsbus.wire.notation import to_json
from udsbus.wire.values import encode


def held(**keys: Any) -> dict[str, Held]:
    return {key: Held(1, value, encode(value)) for key, value in keys.items()}


def texts(pattern: str, prefix: str = "", **keys: Any) -> dict[str, str]:
    found = values([(pattern, held(**keys))], {}, to_json).together(prefix)
    return {name: value.text for name, value in found.items()}


@pytest.mark.parametrize(
    ("pattern", "key", "name"),
    [
        ("config/app/**", "config/app/db-url", "DB_URL"),
        ("config/app/**", "config/app/db/url.x", "DB_URL_X"),
        ("config/*/port", "config/app/port", "APP_PORT"),
        ("**", "config/app", "CONFIG_APP"),
        ("*/app", "config/app", "CONFIG_APP"),
        ("config/app/**", "config/app", "APP"),
        ("config/app", "config/app", "APP"),
        ("port", "port", "PORT"),
        ("a/*", "a/größe", "GR_SSE"),
        ("a/*", "a/2nd", "_2ND"),
    ],
)
def test_a_name_is_what_stands_behind_the_part_without_a_wildcard(
    pattern: str, key: str, name: str
) -> None:
    assert texts(pattern, **{key: "x"}) == {name: "x"}


def test_a_dict_is_taken_apart() -> None:
    value = {"db": {"port": 1, "url": "x"}, "on": True, "none": None, "list": [1, "a"], "empty": {}}
    keys: dict[str, Any] = {"config/app": value}
    flat = {"DB_PORT": "1", "DB_URL": "x", "ON": "true", "NONE": "null", "LIST": '[1, "a"]'}
    assert texts("config/app", **keys) == flat
    below = {f"APP_{name}": text for name, text in flat.items()}
    assert texts("config/*", **keys) == below


def test_keys_of_a_dict_that_are_no_texts() -> None:
    assert texts("a", a={1: {2: "x"}}) == {"_1_2": "x"}
    assert texts("a", "N", a={1: {2: "x"}}) == {"N1_2": "x"}


def test_texts_and_bytes_are_as_they_are() -> None:
    found = values([("*", held(a="é\n", b=b"\xff", c="12", d=12))], {}, to_json)
    assert environment(found.together()) == {
        b"A": "é\n".encode(), b"B": b"\xff", b"C": b"12", b"D": b"12"
    }  # fmt: skip


def test_two_of_one_name() -> None:
    with pytest.raises(Unusable, match=r"'a/x-y' and 'a/x_y' would both be X_Y; --env-from"):
        texts("a/*", "", **{"a/x-y": "1", "a/x_y": "2"})
    with pytest.raises(Unusable, match=r"'a' \(x-y\) and 'a' \(x.y\) would both be X_Y"):
        texts("a", a={"x-y": 1, "x": {"y": 2}})


def test_a_key_of_two_patterns_has_both_names() -> None:
    watched = [("**", held(**{"a/b": 1})), ("a/*", held(**{"a/b": 1})), ("a/b", held(**{"a/b": 1}))]
    assert values(watched, {}, to_json).together().keys() == {"A_B", "B"}


def test_a_name_that_somebody_has_chosen() -> None:
    watched = [("a/*", held(**{"a/x-y": {"z": 1}, "a/x_y": 2}))]
    found = values(watched, {"a/x-y": "mine", "gone": "G"}, to_json)
    assert found.named == {"mine": Value('{"z": 1}', "'a/x-y'")}
    assert found.together("P_").keys() == {"mine", "P_X_Y"}
    with pytest.raises(Unusable, match=r"'a/x-y' and 'a/x_y' would both be P_X_Y"):
        values(watched, {"a/x-y": "P_X_Y"}, to_json).together("P_")


def test_what_cannot_be_a_variable() -> None:
    with pytest.raises(Unusable, match=r"'a' \(b\) cannot be the variable B: it holds a null"):
        environment({"B": Value("x\0", "'a' (b)")})
    with pytest.raises(Unusable, match="'c' \\(\\) cannot be a variable: its name would be empty"):
        environment({"": Value("x", "'c' ()")})
    fits = "x" * (VARIABLE_BYTES - len("B=\0"))
    with pytest.raises(Unusable, match="has 131,070 bytes"):
        environment({"B": Value(fits + "x", "'b'")})


def test_a_name_that_cannot_be_made() -> None:
    with pytest.raises(Unusable, match=r"a name in 'a' cannot be told: .*digits"):
        texts("a", a={10**5000: 1})
