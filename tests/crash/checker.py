"""Is a history linearizable? That is: could each operation have happened at one moment between its
call and its return, so that all results come out as they did?

Just-in-time linearization (Lowe, *Testing for linearizability*, 2017): go through calls and returns
in order of time and keep every *configuration* that is possible so far, the state and which pending
operations have happened already. At a return its operation must have happened. With few processes
there are few configurations, however long the history.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple


class Operation(NamedTuple):
    process: int
    called: float
    returned: float
    name: str
    arguments: tuple[Any, ...]
    result: Any


Apply = Callable[[Any, Operation], Any]
"""(state, operation) → the state after it, or IMPOSSIBLE if it could not have had its result."""

IMPOSSIBLE = object()


def violation(operations: Iterable[Operation], start: Hashable, apply: Apply) -> Operation | None:
    """The first operation that could not have returned what it did; None: it is linearizable."""
    numbered = list(enumerate(operations))
    events = [(one.called, 0, number, one) for number, one in numbered]
    events += [(one.returned, 1, number, one) for number, one in numbered]
    events.sort(key=lambda event: event[:3])
    configurations: set[tuple[Any, frozenset[int]]] = {(start, frozenset())}
    pending: dict[int, Operation] = {}
    for _, returns, number, operation in events:
        if not returns:
            pending[number] = operation
            continue
        seen = set(configurations)
        todo = list(configurations)
        configurations = set()
        while todo:
            state, happened = todo.pop()
            if number in happened:
                configurations.add((state, happened - {number}))
                continue
            for other, candidate in pending.items():
                if other not in happened:
                    after = apply(state, candidate)
                    following = (after, happened | {other})
                    if after is not IMPOSSIBLE and following not in seen:
                        seen.add(following)
                        todo.append(following)
        del pending[number]
        if not configurations:
            return operation
    return None


# --- the model of a bus: what each operation does -----------------------------------------------

State = tuple[tuple[str, Any, int], ...]
"""(key, value, revision) of each key that is there, in order of keys."""

ABSENT = (None, 0)


def apply_to_bus(state: State, operation: Operation) -> Any:
    """The operations of `rig`, on a few keys. A write takes the revision that it was told."""
    keys = {key: (value, revision) for key, value, revision in state}
    name, arguments, result = operation.name, operation.arguments, operation.result
    if name == "get":
        return state if keys.get(arguments[0], ABSENT)[0] == result else IMPOSSIBLE
    if name == "set":
        keys[arguments[0]] = (arguments[1], result)
    elif name == "swap":  # key, value, expected revision
        fits = keys.get(arguments[0], ABSENT)[1] == arguments[2]
        if fits != (result is not None):
            return IMPOSSIBLE
        if not fits:
            return state
        keys[arguments[0]] = (arguments[1], result)
    elif name == "both":
        return (
            state if tuple(keys.get(key, ABSENT)[0] for key in arguments) == result else IMPOSSIBLE
        )
    elif name == "entry":
        return state if keys.get(arguments[0], ABSENT) == result else IMPOSSIBLE
    elif name == "delete":
        if (arguments[0] in keys) != result:
            return IMPOSSIBLE
        keys.pop(arguments[0], None)
    elif name == "add":
        # `increment` does not tell the revision, so these keys are never swapped.
        if (keys.get(arguments[0], ABSENT)[0] or 0) + 1 != result:
            return IMPOSSIBLE
        keys[arguments[0]] = (result, 0)
    elif name == "together":  # reads one key, adds to another, writes a third
        read, added, written, value = arguments
        if (keys.get(read, ABSENT)[0], (keys.get(added, ABSENT)[0] or 0) + 1) != result[:2]:
            return IMPOSSIBLE
        keys[added] = (result[1], 0)
        keys[written] = (value, result[2])
    else:
        raise AssertionError(name)
    return tuple((key, *keys[key]) for key in sorted(keys))
