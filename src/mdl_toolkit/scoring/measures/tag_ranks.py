"""Rows with several tags: average precision, F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.scoring.task import Floats, Places, ratio

#: A sparse matrix of scipy's, [rows, labels].
Sparse = Any


@dataclass(frozen=True)
class TagStatistics:
    """Rows by their true and given tags.

    Attributes:
        truth: 1.0 for each true tag, sparse [rows, labels].
        given: 1.0 for each tag given.
        unknown: How many tags given are no label, [rows].
        ranks: A number for each label that ranks the rows, the highest first, float32 [rows, labels];
            ``None``: rows that were given a tag rank before all others.
    """

    truth: Sparse
    given: Sparse
    unknown: Floats
    ranks: NDArray[np.float32] | None = None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.unknown)

    def scores(self, weights: Floats) -> Mapping[str, Floats]:
        """Mean average precision and macro F1, both over labels that are true in some row, and micro F1."""
        hits, support, given = (weights @ part for part in (self._hits, self.truth, self.given))
        f1 = np.nan_to_num(ratio(2 * hits, support + given))
        there = support > 0
        labels = there.sum(axis=1).astype(float)
        precision = self._precision(weights, hits, support, given)
        whole = support.sum(axis=1) + given.sum(axis=1) + weights @ self.unknown
        return {
            "map": ratio(np.where(there, precision, 0).sum(axis=1), labels),
            "micro_f1": ratio(2 * hits.sum(axis=1), whole),
            "macro_f1": ratio(np.where(there, f1, 0).sum(axis=1), labels),
        }

    def shares(self) -> Mapping[str, tuple[int, int]]:
        """None of the scores is a share of rows."""
        return {}

    def take(self, places: Places) -> TagStatistics:
        """Those of some rows."""
        ranks = None if self.ranks is None else self.ranks[places]
        return TagStatistics(self.truth[places], self.given[places], self.unknown[places], ranks)

    def per_label(self, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
        """``per_label`` of ``scores.json``: average precision, F1 and the number of rows with the tag.

        Args:
            labels: The names of the labels.
        """
        from sklearn.metrics import average_precision_score

        support, given, hits = (
            np.asarray(part.sum(axis=0)).ravel() for part in (self.truth, self.given, self._hits)
        )
        f1 = np.nan_to_num(ratio(2 * hits, support + given))
        found = {}
        for number, label in enumerate(labels):
            by = self.given[:, [number]].toarray() if self.ranks is None else self.ranks[:, [number]]
            truth = self.truth[:, [number]].toarray().ravel()
            ap = float(average_precision_score(truth, by.ravel())) if support[number] else None
            found[label] = {"ap": ap, "f1": float(f1[number]), "support": int(support[number])}
        return found

    @cached_property
    def _hits(self) -> Sparse:
        return self.truth.multiply(self.given).tocsr()

    def _precision(self, weights: Floats, hits: Floats, support: Floats, given: Floats) -> Floats:
        """The average precision of each label, [draws, labels]; anything where it has no true row."""
        if self.ranks is not None:
            return np.stack([ranking.average_precision(weights) for ranking in self._rankings], axis=1)
        # Two ranks: the rows given the tag, then the others.
        recall = np.nan_to_num(ratio(hits, support))
        share = ratio(support, np.broadcast_to(weights.sum(axis=1, keepdims=True), support.shape))
        return recall * np.nan_to_num(ratio(hits, given)) + (1 - recall) * share

    @cached_property
    def _rankings(self) -> list[_Ranking]:
        assert self.ranks is not None
        columns = self.truth.tocsc()
        return [
            _Ranking.of(self.ranks[:, number], columns[:, [number]].toarray().ravel() > 0)
            for number in range(self.ranks.shape[1])
        ]


@dataclass(frozen=True)
class _Ranking:
    """The rows in the order of their ranks for one label.

    Attributes:
        order: The rows, the highest rank first, int32 [rows].
        true: The places of the true rows in that order, [true].
        end: For each true row the last place with its rank.
        last: For each true row the number of the last true one with its rank.
    """

    order: NDArray[np.int32]
    true: Places
    end: Places
    last: Places

    @classmethod
    def of(cls, ranks: NDArray[np.float32], truth: NDArray[np.bool_]) -> _Ranking:
        order = np.argsort(-ranks, kind="stable")
        falling = -ranks[order]
        true = np.flatnonzero(truth[order])
        end = np.searchsorted(falling, falling[true], side="right") - 1
        last = np.searchsorted(true, end, side="right") - 1
        return cls(order.astype(np.int32), true, end, last)

    def average_precision(self, weights: Floats) -> Floats:
        """The mean over true rows of the precision among those ranked as high or higher, [draws]."""
        drawn = weights[:, self.order]
        positives = drawn[:, self.true]
        hits = positives.cumsum(axis=1)[:, self.last]
        seen = drawn.cumsum(axis=1)[:, self.end]
        return ratio((positives * np.nan_to_num(ratio(hits, seen))).sum(axis=1), positives.sum(axis=1))
