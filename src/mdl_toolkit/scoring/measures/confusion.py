"""Rows that have a true class and a given one: accuracy, F1, confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdl_toolkit.scoring.task import Floats, Places, ratio

#: Of more classes than this no confusion matrix is made: it would be unreadable, and as large as its square.
_MOST_IN_MATRIX = 500
#: The column of the matrix for answers that were read as no class.
NO_LABEL = "(no label)"


@dataclass(frozen=True)
class ClassStatistics:
    """Rows by their true and their given class.

    Attributes:
        truth: The true class of each row, int64 [rows]; -1: no score counts the row.
        given: The class that was given; -1: none.
        size: The number of classes.
        f1: Whether F1 is a score, too.
    """

    truth: Places
    given: Places
    size: int
    f1: bool = True

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.truth)

    @property
    def right(self) -> list[bool]:
        """Whether each row's given class is the true one."""
        return [bool(right) for right in (self.truth == self.given) & (self.truth >= 0)]

    def scores(self, weights: Floats) -> Mapping[str, Floats]:
        """Accuracy and, over the classes that are true in some row, the mean F1 and the one by support."""
        counted = self.truth >= 0
        support = self._per_class(weights, self.truth, counted)
        hits = self._per_class(weights, self.truth, counted & (self.truth == self.given))
        rows = support.sum(axis=1)
        accuracy = {"accuracy": ratio(hits.sum(axis=1), rows)}
        if not self.f1:
            return accuracy
        given = self._per_class(weights, self.given, counted & (self.given >= 0))
        f1 = np.nan_to_num(ratio(2 * hits, support + given))
        return {
            **accuracy,
            "macro_f1": ratio((f1 * (support > 0)).sum(axis=1), (support > 0).sum(axis=1).astype(float)),
            "weighted_f1": ratio((f1 * support).sum(axis=1), rows),
        }

    def shares(self) -> Mapping[str, tuple[int, int]]:
        """The rows whose given class is the true one, of those that count."""
        return {"accuracy": (sum(self.right), int((self.truth >= 0).sum()))}

    def take(self, places: Places) -> ClassStatistics:
        """Those of some rows."""
        return ClassStatistics(self.truth[places], self.given[places], self.size, self.f1)

    def details(self, labels: Sequence[str]) -> dict[str, Any]:
        """``per_class`` and ``confusion`` of ``scores.json``.

        Args:
            labels: The names of the classes.
        """
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

        counted = self.truth >= 0
        truth = self.truth[counted]
        given = np.where(self.given[counted] < 0, self.size, self.given[counted])
        if not len(truth):
            return {}
        classes = np.arange(self.size)
        measured = precision_recall_fscore_support(truth, given, labels=classes, zero_division=0)
        per_class = {
            label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for label, p, r, f, n in zip(labels, *measured, strict=True)
        }
        if self.size > _MOST_IN_MATRIX:
            return {"per_class": per_class}
        counts = confusion_matrix(truth, given, labels=np.arange(self.size + 1))[: self.size]
        return {
            "per_class": per_class,
            "confusion": {"labels": [*labels, NO_LABEL], "counts": counts.tolist()},
        }

    def _per_class(
        self, weights: Floats, classes: Places, counted: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> Floats:
        """The weights of the counted rows of each class, [draws, classes]."""
        chosen = classes[counted]
        found = np.empty((len(weights), self.size))
        for draw, weight in enumerate(weights):
            found[draw] = np.bincount(chosen, weight[counted], self.size)
        return found
