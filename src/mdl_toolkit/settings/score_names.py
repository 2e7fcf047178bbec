"""The names of scores: which counts for a task, and which are better when lower. Standard library alone."""

from __future__ import annotations

#: The tasks by which answers are scored, and the score that counts most for each.
MAIN_SCORE = {
    "asr": "wer",
    "classification": "accuracy",
    "tagging": "map",
    "choice": "accuracy",
    "qa": "f1",
    "caption": "cider",
    "exact": "accuracy",
}
#: Scores that are better when lower; all others are better when higher.
_LOWER_IS_BETTER = frozenset({"loss", "wer", "cer", "ece"})


def is_lower_better(name: str) -> bool:
    """Whether a lower value of a score is better.

    Args:
        name: The score, also as metrics have it: ``wer``, ``eval_wer``, ``eval_loss/old``.
    """
    return name.partition("/")[0].removeprefix("eval_") in _LOWER_IS_BETTER
