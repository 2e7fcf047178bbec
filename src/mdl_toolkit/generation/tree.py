"""Sequences of tokens as trees, in which beginnings that several have are there once.

Dimensions: N nodes of a tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

#: Nodes of a tree at most, but for a single longer sequence: each node is compared with all, so that the
#: work grows with the square.
MAX_NODES = 256


@dataclass(frozen=True, eq=False)
class TokenTree:
    """Some sequences; a node is a token after those above it.

    A node's state says how likely each next token is. What comes first is said by the state of the prompt: it
    has number 0, and that of node n number n + 1. Last tokens that nothing follows are no nodes.

    Attributes:
        tokens: int64 [N] the nodes' tokens, parents before their children.
        parents: int64 [N] the node above each; −1: the prompt.
        depths: int64 [N] nodes above each.
        edges: The steps that any sequence takes, once each: the number of a state, and the token after it.
        members: The places of the sequences among all that were given.
        paths: The steps of each of these sequences, by their places in ``edges``.
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    depths: NDArray[np.int64]
    edges: NDArray[np.int64]
    members: list[int]
    paths: list[list[int]]

    @cached_property
    def sees(self) -> NDArray[np.bool_]:
        """[N, N] whether a node sees another: itself, and those above it."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def grow_trees(sequences: Sequence[Sequence[int]], most: int = MAX_NODES) -> list[TokenTree]:
    """The trees of some sequences: as few as may be, those that begin alike together.

    Args:
        sequences: Ids, one at least in each.
        most: Nodes of a tree.
    """
    order = sorted(range(len(sequences)), key=lambda place: tuple(sequences[place]))
    trees: list[TokenTree] = []
    members: list[int] = []
    nodes = 0
    before: Sequence[int] = ()
    for place in order:
        sequence = sequences[place]
        new = len(sequence) - 1 - min(_shared(before, sequence), len(sequence) - 1)
        if members and nodes + new > most:
            trees.append(_tree(sequences, members))
            members, nodes, new = [], 0, len(sequence) - 1
        members.append(place)
        nodes, before = nodes + new, sequence
    return [*trees, _tree(sequences, members)] if members else trees


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of tokens with which both begin."""
    same = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        same += 1
    return same


def _tree(sequences: Sequence[Sequence[int]], members: list[int]) -> TokenTree:
    nodes: dict[tuple[int, int], int] = {}
    edges: dict[tuple[int, int], int] = {}
    depths: list[int] = []
    paths = []
    for place in members:
        path, state = [], 0
        for depth, token in enumerate(sequences[place]):
            path.append(edges.setdefault((state, token), len(edges)))
            if depth + 1 < len(sequences[place]):
                if (state, token) not in nodes:
                    nodes[state, token] = len(nodes)
                    depths.append(depth)
                state = nodes[state, token] + 1
        paths.append(path)
    return TokenTree(
        tokens=np.array([token for _, token in nodes], dtype=np.int64),
        parents=np.array([state - 1 for state, _ in nodes], dtype=np.int64),
        depths=np.array(depths, dtype=np.int64),
        edges=np.array(list(edges), dtype=np.int64).reshape(-1, 2),
        members=members,
        paths=paths,
    )
