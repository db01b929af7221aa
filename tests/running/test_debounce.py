"""When to react."""

from __future__ import annotations

from udsbus.running.debounce import MOST_SECONDS, Debounce


def test_when_it_has_been_quiet() -> None:
    debounce = Debounce(0.5)
    assert debounce.due is None
    for now in (10.0, 10.25):
        debounce.changed(now)
        assert debounce.due == now + 0.5
    debounce.done()
    assert debounce.due is None
    debounce.changed(20.0)
    assert debounce.due == 20.5


def test_changes_that_do_not_cease() -> None:
    debounce = Debounce(0.5)
    for tenth in range(100):
        debounce.changed(10.0 + tenth / 10)
    assert debounce.due == 10.0 + MOST_SECONDS


def test_who_wants_to_wait_longer_than_that() -> None:
    debounce = Debounce(60.0)
    debounce.changed(0.0)
    debounce.changed(10.0)
    assert debounce.due == 60.0
