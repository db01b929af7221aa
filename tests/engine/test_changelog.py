from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from udsbus import messages as m
from udsbus.engine.changelog import FRACTION, TOGETHER, ChangeLog
from udsbus.terms import DELETED, UPDATED

from .support import examples


def change(
    revision: int, key: str = "a", value: bytes | None = b"1", before: bytes | None = None
) -> m.Change:
    kind = DELETED if value is None else UPDATED
    return m.Change(revision, kind, key, value, before=before)


def log_of(changes: list[m.Change], max_changes: int = 1000, max_bytes: int = 1000) -> ChangeLog:
    log = ChangeLog(max_changes, max_bytes)
    for each in changes:
        log.extend([each])
    return log


def everything(key: str) -> bool:
    return True


def revisions_since(log: ChangeLog, revision: int) -> list[int] | None:
    changes = log.since(revision, everything)
    return None if changes is None else [change.revision for change in changes]


def test_an_empty_log_has_missed_nothing() -> None:
    assert ChangeLog().since(0, everything) == []


def test_gives_what_matches_after_a_revision_in_order() -> None:
    changes = [change(1, "a"), change(2, "b"), change(3, "a"), change(4, "a")]
    log = log_of(changes)
    assert log.since(1, "a".__eq__) == [changes[2], changes[3]]
    assert log.since(4, everything) == []


def test_forgets_the_oldest_beyond_its_number_of_changes() -> None:
    log = log_of([change(revision) for revision in range(1, 8)], max_changes=3)
    assert len(log) == 3
    assert revisions_since(log, 4) == [5, 6, 7]
    assert revisions_since(log, 3) is None


def test_forgets_the_oldest_beyond_its_bytes() -> None:
    log = log_of([change(1, "k", b"1234"), change(2, "k", None), change(3, "k", b"1234")], 9, 6)
    assert revisions_since(log, 1) == [2, 3]
    assert revisions_since(log, 0) is None


def test_the_values_before_count_too() -> None:
    log = log_of(
        [change(1, "k", b"1"), change(2, "k", b"1", b"22"), change(3, "k", None, b"1")], 9, 6
    )
    assert revisions_since(log, 1) == [2, 3]
    assert revisions_since(log, 0) is None
    log.extend([change(4, "k", b"1", b"333")])
    assert revisions_since(log, 3) == [4]
    assert revisions_since(log, 2) is None


def test_a_transaction_that_is_partly_forgotten_is_unknown_as_a_whole() -> None:
    log = log_of([change(1), change(2, "a"), change(2, "b"), change(2, "c"), change(3)], 3)
    assert len(log) == 3
    assert revisions_since(log, 1) is None
    assert revisions_since(log, 2) == [3]


def test_the_changes_of_a_turn_are_entered_at_once() -> None:
    log = ChangeLog(3, 1000)
    log.extend([change(revision) for revision in (1, 2)])
    log.extend([change(revision) for revision in range(3, 10)])
    log.extend([])
    assert revisions_since(log, 6) == [7, 8, 9]
    assert revisions_since(log, 5) is None


def test_a_change_larger_than_the_whole_log_leaves_it_empty() -> None:
    log = log_of([change(1), change(2, "a", b"1" * 100)], max_bytes=50)
    assert len(log) == 0
    assert revisions_since(log, 1) is None
    assert revisions_since(log, 2) == []
    log.extend([change(3)])
    assert revisions_since(log, 2) == [3]


Values = tuple[bytes | None, bytes | None]
"""After a change, and before."""

values = st.none() | st.binary(min_size=1, max_size=9)
revisions = st.lists(st.lists(st.tuples(values, values), min_size=1, max_size=4), max_size=20)


@examples(100)
@given(revisions, st.integers(1, 10), st.integers(1, 60))
def test_at_once_is_the_same_as_one_by_one(
    transactions: list[list[Values]], max_changes: int, max_bytes: int
) -> None:
    changes = [
        change(revision, "k", value, before)
        for revision, values in enumerate(transactions, 1)
        for value, before in values
    ]
    together = ChangeLog(max_changes, max_bytes)
    together.extend(changes)
    one_by_one = log_of(changes, max_changes, max_bytes)
    assert together.forgotten == one_by_one.forgotten
    assert list(together._after(0)) == list(one_by_one._after(0))


def test_what_was_entered_one_by_one_is_forgotten_some_at_a_time() -> None:
    log = ChangeLog(4 * FRACTION, 10_000)
    for revision in range(1, 4 * FRACTION + 1):
        log.extend([change(revision)])
        if revision > 3 * FRACTION:
            assert len(log) > 3 * FRACTION - 4
    assert log.forgotten % 4 == 0
    assert revisions_since(log, log.forgotten) == list(range(log.forgotten + 1, revision + 1))


def test_what_comes_one_by_one_and_what_comes_at_once_stay_in_order() -> None:
    log = ChangeLog(FRACTION * TOGETHER, 1_000_000)
    first = 1
    for number in (1, 2, TOGETHER - 4, 1, 1, TOGETHER, 1, TOGETHER - 1, 5, 1):
        log.extend([change(revision) for revision in range(first, first + number)])
        first += number
    assert revisions_since(log, 0) == list(range(1, first))
    assert len(log) == first - 1
    log.take_back(first - 3)
    assert revisions_since(log, 0) == list(range(1, first - 2))


def test_what_was_entered_at_once_is_forgotten_at_once() -> None:
    log = ChangeLog(64, 10_000)
    for first in range(1, 65, 4):
        log.extend([change(revision) for revision in range(first, first + 4)])
    assert revisions_since(log, 0) == list(range(1, 65))
    log.extend([change(65)])
    assert revisions_since(log, 3) is None
    assert revisions_since(log, 4) == list(range(5, 66))


@examples(200)
@given(
    revisions,
    st.integers(1, 10) | st.integers(FRACTION, 80),  # with few, each turn is a run of its own
    st.integers(1, 60) | st.integers(100, 1_000),
)
def test_gives_all_or_none_and_never_outgrows_its_bounds(
    transactions: list[list[Values]], max_changes: int, max_bytes: int
) -> None:
    changes = [
        change(revision, f"k{number}", value, before)
        for revision, values in enumerate(transactions, 1)
        for number, (value, before) in enumerate(values)
    ]
    log = ChangeLog(max_changes, max_bytes)
    for each in changes:
        log.extend([each])
        assert len(log) <= max_changes
        held = [b"".join((c.key.encode(), c.value or b"", c.before or b"")) for c in log._after(0)]
        assert sum(map(len, held)) <= max_bytes
    unknown = changes[: len(changes) - len(log)]
    for revision in range(len(transactions) + 1):
        if any(each.revision > revision for each in unknown):
            assert log.since(revision, everything) is None
        else:
            after = [each for each in changes if each.revision > revision]
            assert log.since(revision, everything) == after
