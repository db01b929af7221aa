"""docs/protocol.md, docs/values.md and docs/limits.md say what the code does, all and no more."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest

import udsbus
from udsbus.errors import ERRORS
from udsbus.limits import LIMITS
from udsbus.services.frames import leaving_frame
from udsbus.terms import KINDS, POLICIES, CloseReason
from udsbus.version import PROTOCOL_VERSION
from udsbus.wire.encoding import encode_behind, encode_in_step
from udsbus.wire.methods import METHODS, NOTIFICATIONS, TRANSACTION_METHODS
from udsbus.wire.values import EXTENSIONS, NESTING, decode, encode, extension_of

from .harness import BrokerProcess
from .wire.conversation import Conversation
from .wire.notation import Step, encoded, evaluate, parse, to_bytes

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("protocol.md", "values.md", "limits.md")


class Section(NamedTuple):
    """A heading and what stands below it, up to the next heading."""

    level: int
    title: str
    text: str


def sections(name: str) -> list[Section]:
    found = []
    in_example = False
    for line in (DOCS / name).read_text().splitlines(keepends=True):
        if line.startswith("```"):
            in_example = not in_example
        if not in_example and (heading := re.match(r"(#+) (.+)", line)):
            found.append(Section(len(heading[1]), heading[2], ""))
        else:
            found[-1] = found[-1]._replace(text=found[-1].text + line)
    return found


def below(name: str, parent: str) -> dict[str, Section]:
    """The sections one level below the heading `parent`, by title."""
    all_sections = sections(name)
    (start,) = [index for index, one in enumerate(all_sections) if one.title == parent]
    level = all_sections[start].level
    found = {}
    for section in all_sections[start + 1 :]:
        if section.level <= level:
            break
        if section.level == level + 1:
            found[section.title] = section
    return found


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of each table, by what stands at the head of its first column."""
    found = {}
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        found[head[0]] = rows
    return found


def table(name: str, title: str, first: str) -> list[list[str]]:
    (section,) = [one for one in sections(name) if one.title == title]
    return tables(section.text)[first]


def unquoted(cell: str) -> str:
    assert re.fullmatch(r"`[^`]+`", cell), f"not in backticks: {cell}"
    return cell.strip("`")


# --- the tables -----------------------------------------------------------------------------


def test_the_version() -> None:
    assert f"This is version {PROTOCOL_VERSION} of the protocol" in sections("protocol.md")[0].text


def test_every_method_has_a_section_and_none_is_invented() -> None:
    assert list(map(unquoted, below("protocol.md", "Methods"))) == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_described_as_it_is(name: str) -> None:
    method = METHODS[name]
    text = below("protocol.md", "Methods")[f"`{name}`"].text
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]
    assert paragraphs[0] == method.summary
    assert f"Result: {method.result}." in paragraphs
    expected = [[one.name, "argument"] for one in method.arguments]
    expected += [[one.name, "option"] for one in method.options]
    rows = tables(text).get("name", [])
    assert [[unquoted(row[0]), row[1]] for row in rows] == expected


def test_the_operations_of_a_transaction() -> None:
    text = below("protocol.md", "Methods")["`transaction`"].text
    (listed,) = re.findall(r"The operations are (.+?), with", text)
    assert re.findall(r"`(\w+)`", listed) == list(TRANSACTION_METHODS)


def test_every_notification_is_described_as_it_is() -> None:
    described = below("protocol.md", "Notifications")
    assert list(map(unquoted, described)) == list(NOTIFICATIONS)
    for name, (meaning, params) in NOTIFICATIONS.items():
        text = described[f"`{name}`"].text
        assert text.strip().startswith(meaning)
        assert f"\nParams: {params}.\n" in text


def test_every_error() -> None:
    rows = table("protocol.md", "Errors", "number")
    documented = [(int(row[0]), *map(unquoted, row[1:3]), row[3]) for row in rows]
    assert documented == [
        (number, cls.word, cls.__name__, cls.fault) for number, cls in sorted(ERRORS.items())
    ]


def test_details_are_those_of_words_that_exist() -> None:
    words = {unquoted(row[0]) for row in table("protocol.md", "Errors", "word")}
    assert words <= {cls.word for cls in ERRORS.values()}


def test_every_kind_of_change() -> None:
    rows = table("protocol.md", "Revisions and changes", "kind")
    assert [unquoted(row[0]) for row in rows] == list(KINDS)


def test_every_reason_for_which_a_connection_ends() -> None:
    rows = table("protocol.md", "Why a connection ends", "reason")
    assert [unquoted(row[0]) for row in rows] == [reason.value for reason in CloseReason]


def test_every_limit() -> None:
    rows = table("limits.md", "Limits", "name")
    assert [row[:4] for row in rows] == [
        [f"`{name}`", f"{limit.value:,}", limit.unit, limit.reason]
        for name, limit in LIMITS.items()
    ]


@pytest.mark.parametrize("page", PAGES)
def test_names_in_the_text_are_those_that_exist(page: str) -> None:
    """Of names with an underscore, which are never plain English."""
    rows = [row for method in METHODS.values() for row in (*method.arguments, *method.options)]
    known = {
        *METHODS, *LIMITS, *(row.name for row in rows), *(reason.value for reason in CloseReason),
        *(cls.word for cls in ERRORS.values()), "change_log",
        *NOTIFICATIONS, *POLICIES, "fell_behind", "left_out", "dead_letters",
    }  # fmt: skip
    assert set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", (DOCS / page).read_text())) <= known


@pytest.mark.parametrize("method", ["hello", "info"])
def test_every_field_of_a_map_that_the_broker_returns(broker: BrokerProcess, method: str) -> None:
    with broker.connect() as raw:
        result = raw.call(method, *([PROTOCOL_VERSION] if method == "hello" else []))
    documented = tables(below("protocol.md", "Methods")[f"`{method}`"].text)
    assert [unquoted(row[0]) for row in documented["field"]] == list(result)
    assert result["limits"] == {name: limit.value for name, limit in LIMITS.items()}
    if method == "info":
        assert [unquoted(row[0]) for row in documented["counter"]] == list(result["counters"])


def test_every_link_leads_somewhere() -> None:
    def anchor(title: str) -> str:
        return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")

    anchors = {name: {anchor(section.title) for section in sections(name)} for name in PAGES}
    for name in anchors:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", (DOCS / name).read_text()):
            page, _, place = target.partition("#")
            assert not place or place in anchors[page or name], f"{name}: {target}"
            assert (DOCS / (page or name)).exists(), f"{name}: {target}"


# --- docs/values.md -------------------------------------------------------------------------

EXTENSION_ROWS = table("values.md", "What comes back as it was", "code")


def test_every_extension_type() -> None:
    documented = [(int(row[0]), unquoted(row[1])) for row in EXTENSION_ROWS]
    assert documented == [(one.code, f"{one.module}.{one.name}") for one in EXTENSIONS]


@pytest.mark.parametrize("row", EXTENSION_ROWS, ids=lambda row: row[1])
def test_the_example_of_an_extension_type(row: list[str]) -> None:
    modules = {"datetime": datetime, "decimal": decimal, "uuid": uuid, "pathlib": pathlib}
    value = eval(unquoted(row[3]), modules)
    extension = extension_of(value)
    assert extension is None or extension.code == int(row[0])
    data = bytes.fromhex(unquoted(row[4]))
    assert encode(value) == data
    assert msgpack.unpackb(data).code == int(row[0])
    assert decode(data) == value
    assert type(decode(data)) is type(value)


def test_the_bound_of_extension_types_within_one_another() -> None:
    assert f"at most {NESTING} of them within one another" in sections("values.md")[1].text


# --- the examples ---------------------------------------------------------------------------


def examples(section: Section, kind: str = "exchange") -> list[list[Step]]:
    return [parse(block) for block in re.findall(rf"```{kind}\n(.*?)```", section.text, re.S)]


WITH_EXAMPLES = [section for section in sections("protocol.md") if examples(section)]
CALLS = [each for section in sections("protocol.md") for each in examples(section, "call")]
"""With a worker, not with the broker."""
STEPS = [step for section in WITH_EXAMPLES for example in examples(section) for step in example]


@pytest.mark.parametrize("section", WITH_EXAMPLES, ids=lambda section: section.title)
def test_forms_and_bytes_are_the_same(section: Section) -> None:
    for example in examples(section):
        check_bytes(example)


def check_bytes(example: list[Step]) -> None:
    for step in example:
        if step.form:
            assert step.bytes == encoded(evaluate(step.form)), f"the bytes of {step.form}"
        else:
            assert step.bytes == "end" or step.to_broker


@pytest.mark.parametrize("section", WITH_EXAMPLES, ids=lambda section: section.title)
def test_examples_happen_as_they_are_written(section: Section, broker: BrokerProcess) -> None:
    for example in examples(section):
        with Conversation(broker.address) as conversation:
            conversation.hold(example)
            conversation.expect_no_more()


def test_calls_happen_as_they_are_written(broker: BrokerProcess) -> None:
    page = (DOCS / "protocol.md").read_text()
    (shown,) = re.findall(r"```python\n(class Calc.*?)```", page, re.S)
    names: dict[str, Any] = {}
    exec(shown, names)
    assert len(CALLS) == 4
    with udsbus.connect(broker.address) as client:
        client.service("calc", names["Calc"])
        assert client.get("$sys/services/calc") < client.revision()
        ((_, about),) = client.items("$sys/workers/calc/*")
        rows = table("protocol.md", "Calls", "field")
        assert sorted(unquoted(row[0]) for row in rows) == sorted(about)
        for example in CALLS:
            check_bytes(example)
            with Conversation(about["path"] + ".sock") as conversation:
                conversation.hold(example)


BYTES = [
    step
    for section in sections("protocol.md")
    for block in re.findall(r"```bytes\n(.*?)```", section.text, re.S)
    for step in parse(block)
]
"""Of messages that cannot be met in an example."""


@pytest.mark.parametrize("step", BYTES, ids=lambda step: step.form)
def test_the_bytes_of_what_cannot_be_met_here(step: Step) -> None:
    kind, name, params = evaluate(step.form)[:3]
    if kind == 1:
        assert leaving_frame(name) == to_bytes(step.bytes)
        return
    encoders: dict[str, Callable[..., bytes]] = {"behind": encode_behind, "in_step": encode_in_step}
    assert encoders[name](*params) == to_bytes(step.bytes)


SENT = [evaluate(step.form) for step in STEPS if step.to_broker and step.form]
RECEIVED = [evaluate(step.form) for step in STEPS if not step.to_broker and step.form]


def test_every_method_and_option_has_an_example() -> None:
    met = set()
    for message in SENT:
        if message[0] == 0 and message[2] in METHODS:
            method = METHODS[message[2]]
            options = message[3][len(method.arguments) :]
            met |= {(method.name, option) for option in ("", *(options[0] if options else ()))}
    for method in METHODS.values():
        assert (method.name, "") in met
        for option in method.options:
            assert (method.name, option.name) in met


def test_every_notification_has_an_example() -> None:
    met = [*RECEIVED, *(evaluate(step.form) for step in BYTES)]
    assert {message[1] for message in met if message[0] == 2} == set(NOTIFICATIONS)


def test_every_kind_of_change_has_an_example() -> None:
    assert {message[2][1] for message in RECEIVED if message[1] == "change"} == set(KINDS)


def test_every_error_that_a_broker_sends_has_an_example() -> None:
    errors = {
        (message[2][0], message[3]["error"])
        for message in RECEIVED
        if message[0] == 1 and message[2] is not None
    }
    rows = table("protocol.md", "Errors", "number")
    sent = {
        (int(row[0]), unquoted(row[1]))
        for row in rows
        if not row[4].startswith(("made by clients", "never sent"))
    }
    assert errors == sent - {(1, "internal"), (12, "storage_failed"), (15, "missing_extra")}
