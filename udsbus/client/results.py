"""What the requests of a transaction or pipeline have returned. Pure."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, Generic, TypeVar

from ..errors import Error, InvalidRequest

T = TypeVar("T")


class Answers:
    """What the broker has answered to the requests of a transaction or pipeline."""

    def __init__(self) -> None:
        self.open = False
        """Within the with block."""
        self.over = False
        """The with block has ended."""
        self.values: list[Any] = []
        """Of each request, once carried out."""
        self.errors: dict[int, Error] = {}
        """By the number of the request."""
        self.failure: BaseException | None = None
        """Why there are no more values."""
        self.readers: list[tuple[int, Callable[[Any], Any]]] = []
        """For those whose answer is not the value itself."""

    def check_open(self) -> None:
        if self.over:
            raise InvalidRequest("this has ended with its with block; begin another")
        if not self.open:
            raise InvalidRequest("nothing is sent without a with block: `with client.… as many:`")

    def begin(self) -> None:
        if self.over or self.open:
            raise InvalidRequest("this has begun already; begin another")
        self.open = True

    def end(self) -> None:
        self.open = False
        self.over = True

    def fail(self, failure: BaseException) -> None:
        """Remember it without its traceback, which leads back to here, and to the connection of
        this thread: only the collector would find that once the thread has ended."""
        try:
            self.failure = copy(failure)
        except Exception:  # not one of ours, and made in another way than it looks
            self.failure = failure

    def read(self, values: list[Any]) -> None:
        """Take the broker's answers."""
        for number, read in self.readers:
            if number < len(values) and number not in self.errors:
                try:
                    values[number] = read(values[number])
                except Error as unreadable:
                    self.errors[number] = unreadable
        self.values = values

    def first_error(self) -> Error | None:
        return self.errors[min(self.errors)] if self.errors else None


class Result(Generic[T]):
    """What a request in a transaction or pipeline has returned, once that is carried out."""

    __slots__ = ("_answers", "_number")

    def __init__(self, answers: Answers, number: int) -> None:
        self._answers = answers
        self._number = number

    @property
    def value(self) -> T:
        """Raises what the broker answered to this request, or what kept it from answering;
        InvalidRequest before the end."""
        answers = self._answers
        if self._number in answers.errors:
            raise answers.errors[self._number]
        if self._number < len(answers.values):
            return answers.values[self._number]  # type: ignore[no-any-return]
        if answers.failure is not None:
            raise answers.failure
        if answers.over:
            raise InvalidRequest("nothing was sent: the with block was left by an exception")
        raise InvalidRequest("the result is there when the with block has ended")

    def __repr__(self) -> str:
        try:
            return f"<Result: {self.value!r}>"
        except Exception as error:
            return f"<Result: {error!r}>" if self._answers.over else "<Result: not there yet>"
