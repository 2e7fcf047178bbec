"""Task ``tagging``: rows have several tags, as a list or divided by ``;``."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.measures.tag_ranks import Sparse, TagStatistics
from mdl_toolkit.scoring.reading.label_set import LabelSet
from mdl_toolkit.scoring.reading.lists import tags_of
from mdl_toolkit.scoring.task import Answer, Judged, Texts, UnfitRowError, shortened


class TaggingTask:
    """Reads tags out of each answer: a label is given where one of the answer's tags is it, or names it.

    Average precision ranks rows by ``tag_scores`` where the table has them (a label that a row's scores don't
    have ranks last), else by whether the tag was given.
    """

    def judge(self, texts: Texts) -> Judged:
        """See :meth:`mdl_toolkit.scoring.task.Task.judge`."""
        wanted = [_tags(reference) for reference in texts.references]
        known = texts.labels if texts.labels is not None else sorted({tag for tags in wanted for tag in tags})
        labels = LabelSet(known)
        if not len(labels):
            raise UserError("no reference has a tag: nothing to score")
        truth = [_true_tags(labels, tags, place) for place, tags in enumerate(wanted)]
        answers = [[] if answer is None else _tags(answer) for answer in texts.predictions]
        named = [[labels.named(tag) for tag in tags] for tags in answers]
        given = [{number for numbers in row for number in numbers} for row in named]
        unknown = [sum(not numbers for numbers in row) for row in named]
        statistics = TagStatistics(
            _matrix(truth, len(labels)),
            _matrix(given, len(labels)),
            np.array(unknown, dtype=np.float64),
            None if texts.tag_scores is None else _ranks(texts.tag_scores, labels),
        )
        return Judged(
            statistics,
            [_f1(*row) for row in zip(truth, given, unknown, strict=True)],
            [row[0] == row[1] and not row[2] for row in zip(truth, given, unknown, strict=True)],
            columns={"given": ["; ".join(labels.labels[number] for number in sorted(row)) for row in given]},
            details={"per_label": statistics.per_label(labels.labels), "unread": {"tags": sum(unknown)}},
            unread={"have tags that are no label": [p for p, number in enumerate(unknown) if number]},
            remarks=_remarks(texts, wanted),
        )


def _tags(answer: Answer) -> list[str]:
    """The tags of a cell; a text without ``;`` is one."""
    tags = tags_of(answer)
    return [answer.strip()] * bool(answer.strip()) if tags is None and isinstance(answer, str) else tags or []


def _true_tags(labels: LabelSet, tags: Sequence[str], place: int) -> set[int]:
    found = set()
    for tag in tags:
        number = labels.equal(tag)
        if number is None:
            known = f"none of the {len(labels)} labels"
            raise UnfitRowError(place, f'the tag "{shortened(tag)}" is {known}; add it to --labels')
        found.add(number)
    return found


def _matrix(rows: Sequence[set[int]], labels: int) -> Sparse:
    from sklearn.preprocessing import MultiLabelBinarizer

    return MultiLabelBinarizer(classes=range(labels), sparse_output=True).fit_transform(rows).astype(float)


def _ranks(scores: Sequence[Mapping[str, float] | None], labels: LabelSet) -> NDArray[np.float32]:
    """For each label the rows' places in the order of their numbers, from 1; 0 where a row has no number.

    The numbers themselves would be too large, or in half the memory no longer different.
    """
    rows = [array("q") for _ in range(len(labels))]
    values = [array("d") for _ in range(len(labels))]
    places: dict[str, int | None] = {}
    for row, by_tag in enumerate(scores):
        for tag, value in (by_tag or {}).items():
            if tag not in places:
                places[tag] = labels.equal(tag)
            number = places[tag]
            if number is not None and not math.isnan(value):
                rows[number].append(row)
                values[number].append(value)
    ranks = np.zeros((len(scores), len(labels)), dtype=np.float32)
    for number in range(len(labels)):
        order = np.unique(np.array(values[number]), return_inverse=True)[1]
        ranks[np.array(rows[number]), number] = order + 1
    return ranks


def _f1(truth: set[int], given: set[int], unknown: int) -> float:
    """The F1 of one row's tags; 1 where there are none and none were given."""
    whole = len(truth) + len(given) + unknown
    return 2 * len(truth & given) / whole if whole else 1.0


def _remarks(texts: Texts, wanted: Sequence[Sequence[str]]) -> list[str]:
    lines = []
    if texts.tag_scores is None:
        lines.append("average precision ranks by the tags given: there is no column `tag_scores`")
    else:
        without = sum(not scores for scores in texts.tag_scores)
        if without:
            lines.append(f"{without} of {len(texts.tag_scores)} rows have no `tag_scores`: they rank last")
    if max(map(len, wanted)) == 1 and any("," in tags[0] for tags in wanted if tags):
        lines.append("no reference has several tags: tags are divided by `;`, not by `,`")
    return lines
