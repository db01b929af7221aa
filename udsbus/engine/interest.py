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
    __slots__ = ("branches", "many", "subscribers")

    def __init__(self, many: bool = False) -> None:
        self.branches: dict[str, _Node] = {}
        self.many = many
        """Reached by `**`: stays reached whatever segment comes next."""
        self.subscribers: dict[int, int] = {}
        """Subscriber → how many times it asked for this very pattern."""


class Interest:
    __slots__ = ("_found", "_root", "_size")

    def __init__(self) -> None:
        self._root = _Node()
        self._size = 0
        self._found: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        """Patterns that are subscribed to, each counted once for each time it was asked for."""
        return self._size

    def add(self, pattern: str, subscriber: int) -> None:
        node = self._root
        for segment in pattern.split("/"):
            branch = node.branches.get(segment)
            if branch is None:
                branch = node.branches[segment] = _Node(many=segment == "**")
            node = branch
        node.subscribers[subscriber] = node.subscribers.get(subscriber, 0) + 1
        self._size += 1
        self._found = {}

    def remove(self, pattern: str, subscriber: int) -> None:
        """Take back one `add`, and the nodes that nobody needs any more."""
        path = [self._root]
        segments = pattern.split("/")
        for segment in segments:
            path.append(path[-1].branches[segment])
        subscribers = path[-1].subscribers
        subscribers[subscriber] -= 1
        self._size -= 1
        self._found = {}
        if not subscribers[subscriber]:
            del subscribers[subscriber]
        for parent, segment in zip(reversed(path[:-1]), reversed(segments), strict=True):
            node = parent.branches[segment]
            if node.subscribers or node.branches:
                break
            del parent.branches[segment]

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
            step: dict[_Node, None] = {}
            for node in reached:
                if node.many:
                    step[node] = None
                branches = node.branches
                if segment in branches:
                    _add(branches[segment], step)
                if ours and "*" in branches:
                    _add(branches["*"], step)
            if not step:
                return ()
            reached = step
            ours = True
        found: dict[int, int] = {}
        for node in reached:
            found.update(node.subscribers)
        return tuple(found)


def _add(node: _Node, reached: dict[_Node, None]) -> None:
    reached[node] = None
    _add_empty_many(node, reached)


def _add_empty_many(node: _Node, reached: dict[_Node, None]) -> None:
    """`**` stands for no segment too: what follows it is reached at once."""
    while (many := node.branches.get("**")) is not None:
        reached[many] = None
        node = many
