"""The table of methods: every wrong argument is refused by name, every good one arrives."""

from __future__ import annotations

import sys
from inspect import signature
from itertools import product
from typing import Any, get_args

import msgpack
import pytest

from udsbus import messages as m
from udsbus.broker.versionpage import VersionedReads
from udsbus.engine import Engine
from udsbus.errors import InvalidRequest, LimitExceeded, UnsupportedValue
from udsbus.limits import KEYS_PER_REQUEST, REQUESTS_PER_BATCH
from udsbus.terms import KINDS
from udsbus.wire import values
from udsbus.wire.methods import METHODS, TRANSACTION_METHODS, Method, Parameter

WRITES = {"set", "set_many", "delete", "increment", "expire", "persist", "transaction", "publish",
          "set_schema", "batch", "kick", "unretain", "acquire", "release", "add_permits",
          "put", "take", "done", "give_back", "offer", "withdraw"}  # fmt: skip


def packed(value: Any) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


GOOD: dict[str, list[tuple[Any, Any]]] = {
    "version": [(1, 1), (2**64 - 1, 2**64 - 1)],
    "name": [("me", "me"), ("", ""), (None, None)],
    "session": [("s", "s"), ("", ""), (None, None)],
    "lane": [(0, 0), (7, 7)],
    "unanswered": [(1, 1), (7, 7)],
    "key": [("a/b", "a/b"), ("", "")],
    "keys": [([], []), (["a", "b"], ["a", "b"])],
    "value": [
        (b"\x01", b"\x01"), (b"", b""), (1, b"\x01"), ("text", b"\xa4text"), (None, b"\xc0"),
        ([1, {"a": b"b"}], packed([1, {"a": b"b"}])), ({}, b"\x80"),
    ],
    "schema": [({"type": "null"}, packed({"type": "null"})), (b"\x80", b"\x80"), (None, None)],
    "values": [
        ({}, {}),
        ({"a": b"\x01", "b": "", "c": None}, {"a": b"\x01", "b": b"\xa0", "c": b"\xc0"}),
    ],
    "ttl": [(1, 1.0), (0.001, 0.001), (1e300, 1e300)],
    "if_revision": [(0, 0), (7, 7), (None, None)],
    "if_changed": [(True, True), (False, False)],
    "ephemeral": [(True, True), (False, False)],
    "page": [(True, True), (False, False)],
    "bare": [(True, True), (False, False)],
    "keep": [(True, True), (False, False)],
    "metadata": [(b"\x01", b"\x01"), ({"a": 1}, packed({"a": 1})), (None, None)],
    "heartbeat": [(1, 1.0), (0.5, 0.5), (None, None)],
    "revision": [(0, 0), (7, 7)],
    "client": [("s", "s")],
    "fence": [(7, 7), (None, None)],
    "lock": [("a/b", "a/b"), ("", "")],
    "claim": [(0, 0), (7, 7)],
    "up_to": [(0, 0), (7, 7)],
    "missing": [([], []), ([3, 7], [3, 7])],
    "msgid": [(0, 0), (7, 7)],
    "owner": [(0, 0), (7, 7)],
    "shared": [(True, True), (False, False)],
    "permits": [(0, 0), (7, 7)],
    "timeout": [(0, 0), (0.5, 0.5), (None, None)],
    "unless_deadlock": [(True, True), (False, False)],
    "queue": [("a/b", "a/b"), ("", "")],
    "service": [("a/b", "a/b"), ("", "")],
    "worker": [("w", "w"), ("", "")],
    "about": [(b"\x01", b"\x01"), ({"a": 1}, packed({"a": 1}))],
    "item": [(b"\x01", b"\x01"), ("text", b"\xa4text")],
    "order": [(b"\x01", b"\x01"), (b"", b"")],
    "maxsize": [(0, 0), (7, 7)],
    "place": [("1", "1"), ("", "")],
    "last": [(True, True), (False, False)],
    "linger": [(1, 1.0), (0.5, 0.5)],
    "more": [(1, 1), (7, 7)],
    "after_ticket": [(0, 0), (7, 7)],
    "by": [(1, 1), (-5, -5), (0, 0), (0.5, 0.5)],
    "pattern": [("**", "**")],
    "after": [("k", "k"), (None, None)],
    "limit": [(0, 0), (10, 10), (None, None)],
    "checks": [([], []), ([["a", 0], ["b", 7]], [("a", 0), ("b", 7)])],
    "operations": [
        ([], []),
        (
            [["get", "a"], ["set", "b", b"\x01", {"ttl": 5}], ["delete", "c", {"if_revision": 1}]],
            [m.Get("a"), m.Set("b", b"\x01", ttl=5.0), m.Delete("c", if_revision=1)],
        ),
        ([["increment", "n", {"by": 2}]], [m.Increment("n", 2)]),
        ([["set", "b", 1], ["set", "c", None]], [m.Set("b", b"\x01"), m.Set("c", b"\xc0")]),
    ],
    "requests": [([], []), ([["get", ["a"]], 1], [["get", ["a"]], 1])],
    "from_revision": [(0, 0), (None, None)],
    "kinds": [
        (["created", "expired"], frozenset(["created", "expired"])),
        (["deleted", "deleted"], frozenset(["deleted"])),
        (list(KINDS), None),
        (None, None),
    ],
    "ignore_own": [(True, True), (False, False)],
    "previous": [(True, True), (False, False)],
    "watch": [(1, 1)],
    "subscription": [(1, 1)],
    "patterns": [(["a/*", "**"], ["a/*", "**"]), ([], [])],
    "echo": [(True, True), (False, False)],
    "details": [(True, True), (False, False)],
    "retain": [(True, True), (False, False)],
    "topic": [("t", "t")],
    "message": [(b"\x01", b"\x01"), ("hi", b"\xa2hi")],
    "policy": [("drop_oldest", "drop_oldest"), ("disconnect", "disconnect"), ("block", "block")],
    "wait": [(0, 0), (0.5, 0.5)],
}  # fmt: skip
"""For each parameter's name: what may be given, and what arrives."""

NO_TEXT: list[Any] = [None, 1, 1.5, True, b"bytes", ["a"], {}]
NO_OPTIONAL_TEXT = NO_TEXT[1:]
NO_INTEGER: list[Any] = [None, -1, 1.0, True, False, "1", b"1", [1], {}]
NO_SECONDS = [0, 0.0, -1, -0.5, float("nan"), float("inf"), "5", True, [1], {}, b""]
WRONG: dict[str, list[Any]] = {
    "version": NO_INTEGER,
    "name": NO_OPTIONAL_TEXT,
    "session": NO_OPTIONAL_TEXT,
    "lane": NO_INTEGER,
    "unanswered": [*NO_INTEGER, 0],
    "key": NO_TEXT,
    "keys": [None, "a", {"a": 1}, b"", [1], ["a", None], [b"a"]],
    "value": [],
    "schema": [],
    "values": [None, [], "a", [["a", 1]], {1: 1}, {b"a": 1}, {"a": 1, None: 1}],
    "ttl": NO_SECONDS,
    "if_revision": NO_INTEGER[1:],
    "if_changed": [None, 0, 1, "true", [], {}],
    "ephemeral": [None, 0, 1, "true", [], {}],
    "page": [None, 0, 1, "true", [], {}],
    "bare": [None, 0, 1, "true", [], {}],
    "keep": [None, 0, 1, "true", [], {}],
    "metadata": [],
    "heartbeat": NO_SECONDS,
    "revision": NO_INTEGER,
    "client": NO_TEXT,
    "fence": NO_INTEGER[1:],
    "lock": NO_TEXT,
    "claim": NO_INTEGER,
    "up_to": NO_INTEGER,
    "missing": [7, None, "3", [None], ["3"], [-1]],
    "msgid": NO_INTEGER,
    "owner": NO_INTEGER,
    "shared": [None, 0, 1, "true", [], {}],
    "permits": NO_INTEGER,
    "timeout": [-1, -0.5, float("nan"), float("inf"), "5", True, [1], {}, b""],
    "unless_deadlock": [None, 0, 1, "true", [], {}],
    "queue": NO_TEXT,
    "service": NO_TEXT,
    "worker": NO_TEXT,
    "about": [],
    "item": [],
    "order": [None, 1, "text", [b""], {}],
    "maxsize": NO_INTEGER,
    "place": NO_TEXT,
    "last": [None, 0, 1, "true", [], {}],
    "linger": NO_SECONDS,
    "more": [*NO_INTEGER, 0],
    "after_ticket": NO_INTEGER,
    "by": [None, True, "1", b"1", [1], {}],
    "pattern": NO_TEXT,
    "after": NO_OPTIONAL_TEXT,
    "limit": NO_INTEGER[1:],
    "checks": [None, {}, "a", [1], ["ab"], [["a"]], [["a", 1, 2]], [[1, 1]], [["a", None]],
               [["a", -1]], [["a", True]]],
    "operations": [None, {}, "get", [1], ["get"], [[]], [["publish", "t", "m"]], [["Get", "a"]],
                   [[["get"], "a"]], [["transaction", [], []]], [["get"]], [["get", 1]],
                   [["set", "a"]], [["set", "a", 1, {"if_revision": -1}]],
                   [["increment", "a", {"by": "1"}]], [["get", "a", {"ttl": 1}]]],
    "requests": [None, {}, "get", b"", 1],
    "from_revision": NO_INTEGER[1:],
    "kinds": [[], "created", {"created": 1}, [None], ["created", "present"], [["created"]], 1],
    "ignore_own": [None, 0, 1, "true", [], {}],
    "previous": [None, 0, 1, "true", [], {}],
    "watch": NO_INTEGER,
    "subscription": NO_INTEGER,
    "patterns": [None, "a", [1], {}, [["a"]]],
    "echo": [None, 0, 1, "true", [], {}],
    "details": [None, 0, 1, "true", [], {}],
    "retain": [None, 0, 1, "true", [], {}],
    "topic": NO_TEXT,
    "message": [],
    "policy": [None, "", "drop", "Block", b"block", 1, ["block"], {}],
    "wait": [-1, -0.5, float("nan"), float("inf"), "5", True, [1], {}, b""],
}  # fmt: skip
"""For each parameter's name: what must be refused."""

PARAMETERS = [
    (method, parameter)
    for method in METHODS.values()
    for parameter in (*method.arguments, *method.options)
]


def params_with(method: Method, changed: Parameter, given: Any) -> list[Any]:
    """Good params for `method`, but `given` for the parameter `changed`."""
    params = [
        given if argument is changed else GOOD[argument.name][-1][0]
        for argument in method.arguments
    ]
    return params if changed in method.arguments else [*params, {changed.name: given}]


# --- the table itself -----------------------------------------------------------------------


def test_every_parameter_is_tested_here() -> None:
    assert {parameter.name for _, parameter in PARAMETERS} == set(GOOD) == set(WRONG)


def test_every_command_has_one_method() -> None:
    commands = [method.command for method in METHODS.values()]
    assert len(set(commands)) == len(commands)
    assert set(commands) == set(get_args(m.Command))


def test_parameters_are_the_fields_of_the_command() -> None:
    for method in METHODS.values():
        names = [parameter.name for parameter in (*method.arguments, *method.options)]
        assert names == list(method.command._fields), method.name
        assert set(method.command._field_defaults) == {option.name for option in method.options}


def test_names_that_mean_something_else_are_not_taken() -> None:
    for method, parameter in PARAMETERS:
        assert parameter.name != "native", method.name


def test_reads_are_those_that_change_nothing() -> None:
    assert {method.name for method in METHODS.values() if not method.reads} == WRITES


def test_operations_of_a_transaction() -> None:
    commands = {METHODS[name].command for name in TRANSACTION_METHODS}
    assert commands == set(get_args(m.TransactionOperation))


# --- what is good ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameter"), PARAMETERS, ids=lambda item: getattr(item, "name", None)
)
def test_good_arguments_arrive(method: Method, parameter: Parameter) -> None:
    for given, expected in GOOD[parameter.name]:
        command, native = method.parse(params_with(method, parameter, given))
        assert type(command) is method.command
        assert native is False
        arrived = getattr(command, parameter.name)
        assert arrived == expected
        assert type(arrived) is type(expected)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_options_may_be_left_out_or_empty(method: Method) -> None:
    params = [GOOD[argument.name][0][0] for argument in method.arguments]
    command, native = method.parse(params)
    assert method.parse([*params, {}]) == (command, native)
    for option in method.options:
        assert getattr(command, option.name) == method.command._field_defaults[option.name]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_params_are_left_as_they_were(method: Method) -> None:
    options = {option.name: GOOD[option.name][0][0] for option in method.options}
    params = [*(GOOD[argument.name][-1][0] for argument in method.arguments), options]
    before = repr(params)
    method.parse(params)
    assert repr(params) == before


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_native_is_known_to_every_method(method: Method) -> None:
    params = [GOOD[argument.name][0][0] for argument in method.arguments]
    for given in (False, True):
        _, native = method.parse([*params, {"native": given}])
        assert native is given


def test_a_native_value_is_encoded_even_if_it_is_a_bin() -> None:
    for name in ("set", "publish"):
        command, _ = METHODS[name].parse(["a", b"\x01", {"native": True}])
        assert tuple(command)[1] == packed(b"\x01")
        command, _ = METHODS[name].parse(["a", "text", {"native": True}])
        assert tuple(command)[1] == packed("text")


def test_the_keys_of_set_many_are_not_kept_in_the_table_of_interned_strings() -> None:
    params = msgpack.unpackb(msgpack.packb([{"of no other test": b"\x01"}]))
    assert sys.intern("of no other test, ".rstrip(", ")) is next(iter(params[0])), "as msgpack does"
    command, _ = METHODS["set_many"].parse(params)
    assert command == m.SetMany({"of no other test": b"\x01"})
    assert isinstance(command, m.SetMany)
    assert next(iter(command.values)) is not sys.intern("of no other test, ".rstrip(", "))


def test_native_values_of_set_many_are_encoded_too() -> None:
    command, _ = METHODS["set_many"].parse([{"a": b"\x01", "b": "text"}, {"native": True}])
    assert command == m.SetMany({"a": packed(b"\x01"), "b": packed("text")})


def test_a_native_set_in_a_transaction_is_encoded_too() -> None:
    command, _ = METHODS["transaction"].parse([[], [["set", "a", b"\x01", {"native": True}]]])
    assert command == m.Transaction([], [m.Set("a", packed(b"\x01"))])


def test_native_for_what_a_transaction_reads_is_its_own_option() -> None:
    operations = [["get", "a"], ["set", "a", b"\x01"]]
    command, wanted = METHODS["transaction"].parse([[], operations, {"native": True}])
    assert command == m.Transaction([], [m.Get("a"), m.Set("a", b"\x01")])
    assert wanted
    with pytest.raises(InvalidRequest, match="goes with the transaction's own options"):
        METHODS["transaction"].parse([[], [["get", "a", {"native": True}]]])


def test_a_map_as_the_last_argument_is_no_map_of_options() -> None:
    assert METHODS["set"].parse(["a", {"ttl": 5}])[0] == m.Set("a", packed({"ttl": 5}))
    assert METHODS["set_many"].parse([{"ttl": 5}])[0] == m.SetMany({"ttl": b"\x05"})
    both = METHODS["set_many"].parse([{"ttl": 5}, {"ttl": 5}])[0]
    assert both == m.SetMany({"ttl": b"\x05"}, ttl=5.0)


@pytest.mark.parametrize(
    "method", [method for method in METHODS.values() if method.plain], ids=lambda row: row.name
)
def test_the_fast_path_gives_the_same_command(method: Method) -> None:
    """What the broker does with so many params of these types, and what `parse` would do."""
    number = abs(method.plain)
    assert number == len(method.arguments)
    samples: list[list[Any]] = [["", "a", "a/*"], [b"", b"\x01"]]
    if method.plain < 0:
        samples[1:] = [[0, 7, 2**64 - 1]] * 2
    for these in map(list, product(*samples[:number])):
        fast: Any = method.command(*these)
        parsed, native = method.parse(these)
        assert fast == parsed
        assert list(map(type, fast)) == list(map(type, tuple(parsed)))
        assert native is False


@pytest.mark.parametrize(
    "method", [method for method in METHODS.values() if method.plain], ids=lambda row: row.name
)
def test_the_fast_path_calls_the_handler_with_the_same_fields(method: Method) -> None:
    """It gives the arguments alone, so the handler must have the command's defaults."""
    handlers = Engine(values).handlers | VersionedReads({}, None).handlers
    handler = signature(handlers[method.command])
    arguments: list[Any] = ["x", b"\x01"][: method.plain]
    if method.plain < 0:
        arguments = ["x", 1, 2][: -method.plain]
    fast = handler.bind(1, 0.0, *arguments)
    fast.apply_defaults()
    assert fast.args[2:] == tuple(method.parse(arguments)[0])


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("params", [None, 0, True, "a", b"a", {}, {"a": 1}, ("a",)], ids=repr)
def test_params_that_are_no_array(method: Method, params: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{method.name}: params must be an array, not "):
        method.parse(params)


# --- what is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameter"), PARAMETERS, ids=lambda item: getattr(item, "name", None)
)
def test_wrong_arguments_are_refused_by_name(method: Method, parameter: Parameter) -> None:
    for given in WRONG[parameter.name]:
        with pytest.raises(InvalidRequest) as caught:
            method.parse(params_with(method, parameter, given))
        assert caught.value.number == InvalidRequest.number
        if parameter.name not in ("operations", "checks"):  # these name what is wrong inside
            assert parameter.name in str(caught.value), given
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "params", "parts"),
    [
        ("get", [], ["get: expected the arguments key, then an optional map of options; got 0"]),
        ("get", ["a", "b"], ["get: expected the arguments key, then", "got 2"]),
        ("get", ["a", {}, {}], ["get: expected the arguments key, then", "got 3"]),
        ("set", ["a"], ["set: expected the arguments key, value, then", "got 1"]),
        ("ping", [1], ["ping: expected the arguments none, then", "got 1"]),
        ("get", [5], ["key must be a string, not 5"]),
        ("get", [["a"]], ["key must be a string, not list"]),
        ("get", ["a", {"ttl": 1}], ["get: unknown option 'ttl'", "known: none"]),
        ("set", ["a", 1, {"tll": 1}], ["option 'tll'", "known: ttl, if_revision, if_changed"]),
        ("set", ["a", 1, {1: 1}], ["unknown option 1"]),
        ("get", ["a", {"native": 1}], ["native must be true or false, not 1"]),
        ("get", ["a", {"native": None}], ["native must be true or false, not None"]),
        ("set", ["a", 1, {"ttl": 0}], ["ttl must be a number of seconds above 0, not 0"]),
        ("set", ["a", 1, {"if_revision": -1}], ["if_revision must be a whole number", "not -1"]),
        ("expire", ["a", None], ["ttl must be a number of seconds above 0, not None"]),
        ("get_many", [["a", 1]], ["each of keys must be a string, not 1"]),
        ("get_many", ["a"], ["keys must be an array, not 'a'"]),
        ("set_many", [{1: 2}], ["each key of values must be a string, not 1"]),
        ("transaction", [[["a"]], []], ["each of checks must be [key, revision], not list"]),
        ("transaction", [[["a", "x"]], []], ["revision must be a whole number from 0, not 'x'"]),
        ("transaction", [[], [["keys", "**"]]], ["each of operations", "get, set, delete"]),
        ("transaction", [[], [["set", "a"]]], ["set: expected the arguments key, value", "got 1"]),
        ("get", [5, {"x": 1}], ["key"]),
    ],
)  # fmt: skip
def test_the_message_says_what_is_wrong(name: str, params: list[Any], parts: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        METHODS[name].parse(params)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "params",
    [[["x"] * 1_000], ["x" * 1_000, {"y" * 1_000: 1}], ["x", {b"y" * 1_000: 1}], [10**400]],
    ids=["list", "text option", "bytes option", "number"],
)
def test_a_long_wrong_argument_is_not_echoed_whole(params: list[Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        METHODS["get"].parse(params)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("get_many", [["k"] * (KEYS_PER_REQUEST + 1)]),
        ("set_many", [{str(n): b"\x01" for n in range(KEYS_PER_REQUEST + 1)}]),
        ("subscribe", [["k"] * (KEYS_PER_REQUEST + 1)]),
        ("transaction", [[["k", 0]] * (KEYS_PER_REQUEST + 1), []]),
        ("transaction", [[], [["get", "k"]] * (KEYS_PER_REQUEST + 1)]),
    ],
    ids=["get_many", "set_many", "subscribe", "checks", "operations"],
)
def test_more_items_than_one_request_may_have(name: str, params: list[Any]) -> None:
    with pytest.raises(LimitExceeded, match=f"has {KEYS_PER_REQUEST + 1} items") as caught:
        METHODS[name].parse(params)
    assert caught.value.details == {
        "limit": "keys_per_request",
        "maximum": KEYS_PER_REQUEST,
        "actual": KEYS_PER_REQUEST + 1,
    }


def test_more_requests_than_one_batch_may_have() -> None:
    with pytest.raises(LimitExceeded, match=f"has {REQUESTS_PER_BATCH + 1} items") as caught:
        METHODS["batch"].parse([[["get", ["a"]]] * (REQUESTS_PER_BATCH + 1)])
    assert caught.value.details == {
        "limit": "requests_per_batch",
        "maximum": REQUESTS_PER_BATCH,
        "actual": REQUESTS_PER_BATCH + 1,
    }


def test_as_many_items_as_one_request_may_have() -> None:
    command, _ = METHODS["get_many"].parse([["k"] * KEYS_PER_REQUEST])
    assert isinstance(command, m.GetMany)
    assert len(command.keys) == KEYS_PER_REQUEST


# --- results for clients of other languages --------------------------------------------------


def native(name: str, result: Any) -> Any:
    to_native = METHODS[name].to_native
    assert to_native is not None
    return to_native(result)


def test_native_results() -> None:
    one = packed({"a": [1, b"x"]})
    value = {"a": [1, b"x"]}
    assert native("get", one) == value
    assert native("get", None) is None
    assert native("entry", (one, 7, None)) == (value, 7, None)
    assert native("entry", None) is None
    assert native("get_many", [one, None]) == [value, None]
    assert native("items", ([("k", one, 7)], "k")) == ([("k", value, 7)], "k")
    assert native("transaction", (9, [one, None, 9, True])) == (9, [value, None, 9, True])


@pytest.mark.parametrize("data", [b"\xc1", b"\x92\x01", b"\x01\x02", b"\x81\x90\x01", b"\xa1\xff"])
def test_bytes_that_are_no_value_are_refused_as_such(data: bytes) -> None:
    """Values are opaque, so anything may be stored; a native read of rubbish is nobody's fault."""
    for name, result in (
        ("get", data), ("entry", (data, 1, None)), ("get_many", [None, data]),
        ("items", ([("k", data, 1)], None)), ("transaction", (1, [2, data])),
    ):  # fmt: skip
        with pytest.raises(UnsupportedValue, match=f"the stored {len(data)} bytes are no"):
            native(name, result)
