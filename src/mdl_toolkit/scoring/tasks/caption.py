"""Task ``caption``: descriptions in free words, with one or several references each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.measures.cider import cider
from mdl_toolkit.scoring.measures.fense import FenseMissingError, fense
from mdl_toolkit.scoring.measures.overlap import BLEU_COLUMNS, bleu_counts, bleu_scores, rouge_l
from mdl_toolkit.scoring.reading.lists import texts_of
from mdl_toolkit.scoring.reading.words import without_thinking, words
from mdl_toolkit.scoring.task import Answer, Floats, Formula, Judged, SumStatistics, Texts, ratio

#: Of fewer rows CIDEr hardly knows which words are rare.
_FEW = 30


class CaptionTask:
    """Compares captions with their references by CIDEr-D, BLEU, ROUGE-L and, where it is at hand, FENSE.

    Case, Unicode width and punctuation make no difference; scripts without blanks between words are compared
    by character. CIDEr weighs a word by how few rows of the whole table have it, in slices and draws too.
    """

    def judge(self, texts: Texts) -> Judged:
        """See :meth:`mdl_toolkit.scoring.task.Task.judge`."""
        wanted = [[text for text in texts_of(reference) if text.strip()] for reference in texts.references]
        counted = np.array([bool(references) for references in wanted])
        if not counted.any():
            raise UserError("no row has a reference: nothing to score")
        given = ["" if answer is None else _caption(answer) for answer in texts.predictions]
        measured, counts, remarks = _measure(
            [caption for caption, there in zip(given, counted, strict=True) if there],
            [references for references in wanted if references],
        )
        columns = {name: np.full(len(wanted), np.nan) for name in measured}
        values = np.zeros((len(wanted), len(measured) + BLEU_COLUMNS + 1))
        for number, (name, scores) in enumerate(measured.items()):
            columns[name][counted] = values[counted, number] = scores
        values[counted, len(measured) : -1] = counts
        values[counted, -1] = 1
        return Judged(
            SumStatistics(values, _formula(list(measured))),
            [None if np.isnan(value) else float(value) for value in columns.pop("cider")],
            columns={name: column.tolist() for name, column in columns.items()},
            left_out={"no reference": np.flatnonzero(~counted).tolist()},
            remarks=remarks,
        )


def _measure(
    given: Sequence[str], wanted: Sequence[Sequence[str]]
) -> tuple[dict[str, list[float]], Floats, list[str]]:
    """Each row's own scores by name, what BLEU counts in it, and what is to be said of that."""
    candidates = [words(caption) for caption in given]
    references = [[words(text) for text in row] for row in wanted]
    measured = {"cider": cider(candidates, references), "rouge_l": rouge_l(candidates, references)}
    remarks = []
    try:
        measured["fense"] = fense(given, wanted)
    except FenseMissingError as missing:
        remarks.append(str(missing))
    if len(given) < _FEW:
        remarks.append(f"CIDEr tells rare words by the references of all rows, and {len(given)} are few")
    return measured, bleu_counts(candidates, references), remarks


def _formula(measured: Sequence[str]) -> Formula:
    """Means of the rows' own scores, and BLEU of the sums of its counts."""

    def scores(sums: Floats) -> Mapping[str, Floats]:
        means = {name: ratio(sums[:, number], sums[:, -1]) for number, name in enumerate(measured)}
        return {**means, **bleu_scores(sums[:, len(measured) : -1])}

    return scores


def _caption(answer: Answer) -> str:
    return without_thinking(" ".join(texts_of(answer))).strip()
