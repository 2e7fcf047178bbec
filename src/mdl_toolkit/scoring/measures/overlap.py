"""BLEU and ROUGE-L, by the libraries that have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mdl_toolkit.scoring.measures.cider import Tokens
from mdl_toolkit.scoring.task import Floats, ratio

#: Columns of :func:`bleu_counts`: n-grams found and there are, of one to four words, and both lengths.
BLEU_COLUMNS = 10
_ORDERS = 4


def bleu_counts(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Floats:
    """What sacrebleu counts in each caption, float64 [rows, 10]; corpus BLEU follows from the sums.

    Args:
        candidates: The captions, divided into words.
        references: The references of each.
    """
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(tokenize="none", smooth_method="none", force=True)
    counts = np.zeros((len(candidates), BLEU_COLUMNS))
    for row, tokens, wanted in zip(counts, candidates, references, strict=True):
        found = bleu.corpus_score([" ".join(tokens)], [[" ".join(reference)] for reference in wanted])
        row[:] = [*found.counts, *found.totals, found.sys_len, found.ref_len]
    return counts


def bleu_scores(sums: Floats) -> Mapping[str, Floats]:
    """Corpus BLEU of one to four words, with the penalty for brevity and no smoothing.

    Args:
        sums: Sums of :func:`bleu_counts` over rows, [draws, 10].
    """
    hits, totals = sums[:, :_ORDERS], sums[:, _ORDERS : 2 * _ORDERS]
    given, wanted = sums[:, -2], sums[:, -1]
    with np.errstate(divide="ignore"):
        logs = np.log(np.nan_to_num(ratio(hits, totals)))
        brevity = np.minimum(0, 1 - np.nan_to_num(ratio(wanted, given), nan=np.inf))
    means = logs.cumsum(axis=1) / np.arange(1, _ORDERS + 1)
    return {f"bleu{order + 1}": np.exp(means[:, order] + brevity) for order in range(_ORDERS)}


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """The F1 of the longest common subsequence with the reference that fits best, of each caption.

    Args:
        candidates: The captions, divided into words.
        references: The references of each.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Divided())
    return [
        max(scorer.score(" ".join(reference), " ".join(tokens))["rougeL"].fmeasure for reference in wanted)
        for tokens, wanted in zip(candidates, references, strict=True)
    ]


class _Divided:
    """Words that are divided by blanks already; the library's own tokenizer knows Latin letters alone."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()
