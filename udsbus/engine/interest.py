"""Who wants to know: the index from a key or topic to the subscribers whose patterns match.

The patterns form a tree by segments. Finding the matches walks the tree along the segments of the
name with the set of nodes reached so far, like a nondeterministic automaton; a `**` node stays in
the set. The cost depends on the depth of the name and on how many branches match on the way, not
on how many patterns there are, and no pattern can make it exponential.
"""

from __future__ import annotations

from ..patterns import RESERVED

REMEMBERED = 4_096
"""Names whose subscribers are kept until a pattern comes or goes: most changes are of few keys."""
REMEMBERED_SUBSCRIBERS = 64
"""Not those of a name that more want: telling them costs far more than finding them."""


class _Node:
    __slots__ = ("branches", "is_many", "many", "one", "subscribers")

    def __init__(self, is_many: bool = False) -> None:
        self.branches: dict[str, _Node] = {}
        """By the segments that stand for themselves."""
        self.one: _Node | None = None
        """The branch of `*`."""
        self.many: _Node | None = None
        """That of `**`."""
        self.is_many = is_many
        """Reached by `**`: stays reached whatever segment comes next."""
        self.subscribers: dict[int, int] = {}
        """Subscriber → how many times it asked for this very pattern."""

    @property
    def is_needed(self) -> bool:
        return bool(self.subscribers or self.branches or self.one or self.many)


class Interest:
    __slots__ = ("_found", "_root", "_segments", "_size")

    def __init__(self) -> None:
        self._root = _Node()
        self._segments: dict[str, int] = {}
        """The segments that stand for themselves, and how many branches each is of. Most names have
        one that none of the patterns has, and then there is nothing to look for at any node: with
        many patterns that would be in memory that no cache holds."""
        self._size = 0
        self._found: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        """Patterns that are subscribed to, each counted once for each time it was asked for."""
        return self._size

    def add(self, pattern: str, subscriber: int) -> None:
        node = self._root
        for segment in pattern.split("/"):
            node = self._branch(node, segment)
        node.subscribers[subscriber] = node.subscribers.get(subscriber, 0) + 1
        self._size += 1
        self._found = {}

    def _branch(self, node: _Node, segment: str) -> _Node:
        """The branch of a node, made if there is none."""
        if segment == "*":
            node.one = branch = node.one or _Node()
        elif segment == "**":
            node.many = branch = node.many or _Node(is_many=True)
        else:
            found = node.branches.get(segment)
            if found is not None:
                return found
            node.branches[segment] = branch = _Node()
            self._segments[segment] = self._segments.get(segment, 0) + 1
        return branch

    def remove(self, pattern: str, subscriber: int) -> None:
        """Take back one `add`, and the nodes that nobody needs any more."""
        path = [self._root]
        segments = pattern.split("/")
        for segment in segments:
            path.append(_branch_of(path[-1], segment))
        subscribers = path[-1].subscribers
        subscribers[subscriber] -= 1
        self._size -= 1
        self._found = {}
        if not subscribers[subscriber]:
            del subscribers[subscriber]
        while segments and not path.pop().is_needed:
            self._cut(path[-1], segments.pop())

    def _cut(self, node: _Node, segment: str) -> None:
        if segment == "*":
            node.one = None
        elif segment == "**":
            node.many = None
        else:
            del node.branches[segment]
            self._segments[segment] -= 1
            if not self._segments[segment]:
                del self._segments[segment]

    def remembers(self, name: str) -> bool:
        """Whether `find` was lately asked for it. Who checks the form of each name before that
        need not do so again."""
        return name in self._found

    def find(self, name: str) -> tuple[int, ...]:
        """The subscribers with a pattern that matches `name`, each once."""
        if not self._size:
            return ()
        found = self._found.get(name)
        if found is None:
            if len(self._found) >= REMEMBERED:
                self._found = {}
            found = self._search(name)
            if len(found) <= REMEMBERED_SUBSCRIBERS:
                self._found[name] = found
        return found

    def _search(self, name: str) -> tuple[int, ...]:
        ours = not name.startswith(RESERVED)
        reached: dict[_Node, None] = {self._root: None}
        if ours:
            _add_empty_many(self._root, reached)
        for segment in name.split("/"):
            known = segment in self._segments
            step: dict[_Node, None] = {}
            for node in reached:
                if node.is_many:
                    step[node] = None
                if known and (branch := node.branches.get(segment)) is not None:
                    _add(branch, step)
                if ours and node.one is not None:
                    _add(node.one, step)
            if not step:
                return ()
            reached = step
            ours = True
        found: dict[int, int] = {}
        for node in reached:
            found.update(node.subscribers)
        return tuple(found)


def _branch_of(node: _Node, segment: str) -> _Node:
    """One that is there."""
    return {"*": node.one, "**": node.many}.get(segment) or node.branches[segment]


def _add(node: _Node, reached: dict[_Node, None]) -> None:
    reached[node] = None
    _add_empty_many(node, reached)


def _add_empty_many(node: _Node, reached: dict[_Node, None]) -> None:
    """`**` stands for no segment too: what follows it is reached at once."""
    while (many := node.many) is not None:
        reached[many] = None
        node = many
