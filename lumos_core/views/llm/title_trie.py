"""The titles of a catalog as a tree of tokens, and the walk of one generated list through it.

At every step the model may write only tokens that lead to a title it may still choose. The
separator of the list ends a title; behind it the next title begins.
"""

from collections.abc import Collection, Sequence


class TitleTrie:
    """All titles as token paths; made once per catalog and tokenizer.

    Args:
        titles: token ids of items 1..N, none empty. Equal ones are one path with several items.
    """

    def __init__(self, titles: Sequence[Sequence[int]]) -> None:
        self.children: list[dict[int, int]] = [{}]
        """Node -> token -> node; 0 is the root."""
        self.counts: list[int] = [0]
        """Node -> number of items at or below it."""
        self.ends: list[list[int]] = [[]]
        """Node -> items whose title ends there, in catalog order."""
        self._paths: list[list[int]] = []
        for item, tokens in enumerate(titles, start=1):
            self._add(item, tokens)

    @property
    def depth(self) -> int:
        """Number of tokens of the longest title."""
        return max(map(len, self._paths), default=1) - 1

    def path(self, item: int) -> list[int]:
        """The nodes from the root to the end of an item's title."""
        return self._paths[item - 1]

    def _add(self, item: int, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ValueError(f"item {item} has a title without tokens")
        node, path = 0, [0]
        for token in tokens:
            if token not in self.children[node]:
                self.children[node][token] = len(self.children)
                self.children.append({})
                self.counts.append(0)
                self.ends.append([])
            node = self.children[node][token]
            path.append(node)
        for passed in path:
            self.counts[passed] += 1
        self.ends[node].append(item)
        self._paths.append(path)


class Walk:
    """The state of one list of different titles while it is written.

    Args:
        trie: the catalog's.
        pools: for each position of the list the items to choose from, None for all. When a pool is
            used up, any item may be chosen.
        taken: items that must not be chosen, such as the history's.
        separator: token ids behind every title; not empty.
        stop: token id that ends the list.
    """

    def __init__(
        self,
        trie: TitleTrie,
        pools: Sequence[Collection[int] | None],
        taken: Collection[int],
        separator: Sequence[int],
        stop: int,
    ) -> None:
        self.chosen: list[int] = []
        """Catalog indices in the order written; fewer than pools if no item was left."""
        self.done = False
        self._trie, self._pools, self._separator, self._stop = trie, pools, separator, stop
        self._taken: set[int] = set()
        self._taken_at: dict[int, int] = {}  # node -> taken items at or below it
        for item in set(taken):
            self._take(item)
        self._forced: list[int] = []
        self._pool: set[int] | None = None
        self._pool_at: dict[int, int] = {}  # node -> items of the pool at or below it
        self._node = 0
        self._begin()

    def allowed(self) -> list[int]:
        """Token ids that may come next; never empty."""
        if self.done:
            return [self._stop]
        if self._forced:
            return self._forced[:1]
        steps = self._trie.children[self._node]
        tokens = [token for token, child in steps.items() if self._open(child)]
        return tokens if self._item_here() is None else [*tokens, self._separator[0]]

    def advance(self, token: int) -> None:
        """Record the token that was written, one of :meth:`allowed`."""
        if self.done:
            return
        if self._forced:
            self._forced.pop(0)
            return
        item = self._item_here()
        if item is None or token != self._separator[0]:
            self._node = self._trie.children[self._node][token]
            return
        self.chosen.append(item)
        self._take(item)
        self._forced = list(self._separator[1:])
        self._begin()

    def _begin(self) -> None:
        """Start the next title."""
        self._node, self._pool = 0, None
        if len(self.chosen) == len(self._pools):
            self.done = True
            return
        pool = self._pools[len(self.chosen)]
        if pool is not None and (left := set(pool) - self._taken):
            self._pool, self._pool_at = left, {}
            for item in left:
                for node in self._trie.path(item):
                    self._pool_at[node] = self._pool_at.get(node, 0) + 1
        self.done = not self._open(0)

    def _open(self, node: int) -> bool:
        """Whether an item at or below the node may be chosen."""
        if self._pool is not None:
            return node in self._pool_at
        return self._trie.counts[node] > self._taken_at.get(node, 0)

    def _item_here(self) -> int | None:
        """The item that is chosen if the title ends here."""
        options = (item for item in self._trie.ends[self._node] if item not in self._taken)
        return next((i for i in options if self._pool is None or i in self._pool), None)

    def _take(self, item: int) -> None:
        self._taken.add(item)
        for node in self._trie.path(item):
            self._taken_at[node] = self._taken_at.get(node, 0) + 1
