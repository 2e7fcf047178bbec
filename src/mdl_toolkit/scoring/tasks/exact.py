"""Task ``exact``: an answer is right where it is the reference, whatever blanks are around it and in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mdl_toolkit.scoring.task import Answer, Floats, Judged, SumStatistics, Texts, every_of, ratio


class ExactTask:
    """Right is what equals the reference, or one of several, letter by letter."""

    def judge(self, texts: Texts) -> Judged:
        """See :meth:`mdl_toolkit.scoring.task.Task.judge`."""
        correct = [
            given is not None and _plain(given) in {_plain(reference) for reference in every_of(wanted)}
            for wanted, given in zip(texts.references, texts.predictions, strict=True)
        ]
        values = np.stack([np.array(correct, dtype=np.float64), np.ones(len(correct))], axis=1)
        statistics = SumStatistics(values, _accuracy, counted={"accuracy": (0, 1)})
        return Judged(statistics, [float(right) for right in correct], correct)


def _plain(answer: Answer) -> str:
    return " ".join(" ".join(every_of(answer)).split())


def _accuracy(sums: Floats) -> Mapping[str, Floats]:
    return {"accuracy": ratio(sums[:, 0], sums[:, 1])}
