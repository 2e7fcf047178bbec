"""What an output says of an answer beside its text: how likely it is, and what else it might have been."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mdl_toolkit.data.input.csvfile import text_cell
from mdl_toolkit.generation.answer import Answer, Choices
from mdl_toolkit.infer.columns import (
    MEAN_LOGPROB,
    MIN_LOGPROB,
    N_BEST,
    PROBABILITY,
    RUNNER_UP,
    RUNNER_UP_PROBABILITY,
)
from mdl_toolkit.settings import InferenceSettings


@dataclass(frozen=True)
class Confidence:
    """What is wanted beside the answers.

    Attributes:
        scores: Probabilities of the answers' tokens.
        choices: What belongs to an answer that is chosen.
        n_best: Several answers of a beam search, the most probable first.
    """

    scores: bool = False
    choices: bool = False
    n_best: bool = False

    @classmethod
    def of(cls, settings: InferenceSettings, choices: bool) -> Confidence:
        """What options ask for.

        Args:
            settings: The options of the command.
            choices: Whether answers are chosen among given ones.
        """
        return cls(settings.scores, choices, settings.n_best is not None)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that there are for it."""
        return (
            *((MEAN_LOGPROB, MIN_LOGPROB) if self.scores else ()),
            *((PROBABILITY,) if self.scores or self.choices else ()),
            *((RUNNER_UP, RUNNER_UP_PROBABILITY) if self.choices else ()),
            *((N_BEST,) if self.n_best else ()),
        )

    @property
    def needs_logprobs(self) -> bool:
        """Whether generated answers need the log-probabilities of their tokens."""
        return self.scores or self.n_best

    def values(
        self, answer: Answer, choices: Choices | None, decode: Callable[[list[int]], str]
    ) -> dict[str, Any]:
        """The values of the columns, as JSON has them.

        Args:
            answer: The answer.
            choices: Those it was chosen among.
            decode: Makes the text of an answer's tokens.
        """
        logprobs = answer.logprobs or []
        found: dict[str, Any] = {
            MEAN_LOGPROB: rounded(sum(logprobs) / len(logprobs)) if logprobs else None,
            MIN_LOGPROB: rounded(min(logprobs)) if logprobs else None,
            PROBABILITY: _probability(answer),
        }
        if choices is not None and answer.ranked is not None:
            found[PROBABILITY] = rounded(answer.ranked[0][1])
            second, probability = answer.ranked[1]
            found |= {RUNNER_UP: choices.texts[second], RUNNER_UP_PROBABILITY: rounded(probability)}
        if self.n_best:
            found[N_BEST] = _different(answer, decode)
        return {name: found[name] for name in self.columns}


def _probability(answer: Answer) -> float | None:
    return None if answer.logprob is None else rounded(math.exp(min(0.0, answer.logprob)))


def _different(answer: Answer, decode: Callable[[list[int]], str]) -> list[dict[str, Any]]:
    """The answers that differ as texts, the most probable first; each with that of its likeliest form."""
    found: dict[str, float | None] = {}
    for one in (answer, *answer.others):
        found.setdefault(decode(one.tokens), _probability(one))
    return [{"text": text, "probability": probability} for text, probability in found.items()]


def rounded(value: float) -> float | None:
    """Seven digits after the point, or seven digits that say something; ``None`` for what is no number."""
    if not math.isfinite(value):
        return None
    return (round(value, 7) if abs(value) >= 1 else float(f"{value:.7g}")) + 0.0


def as_cell(value: Any) -> Any:
    """A value for a CSV: numbers as plain decimals, lists as JSON."""
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return text_cell(value) if isinstance(value, str) else value
