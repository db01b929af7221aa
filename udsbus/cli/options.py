"""Options, arguments and types that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import Error
from ..limits import REQUEST_TIMEOUT
from ..paths import resolve_address
from ..patterns import check_pattern

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    TextType = click.ParamType[str]
    NumberType = click.ParamType[float]
    IntegerType = click.ParamType[int]
else:
    # Which older releases of click cannot subscript.
    TextType = NumberType = IntegerType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

MARK = "\0"
"""Before an argument that begins with `-` and is none the less no option. Cannot be typed."""


class Command(click.Command):
    """Takes `-5` for a value: no option of ours begins with a digit."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {
            name
            for param in self.params
            if isinstance(param, click.Option) and not param.is_flag and not param.count
            for name in param.opts
        }
        before = ["", *args]
        marked = [
            MARK + arg if _like_number(arg) and previous not in takes_value else arg
            for previous, arg in zip(before, args, strict=False)
        ]
        return super().parse_args(ctx, marked)

    def make_parser(self, ctx: click.Context) -> Any:
        """The marks are gone when it is known what is an option."""
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def unmarked(args: list[str]) -> Any:
            options, rest, order = parse(args=args)
            found = {name: _without_mark(value) for name, value in options.items()}
            return found, _without_mark(rest), order

        parser.parse_args = unmarked  # type: ignore[method-assign]
        return parser


def _without_mark(value: Any) -> Any:
    if isinstance(value, str):
        return value.removeprefix(MARK)
    if isinstance(value, list | tuple):
        return type(value)(map(_without_mark, value))
    return value


def _like_number(arg: str) -> bool:
    return arg[:1] == "-" and (arg[1:2].isdigit() or arg[1:2] == ".")


class Text(TextType):
    """Text as it was typed."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value).removeprefix(MARK)


class Name(Text):
    """A key, topic or pattern; completed with the keys that are there."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = super().convert(value, param, ctx)
        try:
            name.encode()
        except UnicodeEncodeError:
            self.fail(f"{name!r} is not UTF-8", param, ctx)
        return name

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in self.like(incomplete, ctx)]

    def like(self, incomplete: str, ctx: click.Context) -> list[str]:
        """The names that begin with `incomplete`."""
        from .completing import keys_like

        return keys_like(incomplete, ctx)


class SocketPath(TextType):
    """Whether it is there, and ours, is found out by using it."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("the path is empty", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return click.Path().shell_complete(ctx, param, incomplete)


class Seconds(NumberType):
    name = "seconds"

    def __init__(self, most: float = 1e9, least: float = 0.0) -> None:
        self.most = most
        self.least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= self.most or seconds < self.least:
            above = f"from {self.least:g}" if self.least else "above 0"
            self.fail(f"{value!r} is not a number of seconds {above}", param, ctx)
        return seconds


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Age(NumberType):
    """`90`, `90s`, `15m`, `12h`, `7d`, or `0`; in seconds."""

    name = "age"

    def __init__(self, below: float = 1e10) -> None:
        self.below = below

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        number, unit = (value[:-1], UNITS[value[-1]]) if value[-1:] in UNITS else (value, 1)
        try:
            seconds = float(number) * unit
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < self.below:
            self.fail(f"{value!r} is no time like 90s, 15m, 12h or 7d", param, ctx)
        return seconds


class Moment(NumberType):
    """A time: `2h` ago, or in ISO 8601; in seconds since 1970."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from datetime import datetime
        from time import time

        if isinstance(value, float):
            return value
        if value[-1:] in UNITS:
            age = Age(math.inf).convert(value, param, ctx)
            return max(0.0, time() - age)  # before 1970 there was no bus either, as will be said
        try:
            return datetime.fromisoformat(value).timestamp()
        except ValueError:
            self.fail(
                f"{value!r} is no time like 2026-05-04T03:02, and no time ago like 2h", param, ctx
            )


class PatternAge(click.ParamType):  # type: ignore[type-arg]
    """`PATTERN=AGE`."""

    name = "pattern=age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        pattern, equals, age = value.rpartition("=")
        if not equals:
            self.fail(f"{value!r} is not like PATTERN=AGE", param, ctx)
        try:
            check_pattern(pattern)
        except Error as error:
            self.fail(str(error), param, ctx)
        return pattern, Age().convert(age, param, ctx)


class Whole(IntegerType):
    """A whole number from `least` to what travels on the wire."""

    name = "number"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = -1
        if not self.least <= number < 2**64:
            self.fail(f"{value!r} is not a whole number from {self.least}", param, ctx)
        return number


TIMEOUT = Seconds(1e6)
"""What `poll` can wait for, in milliseconds, is a C int."""
REVISION = Whole(0)
COUNT = Whole(1)


def _remembered(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def remember(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.meta[f"udsbus.{name}"] = value

    return remember


def socket_option(function: F) -> F:
    """`--socket PATH`, before or after the subcommand; the later one wins."""
    return click.option(
        "--socket",
        metavar="PATH",
        type=SocketPath(),
        expose_value=False,
        callback=_remembered("address"),
        help="Socket of the bus.  [default: $UDSBUS_SOCKET, else this user's default bus]",
    )(function)


def address(ctx: click.Context | None = None) -> str:
    """The address that the options and the environment name."""
    context = ctx or click.get_current_context()
    return resolve_address(context.meta.get("udsbus.address"))


def timeout_option(function: F) -> F:
    """`--timeout SECONDS` that a request may take."""
    return click.option(
        "--timeout",
        metavar="SECONDS",
        type=TIMEOUT,
        expose_value=False,
        callback=_remembered("timeout"),
        help=f"Wait so long for an answer.  [default: {REQUEST_TIMEOUT:g}]",
    )(function)


def timeout() -> float:
    chosen: float = click.get_current_context().meta.get("udsbus.timeout", REQUEST_TIMEOUT)
    return chosen


def value_options(function: F) -> F:
    """`--json` and `--raw`: how the argument that holds a value is read (inputs.py)."""
    for option in (
        click.option("--raw", is_flag=True, help="Take it as text, whatever it looks like."),
        click.option("--json", "as_json", is_flag=True, help="Insist on JSON."),
    ):
        function = option(function)
    return function


def following_options(function: F) -> F:
    """When `watch` and `subscribe` end, and what they print."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Say on stderr when it has begun."),
        click.option("--json", "as_json", is_flag=True, help="Print an object on each line."),
        click.option(
            "--timeout", metavar="SECONDS", type=TIMEOUT,
            help="Stop after so long: exit code 4 if fewer than --count came, or none at all.",
        ),
        click.option("--count", metavar="N", type=COUNT, help="Stop after N."),
    ):  # fmt: skip
        function = option(function)
    return function
