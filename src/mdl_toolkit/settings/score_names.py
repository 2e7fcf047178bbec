"""The names of tasks and scores, the libraries they need, and which are better when lower.

Standard library alone.
"""

from __future__ import annotations

import importlib.util

#: The tasks by which answers are scored, and the scores of each; the first one counts most.
SCORES = {
    "asr": ("wer", "cer"),
    "classification": ("accuracy", "macro_f1", "weighted_f1"),
    "tagging": ("map", "micro_f1", "macro_f1"),
    "choice": ("accuracy",),
    "qa": ("f1", "exact_match"),
    "caption": ("cider", "rouge_l", "bleu1", "bleu2", "bleu3", "bleu4"),
    "exact": ("accuracy",),
}
#: The score that counts most for each task.
MAIN_SCORE = {task: scores[0] for task, scores in SCORES.items()}
#: The libraries of the extra ``evaluate`` that a task needs, by their names for ``import``.
_LIBRARIES = {
    "classification": ("sklearn",),
    "choice": ("sklearn",),
    "tagging": ("sklearn",),
    "caption": ("sacrebleu", "rouge_score"),
    "asr": ("jiwer", "whisper_normalizer", "opencc", "cn2an"),
}
#: Scores that are better when lower; all others are better when higher.
_LOWER_IS_BETTER = frozenset({"loss", "wer", "cer", "ece"})


def is_lower_better(name: str) -> bool:
    """Whether a lower value of a score is better.

    Args:
        name: The score, also as metrics have it: ``wer``, ``eval_wer``, ``eval_loss/old``.
    """
    return name.partition("/")[0].removeprefix("eval_") in _LOWER_IS_BETTER


def missing_libraries(task: str) -> list[str]:
    """A problem if libraries that a task needs aren't installed; nothing is imported to find out."""
    missing = [name for name in _LIBRARIES.get(task, ()) if importlib.util.find_spec(name) is None]
    if not missing:
        return []
    what = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    return [f"scores of {task} need the evaluate extra ({what}): pip install 'mdl-toolkit[evaluate]'"]
