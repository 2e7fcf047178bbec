"""Task ``classification``: an answer is right where it names the row's label, and no other of the set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdl_toolkit.scoring.measures.confusion import ClassStatistics
from mdl_toolkit.scoring.reading.label_set import LabelSet
from mdl_toolkit.scoring.reading.lists import texts_of
from mdl_toolkit.scoring.task import Answer, Judged, Texts, UnfitRowError, shortened


class ClassificationTask:
    """Reads a label out of each answer.

    The label of a row is its reference, or the first where that is a list. Case, punctuation and Unicode
    width make no difference. Text of scripts without blanks between words has no word boundaries: a Chinese
    label is named wherever its characters stand, unless within a longer label that is named there.
    """

    def judge(self, texts: Texts) -> Judged:
        """See :meth:`mdl_toolkit.scoring.task.Task.judge`."""
        wanted = [next(iter(texts_of(reference)), "").strip() for reference in texts.references]
        labels = LabelSet(texts.labels if texts.labels is not None else sorted(set(wanted)))
        truth = [_true_label(labels, label, place) for place, label in enumerate(wanted)]
        answers = [None if given is None else _as_text(given) for given in texts.predictions]
        named = [() if answer is None else labels.named(answer) for answer in answers]
        given = [numbers[0] if len(numbers) == 1 else -1 for numbers in named]
        statistics = ClassStatistics(
            np.array(truth, dtype=np.int64), np.array(given, dtype=np.int64), len(labels)
        )
        right = statistics.right
        several = [place for place, numbers in enumerate(named) if len(numbers) > 1]
        none = [place for place, numbers in enumerate(named) if not numbers]
        return Judged(
            statistics,
            [None if label < 0 else float(correct) for label, correct in zip(truth, right, strict=True)],
            right,
            columns={"wanted": _named(labels, truth), "given": _named(labels, given)},
            details={
                **statistics.details(labels.labels),
                "unread": {"no_label": len(none), "several_labels": len(several)},
            },
            unread={"name no label": none, "name several labels": several},
            left_out={"no label in the reference": [place for place, label in enumerate(truth) if label < 0]},
        )


def _named(labels: LabelSet, numbers: Sequence[int]) -> list[str | None]:
    """The labels of numbers; ``None`` for none."""
    return [labels.labels[number] if number >= 0 else None for number in numbers]


def _true_label(labels: LabelSet, label: str, place: int) -> int:
    """The number of a reference's label; -1 where the reference is empty.

    Raises:
        UnfitRowError: It is none of the labels.
    """
    if not label:
        return -1
    number = labels.equal(label)
    if number is None:
        known = f"none of the {len(labels)} labels"
        raise UnfitRowError(place, f'the reference "{shortened(label)}" is {known}; add it to --labels')
    return number


def _as_text(answer: Answer) -> str:
    texts: Sequence[str] = texts_of(answer)
    return "; ".join(texts)
