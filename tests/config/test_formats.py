"""Files to values and back, in each format."""

from __future__ import annotations

import datetime
import math
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udsbus.config.differences import same
from udsbus.config.formats import FORMATS, UnreadableFile, format_of, is_blank, read, written
from udsbus.errors import LimitExceeded, UnsupportedValue
from udsbus.limits import VALUE_BYTES

UTC = datetime.UTC
MOMENT = datetime.datetime(2026, 5, 4, 3, 2, 1)


def reading(text: str | bytes, form: str) -> Any:
    data = text if isinstance(text, bytes) else textwrap.dedent(text).encode()
    return read(data, FORMATS[form], f"app.{form}")


@pytest.mark.parametrize(
    ("form", "text", "value"),
    [
        ("toml", "a = 1\n[b]\nc = [1.5, true]\n", {"a": 1, "b": {"c": [1.5, True]}}),
        ("toml", "", {}),
        ("toml", "\ufeffa = 1\r\nb = 2\r\n", {"a": 1, "b": 2}),
        ("toml", "a = 2026-05-04T03:02:01Z", {"a": MOMENT.replace(tzinfo=UTC)}),
        ("toml", "a = 2026-05-04T03:02:01", {"a": MOMENT}),
        ("toml", "a = 2026-05-04\nb = 03:02:01", {"a": MOMENT.date(), "b": MOMENT.time()}),
        ("toml", "a = inf", {"a": math.inf}),
        ("json", '{"a": [1, null, {"b": "ü"}]}', {"a": [1, None, {"b": "ü"}]}),
        ("json", '{"a": {"$date": "2026-05-04"}}', {"a": MOMENT.date()}),
        ("yaml", "a: 1\nb:\n  - x\n  - ~\n", {"a": 1, "b": ["x", None]}),
        ("yaml", "# nothing\n", {}),
        ("yaml", "a: 2026-05-04\nb: !!binary aGk=\n1: one\n", {
            "a": MOMENT.date(), "b": b"hi", 1: "one",
        }),
        ("yaml", "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n", {
            "a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2},
        }),
        ("env", "A=1\n# no\nexport B='two words'\nC=\nD\n", {
            "A": "1", "B": "two words", "C": "", "D": None,
        }),
        ("env", 'HOST=db\nURL="http://${HOST}/"\n', {"HOST": "db", "URL": "http://db/"}),
    ],
)  # fmt: skip
def test_what_is_read(form: str, text: str, value: Any) -> None:
    found = reading(text, form)
    assert same(found, value), found


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        ("toml", "a = 1\nb = \n", r"no TOML: Invalid value \(at line 2, column 5\)"),
        ("toml", "a = 1\na = 2\n", r"no TOML: Cannot overwrite a value \(at line 2"),
        ("toml", "a = " + "9" * 5000, "no TOML: .*digits"),
        ("json", '{\n  "a": 1,,\n}', "no JSON: .* at line 2, column 10"),
        ("json", '{"a": NaN}', "no JSON: NaN is not JSON"),
        ("json", '{"a": {"$dat": 1}}', "no JSON: unknown tag '\\$dat'"),
        ("json", "[1]", "holds a list, not names and values"),
        ("json", "[" * 100_000, "nested too deeply"),
        ("json", '{"a": [{"b": "\\ud800"}]}', r"app.json: a\[0\].b: this str cannot be sent"),
        ("yaml", "a: 1\n  b: 2\n", r"no YAML: .* \(at line 2, column 4\)"),
        ("yaml", "a: 1\n---\nb: 2\n", r"no YAML: expected a single document .* \(at line 2"),
        ("yaml", "a: 1\nb: !secret x\n", r"no YAML: .*'!secret' \(at line 2, column 4\)"),
        ("yaml", "a: !!python/object/apply:os.getcwd []\n", "no YAML: could not determine a"),
        ("yaml", "a: 1\nb: 2026-13-45\n", "no YAML: month must be in 1..12"),
        ("yaml", "a: 1\nb: '\x07'\n", r"no YAML: .* forbids \(at line 2\)"),
        ("yaml", "a: &x [*x]\n", "an alias stands for what it is a part of"),
        ("yaml", "text\n", "holds a text, not names"),
        ("yaml", "? [1, 2]\n: x\n", "no YAML: .*unhashable key"),
        ("env", "A=1\n\nB='x\n", r"no .env: this is no NAME=value \(at line 3\)"),
        ("toml", b"a = 1\nb = '\xff'\n", r"app.toml is not UTF-8 \(at line 2\)"),
    ],
)
def test_what_is_broken(form: str, text: str | bytes, said: str) -> None:
    with pytest.raises(UnreadableFile, match=said) as caught:
        reading(text, form)
    assert str(caught.value).startswith(f"app.{form}")


def test_a_few_lines_that_would_be_gigabytes() -> None:
    lines = ["a0: &a0 [xxxxxxxxxx]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(UnreadableFile, match="its aliases make more than"):
        reading("\n".join(lines), "yaml")


def test_what_is_too_large() -> None:
    for text in ('a = "' + "x" * VALUE_BYTES + '"', "#" * (VALUE_BYTES + 1)):
        with pytest.raises(LimitExceeded, match=r"app.toml .*: more than 33554432 bytes") as e:
            reading(text, "toml")
        assert e.value.details["limit"] == "value_bytes"


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("app.toml", "toml"), ("etc/app.JSON", "json"), ("a.yaml", "yaml"), ("a.b.yml", "yaml"),
        (".env", "env"), ("prod.env", "env"), ("/x/.env.local", "env"), ("env", None),
        ("app", None), ("app.conf", None), (".toml", None), ("app.toml~", None),
    ],
)  # fmt: skip
def test_the_format_is_that_of_the_name(path: str, form: str | None) -> None:
    assert format_of(path) is (form and FORMATS[form])


# --- what is written ------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = (
    TEXTS | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.dates() | st.times()
    | st.datetimes() | st.datetimes(timezones=st.just(UTC))
)  # fmt: skip


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A machine that has much else to do is no fault."""


def values(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    inner = st.recursive(
        scalars, lambda each: st.lists(each, max_size=4) | st.dictionaries(TEXTS, each, max_size=4)
    )
    return st.dictionaries(TEXTS, inner, max_size=5)


@patient
@given(values(SCALARS))
def test_toml_comes_back_as_it_was(value: dict[str, Any]) -> None:
    assert same(reading(written(value, FORMATS["toml"], "k"), "toml"), value)


@patient
@given(values(SCALARS | st.none() | st.binary() | st.tuples(st.integers()) | st.uuids()))
def test_json_comes_back_as_it_was(value: dict[str, Any]) -> None:
    assert same(reading(written(value, FORMATS["json"], "k"), "json"), value)


@patient
@given(values(SCALARS | st.none() | st.binary()))
def test_yaml_comes_back_as_it_was_or_is_refused(value: dict[str, Any]) -> None:
    try:
        data = written(value, FORMATS["yaml"], "k")
    except UnsupportedValue:
        return
    assert same(reading(data, "yaml"), value)


@patient
@given(st.dictionaries(st.from_regex(r"[A-Za-z_]\w{0,8}", fullmatch=True), TEXTS | st.none()))
def test_an_env_comes_back_as_it_was_or_is_refused(value: dict[str, Any]) -> None:
    try:
        data = written(value, FORMATS["env"], "k")
    except UnsupportedValue:
        return
    assert same(reading(data, "env"), value)


ORDINARY = {"a": "x", "two words": 'it\'s "so" # yes', "n": -1, "f": 1e3, "on": True, "z": "no"}


@pytest.mark.parametrize("form", ["toml", "json", "yaml"])
def test_ordinary_values_are_not_refused(form: str) -> None:
    value = {**ORDINARY, "nested": {"list": [ORDINARY, ["1", "null", ""]]}, "on day": MOMENT.date()}
    data = written(value, FORMATS[form], "k")
    assert same(reading(data, form), value)
    assert data.endswith(b"\n")


def test_an_ordinary_env() -> None:
    value = {
        "A": "it's \"so\" # yes", "B": 5, "C": True, "D": None, "E": "line\nline", "F": "",
        "G": "a\\b", "H": MOMENT.date(), "U": "postgres://u:p@h:5/d?x=1", "P": "pa$$word",
        "_x.y": 1.5,
    }  # fmt: skip
    data = written(value, FORMATS["env"], "k")
    assert reading(data, "env") == value | {
        "B": "5", "C": "true", "H": "2026-05-04", "_x.y": "1.5",
    }  # fmt: skip
    assert b"\nB=5\n" in data


@pytest.mark.parametrize(
    ("form", "value", "said"),
    [
        ("toml", {"a": {"b": [1, None]}}, r"'k': a.b\[1\]: TOML has no form for null; JSON has"),
        ("toml", {"a": b""}, "'k': a: TOML has no form for a value of type bytes"),
        ("toml", {"a": {1: 2}}, "'k': a: TOML has no form for a name that is no text"),
        ("toml", {"a": (1,)}, "'k': a: TOML has no form for a value of type tuple"),
        ("toml", {"t": datetime.time(1, tzinfo=UTC)}, "'k': t: TOML has no form for a time with"),
        ("yaml", {"a": [(1, 2)]}, r"'k': a\[0\]: YAML has no form for a value of type tuple"),
        ("yaml", {"a": datetime.time(1)}, "'k': a: YAML has no form for a value of type time"),
        ("env", {"A": {"b": 1}}, "'k': A: a .env has no form for a map"),
        ("env", {"A": [1]}, "'k': A: a .env has no form for a list"),
        ("env", {"a b": "1"}, "'k': \"a b\": a .env has no form for this name"),
        ("env", {"A": "${HOME}"}, "'k': A: a .env has no form for this very value"),
        ("json", [1], "'k' holds a list, not names and values, .* `udsbus get` prints it"),
    ],
)
def test_what_a_format_lacks(form: str, value: Any, said: str) -> None:
    with pytest.raises(UnsupportedValue, match=said):
        written(value, FORMATS[form], "k")


@pytest.mark.parametrize(
    ("module", "form", "writes"),
    [
        ("yaml", "yaml", False), ("yaml", "yaml", True), ("dotenv", "env", False),
        ("dotenv", "env", True), ("tomli_w", "toml", True),
    ],
)  # fmt: skip
def test_without_the_extra(module: str, form: str, writes: bool) -> None:
    act = "written({'A': 'x'}, form, 'k')" if writes else "read(b'', form, 'f')"
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from udsbus.config.formats import FORMATS, read, written\n"
        "from udsbus.errors import MissingExtra\n"
        f"form = FORMATS[{form!r}]\n"
        f"try: {act}\n"
        "except MissingExtra as error: print(error, error.details)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'udsbus[config]' {'extra': 'config'}" in ran.stdout


@pytest.mark.parametrize(
    ("form", "text", "blank"),
    [
        ("toml", "", True), ("toml", "# a = 1\r\n\t#\n", True), ("toml", "[a]\n", False),
        ("json", " \n\ufeff"[::-1], True), ("json", "{}", False), ("json", "# no comment", False),
        ("yaml", "%YAML 1.1\n---\n# no\n...\n", True), ("yaml", "{}", False),
        ("yaml", "--- {}", False), ("yaml", "---\n- a", False), ("yaml", "a:", False),
        ("env", "# A=1\n\n", True), ("env", "A", False), ("toml", b"\xff", False),
    ],
)  # fmt: skip
def test_what_is_blank(form: str, text: str | bytes, blank: bool) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    assert is_blank(data, FORMATS[form]) is blank


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        ("toml", "a = 1\na = 2\n", "is no TOML: Cannot overwrite a value (at line 2, "),
        ("json", '{"b": [{"a": 1, "é": 2, "é": 2}]}', 'is no JSON: the name "é" comes twice'),
        ("json", '{"$map": [], "$map": []}', 'the name "$map" comes twice'),
        ("yaml", "a: 1\nb:\n- c: 1\n  d: {}\n  'c': 1\n",
         'app.yaml is no YAML: the name "c" comes twice (at line 5, column 3)'),
        ("yaml", "1: a\n0x1: b", "the name 1 comes twice (at line 2, column 1)"),
        ("yaml", "a: &x {b: 1, b: 2}\nc: *x", 'the name "b" comes twice (at line 1, column 14)'),
        ("yaml", "? [1]\n: {a: 1, a: 2}", 'the name "a" comes twice'),
    ],
)  # fmt: skip
def test_names_that_come_twice(form: str, text: str, said: str) -> None:
    with pytest.raises(UnreadableFile) as raised:
        reading(text, form)
    assert said in str(raised.value)


def test_what_is_merged_may_come_again() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: [*a, *b], y: 3}\n1: i\n'1': t\n"
    assert reading(text, "yaml") == {
        "a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 1, "y": 3}, 1: "i", "1": "t",
    }  # fmt: skip
    assert reading("a: !!set {x, y}\n", "yaml") == {"a": {"x", "y"}}
    with pytest.raises(UnreadableFile, match="an alias stands for"):
        reading("a: &a\n  b: *a\n", "yaml")
